"""Train every network for slices under one equal budget and judge all on the same test patients, with several seeds.

    python examples/compare.py                                                      phantoms, to see it work
    python examples/compare.py --data data/lungs --img-size 256 --steps 20000 --seeds 0 1 2 --out runs/compare
    python examples/compare.py --data data/lungs --img-size 256 --seconds 3600 --out runs/compare

All networks see the same slices in the same order, in batches of the same size, with the same loss, augmentation and
schedule; each has the learning rate of its own that its script recommends for this size. The budget is a number of
optimizer steps, or of seconds, in whole epochs. Each training is a command that is printed, and can be run by itself.
Started again with the same --out, it goes on where it was stopped. In --out there will be

    comparison.md, comparison.csv     the table: networks by lesion size, beside the original report's
    worst_median_best.png             three slices of each network
    <network>_seed<n>/                each training (docs/run.md)
"""

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.data.slices import SliceDataset, check_folder
from lungseg.draw import prediction_sheet
from lungseg.evaluation.metrics import worst_median_best
from lungseg.evaluation.scores import (
    FEWEST_PATIENTS,
    ImageScore,
    bootstrap,
    known_spacings,
    rows_of_table,
    score_all,
    scores_per_image,
    unit_remark,
)  # fmt: skip
from lungseg.evaluation.tables import MAIN, Column, markdown_table, write_csv
from lungseg.exits import leave, run_main
from lungseg.files import or_warn, whole_file
from lungseg.flags import option, parse_options
from lungseg.predictor import load_predictor
from lungseg.report import beside_the_report
from lungseg.training.contents import digest, list_contents
from lungseg.training.data import draw_slices, find_data
from lungseg.training.distributed import start_processes
from lungseg.training.lock import locked
from lungseg.training.log import RunLog
from lungseg.training.recipe import RunOptions, TrainingRecipe

HERE = Path(__file__).resolve().parent
NETWORKS = {  # name -> the script that trains it, and sizes that a CPU can afford
    "Swin-UNet": "train_swin.py --patch-size 4 --embed-dim 48 --depths 2 2 2 --num-heads 3 6 12 --window-size 8 "
    "--drop-path-rate 0.1 --lr 5e-4",
    "UNETR": "train_unetr.py --patch-size 8 --embed-dim 192 --depth 6 --num-heads 3 --feature-size 8 "
    "--skip-layers 2 4 --lr 5e-4",
    "ResNet50-U-Net": "train_resnet.py --stem 32 --widths 32 64 128 256 --depths 3 4 6 3 "
    "--decoder-channels 128 64 32 16 16 --lr 1e-3",
    "U-Net": "train_unet.py --channels 16 32 64 128 256 --lr 1e-3",
}
SHARED = "--augment full --schedule cosine --warmup-epochs 1 --threads 0"
COLUMNS = [column for column in MAIN if column.key not in ("rmse", "pooled_dice", "lesions")]


@dataclass(frozen=True)
class Comparison:
    """Everything that decides what the table says."""

    data: Path | None = option(None, "folder of slices with the splits train, val and test; none makes phantoms")
    out: Path = option(Path("runs/compare"), "folder of the trainings and tables")
    steps: int = option(450, "optimizer steps for each network, rounded to whole epochs")
    seconds: float | None = option(None, "seconds for each network instead; an epoch of each is timed first")
    seeds: tuple[int, ...] = option((0, 1), "one training of each network for each; two are the least worth printing")
    img_size: int = option(
        64, "side in pixels to which slices are resized: 64 is for windows round a nodule, whole slices need 256"
    )
    batch_size: int = option(8, "slices per optimizer step")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "where to compute; auto takes a GPU if there is one")
    images: bool = option(True, "show the slices in the picture; not if they must not leave your machine")

    def __post_init__(self) -> None:
        if min(self.steps, self.img_size, self.batch_size) < 1 or (self.seconds is not None and not self.seconds > 0):
            raise ValueError(
                f"steps={self.steps}, img_size={self.img_size}, batch_size={self.batch_size} and "
                f"seconds={self.seconds} must be positive"
            )
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds} must be different numbers from 0 on")


def main(argv: list[str] | None = None) -> dict[str, float] | int:
    """Return the mean Dice of each network, or an exit code: 2 for what the user can mend, 130 for Ctrl-C."""
    options = parse_options(Comparison(), argv, description=__doc__)
    return run_main(
        "compare.py",
        lambda: compare_alone(options),
        stopped="The same command goes on from here.",
        too_little_memory="Lower --img-size or --batch-size.",
    )


def compare_alone(options: Comparison) -> dict[str, float]:
    """`compare`, if no other process writes into --out."""
    with locked(options.out):
        return compare(options)


def compare(options: Comparison) -> dict[str, float]:
    """Find the slices, train, judge, write."""
    if options.data is not None:  # before any file: a bad folder shall leave no trace
        check_test(SliceDataset(find_data(options.data, check_folder), "test"))
    check_same_comparison(options)
    data = options.data or draw_phantoms(options)
    test = SliceDataset(data, "test")
    epochs = {name: epochs_of(name, data, options) for name in NETWORKS}
    for seed in options.seeds:
        for name in NETWORKS:
            train(name, data, options, epochs[name], seed)
    rows, scores = [], {}
    for name in NETWORKS:
        scores[name] = judge(name, test, options)
        cost = {"network": name} | cost_of(name, options, epochs[name])
        rows += [cost | per_training(row, len(options.seeds)) for row in rows_of_table(scores[name])]
    remarks = [spread(scores, options), differences(scores), unit_remark(test, known_spacings(test))]
    if len(test.classes) > 1:
        remarks.append(f"Scored are lesions of any class, not which of {', '.join(test.classes)} they are.")
    dice = write(options, data, rows, " ".join(filter(None, remarks)))
    with or_warn("worst_median_best.png was not drawn"):
        pictures = [row for name in NETWORKS for row in three_rows(name, test, scores[name], options)]
        sheet = prediction_sheet(pictures, scale=max(1, 128 // options.img_size))
        sheet.save(options.out / "worst_median_best.png", optimize=True)
    return dice


def check_test(test: SliceDataset) -> None:
    if not any(target.any() for _, target, _ in test):
        raise ValueError(f"No test slice of {test.folder} holds a lesion, so there would be no Dice to compare.")


# ---- training ---------------------------------------------------------------------------------------------------


def check_same_comparison(options: Comparison) -> None:
    """Remember the settings in --out; refuse to go on there with others, for then the table would mix two."""
    wanted = {name: value for name, value in asdict(options).items() if name not in ("out", "device", "images")}
    wanted["contents"] = options.data and digest(list_contents(options.data))  # phantoms are drawn again as they were
    text = json.dumps(wanted, indent=1, default=str) + "\n"
    file = options.out / "compare.json"
    if file.exists():
        if file.read_text() != text:
            raise ValueError(f"{options.out} holds a comparison with other settings or data. Choose another --out.")
    elif any(path.name[0] != "." for path in options.out.iterdir()):
        raise ValueError(f"{options.out} is not empty, and holds no comparison. Choose another --out.")
    with whole_file(file) as partial:
        partial.write_text(text)


def draw_phantoms(options: Comparison) -> Path:
    """Windows round phantom nodules, as in the demo of each script, of fewer patients."""
    recipe = TrainingRecipe(img_size=options.img_size, phantom_patients=200)
    return draw_slices(recipe, RunOptions(out=options.out, seed=min(options.seeds)))


def epochs_of(name: str, data: Path, options: Comparison) -> int:
    """The budget in whole epochs; for seconds, those of one epoch of training are measured first."""
    if options.seconds is None:
        steps_per_epoch = math.ceil(len(SliceDataset(data, "train")) / options.batch_size)
        return max(1, round(options.steps / steps_per_epoch))
    train(name, data, options, epochs=1, seed=options.seeds[0], kind="trial")
    return max(1, int(options.seconds / log_of(folder_of(name, options, "trial"))[1]["seconds"]))


def folder_of(name: str, options: Comparison, kind: str) -> Path:
    return options.out / f"{name.lower().replace('-', '_')}_{kind}"


def train(name: str, data: Path, options: Comparison, epochs: int, seed: int, kind: str = "") -> None:
    """Run one training script, from the beginning or from where it was stopped; not again if it is finished."""
    folder = folder_of(name, options, kind or f"seed{seed}")
    if "best epoch" in log_of(folder)[-1]:
        return
    script, *sizes = NETWORKS[name].split()
    flags = f"--img-size {options.img_size} --batch-size {options.batch_size} {SHARED} --epochs {epochs} --seed {seed}"
    places = ["--data", str(data), "--out", str(folder)]
    command = [sys.executable, str(HERE / script), *places, *sizes, *flags.split(), "--device", options.device]
    if (folder / "recipe.json").exists():  # it was stopped; without that file, before it had trained anything
        command.append("--resume")
    print(f"\n$ {shlex.join(command)}", flush=True)
    done = subprocess.run(command)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise ValueError(f"the training of {name} with seed {seed} ended with an error, which stands above.")


def log_of(folder: Path) -> list[dict]:
    """The lines of a run's log, or one empty one: first the settings, then an epoch each, last the test."""
    file = folder / "log.jsonl"
    lines = RunLog(file, enabled=False).lines() if file.exists() else []
    return lines or [{}]


def cost_of(name: str, options: Comparison, epochs: int) -> dict[str, int | float]:
    """Parameters, epochs, and minutes of one training, validation included; the mean over the seeds."""
    folders = [folder_of(name, options, f"seed{seed}") for seed in options.seeds]
    seconds = [line.get("seconds", 0.0) for folder in folders for line in log_of(folder)]
    network = load_predictor(folders[0] / "best.pt").network
    parameters = sum(p.numel() for p in network.parameters())
    return {"parameters": parameters, "epochs": epochs, "minutes": sum(seconds) / len(folders) / 60}


# ---- judging ----------------------------------------------------------------------------------------------------


def judge(name: str, test: SliceDataset, options: Comparison) -> list[ImageScore]:
    """The scores of every test slice by every seed's network, one seed after the other.

    A mean over all of them is the mean over the seeds, and drawing whole patients draws a patient's slices with all
    seeds: the interval speaks of the patients.
    """
    scores = []
    for seed in options.seeds:
        predict = prediction_of(name, options, seed)
        scores += score_all(test, lambda image, _, predict=predict: predict(image) > 0.5, title=f"{name}, seed {seed}")
    return scores


def per_training(row: dict, trainings: int) -> dict:
    """A row over several trainings, with its counts of slices, lesions and finds as the mean of one training."""
    counts = {name: value / trainings for name, value in row.items() if isinstance(value, int) and name != "patients"}
    return row | {name: int(value) if value.is_integer() else value for name, value in counts.items()}


def prediction_of(name: str, options: Comparison, seed: int) -> Callable[[NDArray], NDArray]:
    """(H, W) image in [0, 1] -> probabilities of lesion (of any class), by the best epoch of one training."""
    with start_processes(options.device) as processes:
        predictor = load_predictor(folder_of(name, options, f"seed{seed}") / "best.pt", processes.device)
    return lambda image: predictor.any_class(predictor.probs(image))


def three_rows(name: str, test: SliceDataset, scores: list[ImageScore], options: Comparison) -> list[tuple]:
    """The worst, median and best slice of the first seed's network, for `prediction_sheet`."""
    predict = prediction_of(name, options, options.seeds[0])
    dice = scores_per_image(scores[: len(test)])["dice"]
    rows = []
    for place, i in worst_median_best(dice):
        image, target = (x.amax(dim=0).numpy() for x in test[i][:2])  # (H, W); lesions of any class
        caption = f"{name}\n{place}\nDice {dice[i]:.3f}\n{scores[i].diameter:.0f} {scores[i].unit}"
        rows.append((caption, image if options.images else None, target, predict(image)))
    return rows


# ---- telling ----------------------------------------------------------------------------------------------------


def write(options: Comparison, data: Path, rows: list[dict], remarks: str) -> dict[str, float]:
    """The tables on the screen and in --out; returns the mean Dice of each network."""
    whole = [row for row in rows if row["stratum"] == "all"]
    sizes = [row for row in rows if row["stratum"] != "all"]
    seeds = ", ".join(map(str, options.seeds))
    text = "\n\n".join(
        [
            f"# Every network on {data.name}, seeds {seeds}",
            markdown_table(whole, (Column("parameters", "parameters"), Column("epochs", "epochs"),
                                   Column("minutes", "minutes", decimals=1), *COLUMNS), names=("network",)),
            markdown_table(sorted(sizes, key=lambda r: [s["stratum"] for s in sizes].index(r["stratum"])), COLUMNS,
                           names=("stratum", "network")),
            f"Means over {len(options.seeds)} trainings of each network; in parentheses the middle 95 % of 2,000 draws "
            "of whole patients, which do not show how far one training differs from the next.",
            remarks,
            beside_the_report({row["network"]: row for row in whole}),
        ]
    )  # fmt: skip
    (options.out / "comparison.md").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    write_csv(options.out / "comparison.csv", rows)
    print(f"\n{text}\n\nWritten to {options.out}.")
    return {row["network"]: row["dice"] for row in whole}


def spread(scores: dict[str, list[ImageScore]], options: Comparison) -> str:
    """One sentence: the mean test Dice of each training, in the order of the seeds."""
    parts = []
    for name, of_all in scores.items():
        dice = np.nanmean(scores_per_image(of_all)["dice"].reshape(len(options.seeds), -1), axis=1)  # (seeds,)
        parts.append(f"{name} {', '.join(f'{d:.3f}' for d in dice)}")
    return f"Mean Dice of each: {'; '.join(parts)}."


def differences(scores: dict[str, list[ImageScore]]) -> str:
    """One sentence on what the highest mean Dice is worth: nothing, where 0 lies in the interval of the difference.

    The differences are paired: both networks are judged on the same draws of patients, so that patients who are hard
    for both do not blur them.
    """
    drawn = {name: bootstrap(of_all)["dice"] for name, of_all in scores.items()}
    if len({s.group for s in next(iter(scores.values()))}) < FEWEST_PATIENTS:
        return ""
    best = max(drawn, key=lambda name: np.nanmean(drawn[name]))
    parts = []
    for name in drawn:
        if name != best:
            low, high = np.nanpercentile(drawn[best] - drawn[name], [2.5, 97.5])
            parts.append(f"{name} {low:.3f} to {high:.3f}")
    return f"Dice of {best}, the highest mean here, minus that of the others, 95 %: {'; '.join(parts)}."


if __name__ == "__main__":
    leave(main())
