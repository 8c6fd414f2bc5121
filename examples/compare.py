"""Train every 2-D network under one equal budget and evaluate all on the same test patients, with several seeds.

    python examples/compare.py                                                      phantoms, to see it work
    python examples/compare.py --data data/lungs --img-size 256 --steps 20000 --seeds 0 1 2 --out runs/compare
    python examples/compare.py --data data/lungs --img-size 256 --seconds 3600 --out runs/compare

All networks see the same slices in the same order, in batches of the same size, with the same loss, augmentation and
schedule; each has its own learning rate, which its script recommends for this size. The budget is a number of optimizer
steps, or of seconds, in whole epochs. Each training run is a command that is printed and can be run by itself. Started
again with the same --out, the comparison continues where it was stopped. In --out there will be

    comparison.md, comparison.csv     the table: networks by lesion size, and the original report's
    worst_median_best.png             three slices of each network
    <network>_seed<n>/                each training run (docs/runs.md)
"""

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.data.slices import SliceDataset, check_folder
from lungseg.draw import prediction_sheet
from lungseg.evaluation.pictures import worst_median_best_rows
from lungseg.evaluation.scores import ImageScore, known_spacings, score_all, scores_per_image, unit_remark  # fmt: skip
from lungseg.evaluation.strata import FEWEST_PATIENTS, bootstrap, table_rows  # fmt: skip
from lungseg.evaluation.tables import MAIN, Column, markdown_table, write_csv
from lungseg.exits import leave, run_main
from lungseg.files import or_warn, whole_file
from lungseg.flags import option, parse_options
from lungseg.predictor import load_predictor
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

SCORES = ("dice", "iou", "rmse", "recall")
REPORT = {  # network -> its SCORES, with the digits of Table 3 of the report and of what it quotes; None: not stated
    "Swin-UNet": (0.7969, 0.7143, 0.01193, 0.7927),
    "UNETR": (0.8063, 0.6772, 0.0223, 0.7727),
    "ResNet50-U-Net": (0.7558, 0.6754, 0.0147, 0.7760),
    "U-Net": (0.862, None, None, None),
    "RRC-U-Net": (0.8777, 0.7274, None, None),
}
TITLES = {"U-Net": "U-Net (quoted)", "RRC-U-Net": "RRc-UNet 3D (quoted)"}  # quoted from others


@dataclass(frozen=True)
class Comparison:
    """All settings that decide what the table says."""

    data: Path | None = option(None, "folder of slices with the splits train, val and test; none makes phantoms")
    out: Path = option(Path("runs/compare"), "folder of the training runs and tables")
    steps: int = option(450, "optimizer steps for each network, rounded to whole epochs")
    seconds: float | None = option(None, "seconds for each network instead; an epoch of each is timed first")
    seeds: tuple[int, ...] = option((0, 1), "one training run of each network per seed; use at least two")
    img_size: int = option(
        64, "side in pixels to which slices are resized: 64 is for crops around a nodule, whole slices need 256"
    )
    batch_size: int = option(8, "slices per optimizer step")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "where to compute; auto takes a GPU if there is one")
    images: bool = option(True, "show the slices in the picture; --no-images if they must not leave your machine")

    def __post_init__(self) -> None:
        if min(self.steps, self.img_size, self.batch_size) < 1 or (self.seconds is not None and not self.seconds > 0):
            raise ValueError(
                f"steps={self.steps}, img_size={self.img_size}, batch_size={self.batch_size} and "
                f"seconds={self.seconds} must be positive"
            )
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds} must be different numbers from 0 on")


def main(argv: list[str] | None = None) -> dict[str, float] | int:
    """Return the mean Dice of each network, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    options = parse_options(Comparison(), argv, description=__doc__)
    return run_main(
        "compare.py",
        lambda: compare_alone(options),
        stopped="The same command continues from here.",
        too_little_memory="Lower --img-size or --batch-size.",
    )


def compare_alone(options: Comparison) -> dict[str, float]:
    """`compare`, if no other process writes into --out."""
    with locked(options.out):
        return compare(options)


def compare(options: Comparison) -> dict[str, float]:
    """Find the slices, train, evaluate, write."""
    if options.data is not None:  # before any file: a bad folder must leave no trace
        check_test(SliceDataset(find_data(options.data, check_folder), "test"))
    check_same_comparison(options)
    data = options.data or draw_phantoms(options)
    test = SliceDataset(data, "test")
    epochs = {name: count_epochs(name, data, options) for name in NETWORKS}
    for seed in options.seeds:
        for name in NETWORKS:
            train(name, data, options, epochs[name], seed)
    rows, scores = [], {}
    for name in NETWORKS:
        scores[name] = evaluate(name, test, options)
        cost = {"network": name} | training_cost(name, options, epochs[name])
        rows += [cost | per_run(row, len(options.seeds)) for row in table_rows(scores[name])]
    remarks = [seed_remark(scores, options), difference_remark(scores), unit_remark(test, known_spacings(test))]
    if len(test.classes) > 1:
        remarks.append(f"Lesions of any class are scored, not whether they are {', '.join(test.classes)}.")
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
    """Keep the settings in --out; refuse other settings there, which would mix two comparisons in one table."""
    settings = {name: value for name, value in asdict(options).items() if name not in ("out", "device", "images")}
    settings["contents"] = options.data and digest(list_contents(options.data))  # phantoms are drawn again as they were
    text = json.dumps(settings, indent=1, default=str) + "\n"
    file = options.out / "compare.json"
    if file.exists():
        if file.read_text() != text:
            raise ValueError(f"{options.out} holds a comparison with other settings or data. Choose another --out.")
    elif any(path.name[0] != "." for path in options.out.iterdir()):
        raise ValueError(f"{options.out} is not empty, and holds no comparison. Choose another --out.")
    with whole_file(file) as partial:
        partial.write_text(text)


def draw_phantoms(options: Comparison) -> Path:
    """Crops around phantom nodules, as in the demo of each script, but of fewer patients."""
    recipe = TrainingRecipe(img_size=options.img_size, phantom_patients=200)
    return draw_slices(recipe, RunOptions(out=options.out, seed=min(options.seeds)))


def count_epochs(name: str, data: Path, options: Comparison) -> int:
    """The budget in whole epochs; for a budget in seconds, one epoch is timed first."""
    if options.seconds is None:
        steps_per_epoch = math.ceil(len(SliceDataset(data, "train")) / options.batch_size)
        return max(1, round(options.steps / steps_per_epoch))
    train(name, data, options, epochs=1, seed=options.seeds[0], kind="trial")
    return max(1, int(options.seconds / read_log(run_folder(name, options, "trial"))[1]["seconds"]))


def run_folder(name: str, options: Comparison, kind: str) -> Path:
    return options.out / f"{name.lower().replace('-', '_')}_{kind}"


def train(name: str, data: Path, options: Comparison, epochs: int, seed: int, kind: str = "") -> None:
    """Run one training script, from the beginning or from where it was stopped, unless it is finished."""
    folder = run_folder(name, options, kind or f"seed{seed}")
    if "best epoch" in read_log(folder)[-1]:
        return
    script, *sizes = NETWORKS[name].split()
    flags = f"--img-size {options.img_size} --batch-size {options.batch_size} {SHARED} --epochs {epochs} --seed {seed}"
    places = ["--data", str(data), "--out", str(folder)]
    command = [sys.executable, str(HERE / script), *places, *sizes, *flags.split(), "--device", options.device]
    if (folder / "recipe.json").exists():  # it was stopped after it had begun to train
        command.append("--resume")
    print(f"\n$ {shlex.join(command)}", flush=True)
    done = subprocess.run(command)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise ValueError(f"the training of {name} with seed {seed} ended with the error above.")


def read_log(folder: Path) -> list[dict]:
    """The lines of the log of a run, or one empty line: first the settings, then one per epoch, last the test."""
    file = folder / "log.jsonl"
    lines = RunLog(file, enabled=False).lines() if file.exists() else []
    return lines or [{}]


def training_cost(name: str, options: Comparison, epochs: int) -> dict[str, int | float]:
    """Parameters, epochs, and minutes of one training run, validation included; the mean over the seeds."""
    folders = [run_folder(name, options, f"seed{seed}") for seed in options.seeds]
    seconds = [line.get("seconds", 0.0) for folder in folders for line in read_log(folder)]
    network = load_predictor(folders[0] / "best.pt").network
    parameters = sum(p.numel() for p in network.parameters())
    return {"parameters": parameters, "epochs": epochs, "minutes": sum(seconds) / len(folders) / 60}


# ---- evaluating ----------------------------------------------------------------------------------------------------


def evaluate(name: str, test: SliceDataset, options: Comparison) -> list[ImageScore]:
    """The scores of every test slice by every seed's network, one seed after the other.

    A mean over all of them is the mean over the seeds. Drawing whole patients draws the slices of a patient with all
    seeds, so the interval is about patients, not about seeds.
    """
    scores = []
    for seed in options.seeds:
        predict = load_prediction(name, options, seed)
        scores += score_all(test, lambda image, _, predict=predict: predict(image) > 0.5, title=f"{name}, seed {seed}")
    return scores


def per_run(row: dict, runs: int) -> dict:
    """A row over several runs, with its counts of slices, lesions and detections as the mean over runs."""
    counts = {name: value / runs for name, value in row.items() if isinstance(value, int) and name != "patients"}
    return row | {name: int(value) if value.is_integer() else value for name, value in counts.items()}


def load_prediction(name: str, options: Comparison, seed: int) -> Callable[[NDArray], NDArray]:
    """(H, W) image in [0, 1] -> probabilities of lesion (of any class), from the best epoch of one run."""
    with start_processes(options.device) as processes:
        predictor = load_predictor(run_folder(name, options, f"seed{seed}") / "best.pt", processes.device)
    return lambda image: predictor.any_class(predictor.probs(image))


def three_rows(name: str, test: SliceDataset, scores: list[ImageScore], options: Comparison) -> list[tuple]:
    """The worst, median and best slice of the first seed's network, for `prediction_sheet`."""
    probs = load_prediction(name, options, options.seeds[0])
    dice = scores_per_image(scores[: len(test)])["dice"]

    def caption(place: str, i: int) -> str:
        return f"{name}\n{place}\nDice {dice[i]:.3f}\n{scores[i].diameter:.0f} {scores[i].unit}"

    rows = worst_median_best_rows(test, dice, lambda _, image: probs(image), caption)
    return rows if options.images else [(text, None, target, found) for text, _, target, found in rows]


# ---- the tables ----------------------------------------------------------------------------------------------------


def write(options: Comparison, data: Path, rows: list[dict], remarks: str) -> dict[str, float]:
    """Write the tables to the screen and to --out; return the mean Dice of each network."""
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
            f"Means over {len(options.seeds)} training runs of each network; in parentheses 95 % intervals from 2,000 "
            "bootstrap draws of whole patients, which do not show how much one run differs from the next.",
            remarks,
            report_table({row["network"]: row for row in whole}),
        ]
    )  # fmt: skip
    (options.out / "comparison.md").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    write_csv(options.out / "comparison.csv", rows)
    print(f"\n{text}\n\nWritten to {options.out}.")
    return {row["network"]: row["dice"] for row in whole}


def seed_remark(scores: dict[str, list[ImageScore]], options: Comparison) -> str:
    """One sentence: the mean test Dice of each run, in the order of the seeds."""
    parts = []
    for name, of_all in scores.items():
        dice = np.nanmean(scores_per_image(of_all)["dice"].reshape(len(options.seeds), -1), axis=1)  # (seeds,)
        parts.append(f"{name} {', '.join(f'{d:.3f}' for d in dice)}")
    return f"Mean Dice of each: {'; '.join(parts)}."


def difference_remark(scores: dict[str, list[ImageScore]]) -> str:
    """One sentence on the highest mean Dice: it shows nothing where the interval of a difference contains 0.

    The differences are paired: both networks are evaluated on the same draws of patients, so that patients who are
    difficult for both do not widen the intervals.
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


# ---- the original report ---------------------------------------------------------------------------------------


def report_table(ours: Mapping[str, Mapping[str, float]]) -> str:
    """The table of the original report next to ours, in Markdown, and a paragraph on how to read it.

    Args:
        ours: name of a network -> its mean scores by the names of SCORES, or NaN. Networks not in REPORT get a row too.
    """
    lines = ["| network | " + " | ".join(f"{name}: report | ours" for name in SCORES) + " |", "|---" * 9 + "|"]
    for name in {**REPORT, **ours}:
        here = [ours.get(name, {}).get(score, math.nan) for score in SCORES]
        cells = [TITLES.get(name, name)]
        for theirs, mine in zip(REPORT.get(name, (None,) * len(SCORES)), here, strict=True):
            cells += ["–" if theirs is None else f"{theirs}", "–" if math.isnan(mine) else f"{mine:.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    possible = [contradiction(TITLES.get(name, name), *theirs[:2]) for name, theirs in REPORT.items()]
    paragraph = (
        "Data, size, training and averaging differ, so the numbers of the report (its Table 3, and what it quotes) are "
        "no target to beat. For means over the same images, IoU <= Dice <= 2 IoU / (1 + IoU) must hold."
    )
    return "\n".join([*lines, "", " ".join([paragraph, *possible])])


def contradiction(name: str, dice: float, iou: float | None) -> str:
    """One sentence: whether this mean Dice and this mean IoU can be of the same images.

    For one image Dice = 2 IoU / (1 + IoU), which is concave: the mean Dice is at most that of the mean IoU (Jensen).
    """
    if iou is None:
        return f"{name} states no IoU."
    bound = 2 * iou / (1 + iou)
    if iou <= dice <= bound:
        return f"{name} is possible: {iou} <= {dice} <= {bound:.4f}."
    return f"{name} contradicts itself: {dice} is outside {iou} to {bound:.4f}."


if __name__ == "__main__":
    leave(main())
