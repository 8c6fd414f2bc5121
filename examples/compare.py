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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from numpy.typing import NDArray

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset, check_folder
from lungseg.draw import prediction_sheet
from lungseg.evaluation.comparison import dice_iou_remark, difference_remark, per_run, seed_remark
from lungseg.evaluation.metrics import worst_median_best
from lungseg.evaluation.pictures import prediction_rows
from lungseg.evaluation.scores import ImageScore, known_spacings, score_all, scores_per_image, unit_remark
from lungseg.evaluation.strata import table_rows
from lungseg.evaluation.tables import MAIN, Column, markdown_table, write_csv
from lungseg.exits import leave, run_main
from lungseg.files import or_warn, whole_file
from lungseg.flags import check_fields, not_negative, option, parse_options, positive
from lungseg.predictor import Predictor, load_predictor
from lungseg.training.contents import digest, list_contents
from lungseg.training.data import draw_slices, find_data
from lungseg.training.distributed import start_processes
from lungseg.training.lock import locked
from lungseg.training.log import RunLog
from lungseg.training.recipe import RunOptions, TrainingRecipe

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

    data: Path | None = option(None, "folder of slices with splits train, val and test; without it, phantoms are drawn")
    out: Path = option(Path("runs/compare"), "folder of the training runs and tables")
    steps: int = option(450, "optimizer steps for each network, rounded to whole epochs")
    seconds: float | None = option(None, "seconds for each network instead; one epoch is timed first", check=positive)
    seeds: tuple[int, ...] = option((0, 1), "one run of each network per seed; use at least two", check=not_negative)
    img_size: int = option(64, "side in pixels to resize slices to: 64 for crops around a nodule, 256 for whole slices")
    batch_size: int = option(8, "slices per optimizer step")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "where to compute; auto takes a GPU if there is one")
    images: bool = option(True, "show the slices in the picture; --no-images if they must not leave your machine")

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must be different numbers")


def main(argv: list[str] | None = None) -> dict[str, float] | int:
    """Return the mean Dice of each network, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    options = parse_options(Comparison(), argv, description=__doc__)
    stopped, remedy = "The same command continues from here.", "Lower --img-size or --batch-size."
    return run_main("compare.py", lambda: compare(options), stopped=stopped, too_little_memory=remedy)


def compare(options: Comparison) -> dict[str, float]:
    """Find the slices, train, evaluate and write, unless another process is writing into --out."""
    with locked(options.out):
        if options.data is not None:  # before any file: a bad folder must leave no trace
            find_data(options.data, check_folder)
            check_test(SliceDataset(options.data, "test"))
        check_same_comparison(options)
        data = options.data or draw_phantoms(options)
        epochs = {name: count_epochs(name, data, options) for name in NETWORKS}
        for seed in options.seeds:
            for name in NETWORKS:
                train(name, data, options, epochs[name], seed)
        test = SliceDataset(data, "test")
        scores = {name: score_runs(name, test, options) for name in NETWORKS}
        dice = write_tables(options, test, scores, epochs)
        with or_warn("worst_median_best.png was not drawn"):
            rows = [row for name in NETWORKS for row in three_predictions(name, test, scores[name], options)]
            sheet = prediction_sheet(rows, scale=max(1, 128 // options.img_size))
            sheet.save(options.out / "worst_median_best.png", optimize=True)
        return dice


def check_test(test: SliceDataset) -> None:
    """Refuse a test split without a lesion."""
    if not any(target.any() for _, target, _ in test):
        raise ValueError(f"No test slice of {test.folder} holds a lesion, so there would be no Dice to compare.")


# ---- training ---------------------------------------------------------------------------------------------------


def check_same_comparison(options: Comparison) -> None:
    """Keep the settings in --out; refuse other settings there, which would mix two comparisons in one table."""
    settings = {name: value for name, value in asdict(options).items() if name not in ("out", "device", "images")}
    settings["contents"] = options.data and digest(list_contents(options.data))  # phantoms depend only on the settings
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
    """Crops around phantom nodules, as in the demo of each script, but from fewer patients."""
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
    """The folder of one training run; kind is seed0, seed1, ... or trial."""
    return options.out / f"{name.lower().replace('-', '_')}_{kind}"


def train(name: str, data: Path, options: Comparison, epochs: int, seed: int, kind: str = "") -> None:
    """Run one training script, from the beginning or from where it was stopped, unless it is finished."""
    folder = run_folder(name, options, kind or f"seed{seed}")
    if "best epoch" in read_log(folder)[-1]:
        return
    script, *sizes = NETWORKS[name].split()
    flags = f"--img-size {options.img_size} --batch-size {options.batch_size} {SHARED} --epochs {epochs} --seed {seed}"
    places = [str(Path(__file__).resolve().with_name(script)), "--data", str(data), "--out", str(folder)]
    command = [sys.executable, *places, *sizes, *flags.split(), "--device", options.device]
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
    return (RunLog(file, enabled=False).lines() if file.exists() else []) or [{}]


def training_cost(name: str, options: Comparison, epochs: int) -> dict[str, int | float]:
    """Parameters, epochs, and minutes of one training run, validation included; the mean over the seeds."""
    folders = [run_folder(name, options, f"seed{seed}") for seed in options.seeds]
    seconds = [line.get("seconds", 0.0) for folder in folders for line in read_log(folder)]
    parameters = sum(p.numel() for p in load_predictor(folders[0] / "best.pt").network.parameters())
    return {"parameters": parameters, "epochs": epochs, "minutes": sum(seconds) / len(folders) / 60}


# ---- evaluating ----------------------------------------------------------------------------------------------------


def score_runs(name: str, test: SliceDataset, options: Comparison) -> list[ImageScore]:
    """The scores of every test slice by every seed's network, one seed after the other.

    A mean over all of them is the mean over the seeds. Drawing whole patients draws the slices of a patient with all
    seeds, so the interval is about patients, not about seeds.
    """
    scores = []
    for seed in options.seeds:
        predict = partial(predict_lesions, load_run(name, options, seed))
        scores += score_all(test, predict, title=f"{name}, seed {seed}")
    return scores


def load_run(name: str, options: Comparison, seed: int) -> Predictor:
    """The network of the best epoch of one training run."""
    with start_processes(options.device) as processes:
        return load_predictor(run_folder(name, options, f"seed{seed}") / "best.pt", processes.device)


def predict_lesions(predictor: Predictor, image: NDArray, record: ImageRecord) -> NDArray:
    """Where an image (H, W) in [0, 1] has lesions of any class; `score_all` also gives the record."""
    return predictor.any_class(predictor.probs(image)) > 0.5


def three_predictions(name: str, test: SliceDataset, scores: list[ImageScore], options: Comparison) -> list[tuple]:
    """The worst, median and best slice of the first seed's network, for `prediction_sheet`."""
    predictor, dice = load_run(name, options, options.seeds[0]), scores_per_image(scores[: len(test)])["dice"]

    def caption(place: str, i: int, _: int | None) -> str:
        return f"{name}\n{place}\nDice {dice[i]:.3f}\n{scores[i].diameter:.0f} {scores[i].unit}"

    rows = prediction_rows(test, worst_median_best(dice), lambda _, x: predictor.any_class(predictor.probs(x)), caption)
    return rows if options.images else [(text, None, target, probs) for text, _, target, probs in rows]


# ---- the tables ----------------------------------------------------------------------------------------------------


def write_tables(
    options: Comparison, test: SliceDataset, scores: dict[str, list[ImageScore]], epochs: dict[str, int]
) -> dict[str, float]:
    """Write the tables to the screen and to --out; return the mean Dice of each network."""
    runs = len(options.seeds)
    rows: list[dict] = []
    for name, of_all in scores.items():
        cost = {"network": name} | training_cost(name, options, epochs[name])
        rows += [cost | per_run(row, runs) for row in table_rows(of_all)]
    whole = [row for row in rows if row["stratum"] == "all"]
    strata = list(dict.fromkeys(row["stratum"] for row in rows))  # each once, in their order
    by_size = sorted((row for row in rows if row["stratum"] != "all"), key=lambda row: strata.index(row["stratum"]))
    costs = Column("parameters", "parameters"), Column("epochs", "epochs"), Column("minutes", "minutes", decimals=1)
    remarks = [seed_remark(scores, runs), difference_remark(scores), unit_remark(test, known_spacings(test))]
    if len(test.classes) > 1:
        remarks.append(f"Lesions of any class are scored, not whether they are {', '.join(test.classes)}.")
    parts = [
        f"# Every network on {test.folder.name}, seeds {', '.join(map(str, options.seeds))}",
        markdown_table(whole, (*costs, *COLUMNS), names=("network",)),
        markdown_table(by_size, COLUMNS, names=("stratum", "network")),
        f"Means over {runs} training runs of each network; in parentheses 95 % intervals from 2,000 bootstrap draws of "
        "whole patients, which do not show how much one run differs from the next.",
        " ".join(filter(None, remarks)),
        report_table({row["network"]: row for row in whole}),
    ]
    text = "\n\n".join(parts)
    (options.out / "comparison.md").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    write_csv(options.out / "comparison.csv", rows)
    print(f"\n{text}\n\nWritten to {options.out}.")
    return {row["network"]: row["dice"] for row in whole}


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
    possible = [dice_iou_remark(TITLES.get(name, name), *theirs[:2]) for name, theirs in REPORT.items()]
    paragraph = (
        "Data, size, training and averaging differ, so the numbers of the report (its Table 3, and what it quotes) are "
        "no target to beat. For means over the same images, IoU <= Dice <= 2 IoU / (1 + IoU) must hold."
    )
    return "\n".join([*lines, "", " ".join([paragraph, *possible])])


if __name__ == "__main__":
    leave(main())
