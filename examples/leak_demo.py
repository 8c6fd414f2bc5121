"""Measure by how much a leaking split overstates the Dice: one network and one budget, with three ways to split.

    python examples/leak_demo.py --out runs/leak                    phantom patients, 4 minutes on one CPU core
    python examples/leak_demo.py --data DIR --patients 12 --steps 3000 --out runs/leak

DIR is a folder of slices (docs/data/folder.md). Patients of its test split are never seen: no procedure trains or tests
on them. Of the others, --patients are drawn. Each of their slices becomes --copies samples: itself, and augmented ones.

    augment, then split              samples are divided at random: copies of one slice are on both sides
    split by slice, then augment     slices are divided at random: slices of one patient are on both sides
    split by patient, then augment   no patient is on both sides

Each procedure has equally many training samples, test samples and steps, and the same first weights. It reports the
Dice of its own test samples. Then the same network is scored on the patients that were never seen. In --out, a new or
empty folder, there will be leak_demo.md and leak_demo.csv (the table), leak_demo.png and, without --data, phantoms/.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lungseg.charts import bar_chart
from lungseg.data.augment import Augmentation
from lungseg.data.phantoms.folders import write_phantom_folder
from lungseg.data.slices import SliceDataset, check_folder
from lungseg.data.splits import split_by_group
from lungseg.evaluation.comparison import difference_remark, independent_difference
from lungseg.evaluation.scores import ImageScore, score_all
from lungseg.evaluation.strata import Row, table_row
from lungseg.evaluation.tables import Column, markdown_table, write_csv
from lungseg.exits import leave, run_main
from lungseg.files import check_free, or_warn, whole_folder
from lungseg.flags import check_fields, not_negative, option, parse_options
from lungseg.losses import dice_bce_loss
from lungseg.nn.unet import UNet
from lungseg.training.batches import train_batches
from lungseg.training.data import refuse
from lungseg.training.distributed import start_processes
from lungseg.training.machine import keep_freed_memory, seed_everything
from lungseg.training.optim import make_optimizer, make_schedules
from lungseg.training.recipe import TrainingRecipe
from lungseg.training.step import train_one_epoch

LEAKY, BY_SLICE, BY_PATIENT = "augment, then split", "split by slice, then augment", "split by patient, then augment"
PROCEDURES = (LEAKY, BY_SLICE, BY_PATIENT)
UNSEEN_PHANTOMS = 40  # phantom patients that are never seen: scoring is cheap, and many patients narrow the interval
AUGMENT = Augmentation()  # rotation, flips, elastic deformation, brightness, contrast
COLUMNS = (
    Column("share of test samples whose patient is in training", "shared", decimals=2),
    Column("Dice it reports (95 %)", "reported", with_interval=True),
    Column("Dice on never-seen patients (95 %)", "unseen", with_interval=True),
    Column("overstated by (95 %)", "gap", with_interval=True),
)
ENDS = ("", "_low", "_high")  # of the keys of a row: a value and its interval
Sample = tuple[int, int]  # (slice, copy): copy 0 is the slice itself, the others are augmented
Sides = tuple[list[Sample], list[Sample]]  # training samples, test samples


@dataclass(frozen=True)
class Outcome:
    """What one procedure led to: for each test sample whether its patient is also in training, and the scores."""

    shared: list[bool]
    reported: list[ImageScore]  # of the test samples
    unseen: list[ImageScore]  # of the never-seen patients

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(self.shared + other.shared, self.reported + other.reported, self.unseen + other.unseen)


@dataclass(frozen=True)
class LeakDemo:
    """All settings that decide what the table says."""

    data: Path | None = option(None, "folder of slices with a test split; without it, phantoms are drawn")
    out: Path = option(Path("runs/leak"), "folder of the results, new or empty")
    patients: int = option(24, "patients for training and test, others for each seed if there are enough; or all")
    slices: int = option(4, "slices of each phantom patient, close to each other")
    copies: int = option(5, "samples made of each slice, with itself; the report made 3,400 of 708, about 5 of each")
    steps: int = option(750, "optimizer steps of each training, rounded to whole epochs")
    seeds: tuple[int, ...] = option(
        (0, 1, 2), "each draws the patients, the splits, the augmentation and the first weights", check=not_negative
    )
    img_size: int = option(64, "side in pixels to resize slices to: 64 for crops around a nodule, 256 for whole slices")
    batch_size: int = option(4, "samples per optimizer step")
    channels: tuple[int, ...] = option((8, 16, 32, 64), "channels of each stage of the U-Net; each halves the sides")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "where to compute; auto takes a GPU if there is one")

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must be different numbers")
        if self.copies < 2 or self.patients < 4:
            raise ValueError("expected at least 4 patients and 2 copies, otherwise nothing could leak")


# ---- the three ways to split ------------------------------------------------------------------------------------


def divide(procedure: str, groups: Sequence[str], copies: int, seed: int) -> Sides:
    """Training and test samples of n slices, of which `groups` (n,) are the patients; a third of them is for the test.

    Every procedure has equally many of each: `copies` for each training slice, and one for each test slice.
    """
    of_patients = np.array(split_by_group(groups, {"train": 2 / 3, "test": 1 / 3}, seed=seed))
    num_test = int((of_patients == "test").sum())
    rng = np.random.default_rng(seed)
    if procedure == LEAKY:
        order = [divmod(k, copies) for k in rng.permutation(copies * len(groups)).tolist()]  # (slice, copy)
        num_train = copies * (len(groups) - num_test)
        return order[:num_train], order[num_train:][:num_test]
    is_test = of_patients == "test"
    if procedure == BY_SLICE:
        is_test = rng.permutation(is_test)
    train, test = np.flatnonzero(~is_test).tolist(), np.flatnonzero(is_test).tolist()
    return [(i, copy) for i in train for copy in range(copies)], [(i, 0) for i in test]


def draw_patients(data: SliceDataset, number: int, seed: int) -> list[int]:
    """The slices of `number` patients outside the test split, or of all; other patients for the next seed."""
    known = sorted({record.group for record in data.records if record.split != "test"})
    if len(known) < 4:
        raise ValueError(f"{data.folder} has {len(known)} patients outside its test split. Expected at least 4.")
    order = np.roll(np.random.default_rng(0).permutation(len(known)), -seed * number)
    chosen = {known[k] for k in order[:number]}
    return [i for i, record in enumerate(data.records) if record.group in chosen]


class Samples(Dataset):
    """Samples of a folder, as (image (1, H, W) in [0, 1], target (1, H, W) in {0, 1}: lesion of any class, id)."""

    classes = ()

    def __init__(self, data: SliceDataset, samples: Sequence[Sample], seed: int):
        self.data, self.samples, self.seed, self.folder = data, samples, seed, data.folder
        self.records = [replace(data.records[i], id=f"{data.records[i].id}, copy {copy}") for i, copy in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor, str]:
        i, copy = self.samples[k]
        image, target, _ = self.data[i]
        target = target.amax(dim=0, keepdim=True)  # (1, H, W)
        if copy:  # the same copy whenever it is read: it was made once, before training
            rng = np.random.default_rng([self.seed, copy, i])
            changed = AUGMENT(image[0].numpy(), target[0].numpy().astype(np.uint8), rng)
            image, target = (torch.from_numpy(array)[None].float() for array in changed)
        return image, target, self.records[k].id


# ---- training and scoring ---------------------------------------------------------------------------------------


def train(samples: Samples, options: LeakDemo, device: torch.device) -> nn.Module:
    """A U-Net after `steps` optimizer steps on these samples."""
    seed_everything(samples.seed, device)  # the same first weights for every procedure
    model = UNet(channels=options.channels).to(device)
    batches = train_batches(samples, options.batch_size, seed=samples.seed)
    epochs = max(1, round(options.steps / len(batches)))
    recipe = TrainingRecipe(lr=1e-3, epochs=epochs, warmup_epochs=1)  # as in train_unet.py
    optimizer = make_optimizer(recipe, model)
    schedule, _ = make_schedules(recipe, optimizer, steps_per_epoch=len(batches))
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        title = f"epoch {epoch + 1} of {epochs}"
        train_one_epoch(model, batches, dice_bce_loss, optimizer, schedule=schedule, grad_clip=1.0, title=title)
    return model.eval()


@torch.no_grad()
def score(model: nn.Module, samples: Samples, device: torch.device, title: str) -> list[ImageScore]:
    """The scores of each sample."""

    def predict(image: NDArray, _: object) -> NDArray:
        logits = model(torch.from_numpy(image)[None, None].to(device))  # (1, 1, H, W)
        return (logits[0, 0] > 0).cpu().numpy()

    return score_all(samples, predict, title=title, in_mm=False)


def run_seed(data: SliceDataset, options: LeakDemo, seed: int, device: torch.device) -> dict[str, Outcome]:
    """Split, train and score with each procedure."""
    patients = [record.group for record in data.records]
    known = draw_patients(data, options.patients, seed)
    unseen = Samples(data, [(i, 0) for i, record in enumerate(data.records) if record.split == "test"], seed)
    outcomes = {}
    for procedure in PROCEDURES:
        sides = divide(procedure, [patients[i] for i in known], options.copies, seed)
        training, test = (Samples(data, [(known[k], copy) for k, copy in side], seed) for side in sides)
        print(f"seed {seed}, {procedure}: {len(training)} training samples, {len(test)} test samples", flush=True)
        model = train(training, options, device)
        trained_on = {record.group for record in training.records}
        shared = [record.group in trained_on for record in test.records]
        of_unseen = score(model, unseen, device, "never-seen patients")
        outcomes[procedure] = Outcome(shared, score(model, test, device, "test samples"), of_unseen)
    return outcomes


# ---- the table and the picture ----------------------------------------------------------------------------------


def make_row(procedure: str, seed: str, outcome: Outcome) -> Row:
    """The mean Dice on test samples and on never-seen patients, and their difference, each with its interval."""
    row: Row = {"procedure": procedure, "seed": seed, "shared": float(np.mean(outcome.shared))}
    for name, scores in (("reported", outcome.reported), ("unseen", outcome.unseen)):
        whole = table_row(scores)
        row |= {f"{name}{end}": whole[f"dice{end}"] for end in ENDS}
    gap = independent_difference(outcome.reported, outcome.unseen)
    return row | {f"gap{end}": value for end, value in zip(ENDS, gap, strict=True)}


def make_report(name: str, rows: list[Row], together: dict[str, Outcome], seeds: Sequence[int]) -> str:
    """Markdown: the table over all seeds, and how to read it."""
    unseen = {procedure: outcome.unseen for procedure, outcome in together.items()}
    slices, patients = len(unseen[LEAKY]) // len(seeds), len({x.group for x in unseen[LEAKY]})
    parts = [
        f"# Three ways to split {name}, seeds {', '.join(map(str, seeds))}",
        markdown_table(rows, COLUMNS, names=("procedure",)),
        f"Mean Dice of {len(seeds)} training runs per procedure, on its own test samples and on {slices} slices of "
        f"{patients} never-seen patients; in parentheses, 95 % intervals from 2,000 bootstrap draws of patients. "
        "They show how much patients differ, not whether a split leaks.",
        difference_remark(unseen) and f"On the never-seen patients: {difference_remark(unseen)}",
    ]
    return "\n\n".join(filter(None, parts))


def draw_bars(rows: list[Row]) -> Image.Image:
    """The table over all seeds as bars with intervals."""
    names = {"reported": "test Dice that it reports", "unseen": "Dice of the same network on never-seen patients"}
    bars = {}
    for row in rows:
        group = str(row["procedure"]).replace(", ", ",\n")
        bars[group] = {title: tuple(row[f"{name}{end}"] for end in ENDS) for name, title in names.items()}
    return bar_chart(bars, x_label="mean Dice, 95 % intervals by patient")


# ---- everything -------------------------------------------------------------------------------------------------


def open_slices(options: LeakDemo, out: Path) -> SliceDataset:
    """The folder, once it was found to be in order, or phantoms; its test split must hold a lesion."""
    if options.data is None:
        number = options.patients * len(options.seeds) + UNSEEN_PHANTOMS
        unseen = UNSEEN_PHANTOMS / number
        about = {"view": "nodule", "num_patients": number, "slices_per_patient": options.slices}
        about |= {"size": options.img_size, "fractions": {"train": 1 - unseen, "test": unseen}}
        write_phantom_folder(out / "phantoms", seed=min(options.seeds), **about)
    folder = options.data or out / "phantoms"
    if not any(target.any() for _, target, _ in SliceDataset(folder, "test", size=options.img_size)):
        raise ValueError(f"No test slice of {folder} holds a lesion, so there would be no Dice to compare.")
    return SliceDataset(folder, size=options.img_size)


def leak_demo(options: LeakDemo) -> dict[str, float]:
    """Train and score every procedure with every seed; write the table and the picture; return each overstatement."""
    check_free(options.out)
    if options.data is not None:
        refuse(check_folder(options.data))
    with whole_folder(options.out) as out, start_processes(options.device) as processes:
        data = open_slices(options, out)
        if processes.device.type == "cpu":
            keep_freed_memory()
        results = {seed: run_seed(data, options, seed, processes.device) for seed in options.seeds}
        together = {name: reduce(add, (outcomes[name] for outcomes in results.values())) for name in PROCEDURES}
        rows = [make_row(name, "all", outcome) for name, outcome in together.items()]
        text = make_report(data.folder.name, rows, together, options.seeds)
        (out / "leak_demo.md").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        each = [make_row(name, str(seed), of_seed[name]) for seed, of_seed in results.items() for name in of_seed]
        write_csv(out / "leak_demo.csv", rows + each)
        with or_warn("leak_demo.png was not drawn"):
            draw_bars(rows).save(out / "leak_demo.png", optimize=True)
    print(f"\n{text}\n\nWritten to {options.out}.")
    return {str(row["procedure"]): float(row["gap"]) for row in rows}


def main(argv: list[str] | None = None) -> dict[str, float] | int:
    """Return by how much each procedure overstates the Dice, or an exit code: 2 for an error, 130 for Ctrl-C."""
    options = parse_options(LeakDemo(), argv, description=__doc__)
    stopped, remedy = f"{options.out} was not written.", "Lower --img-size or --batch-size."
    return run_main("leak_demo.py", lambda: leak_demo(options), stopped=stopped, too_little_memory=remedy)


if __name__ == "__main__":
    leave(main())
