"""Judge a trained network on slices or volumes it has not seen: one table by lesion size, beside what needs no network.

    python examples/evaluate.py runs/swin/best.pt --data data/lungs
    python examples/evaluate.py runs/unetr/best.pt --data data/volumes --split val --out runs/unetr/val

CHECKPOINT is best.pt or last.pt of a training. DATA is a folder of slices or of volumes, with targets. All is scored
in the pixels of its files, whatever size the network works at. Of several lesion classes (classes.txt in DATA), each
has a row of its own in a table of classes; all else is about lesions of any class. In --out there will be

    evaluation.md           the tables, as they are printed
    evaluation.csv          every score with its interval, for each method and each stratum
    slices.csv              one row per slice (or volume): to find the bad ones
    worst_median_best.png   three of them
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.data.classes import to_labels
from lungseg.data.manifest import SPLITS, ImageRecord, held_kind
from lungseg.data.slices import SliceDataset, check_folder
from lungseg.data.volumes import VolumeDataset, check_volume_folder
from lungseg.draw import prediction_sheet
from lungseg.evaluation.baselines import LEVELS, best_threshold, fixed_map, of_any_class
from lungseg.evaluation.metrics import worst_median_best
from lungseg.evaluation.scores import (
    ImageScore,
    Predict,
    known_spacings,
    rows_of_calls,
    rows_of_classes,
    rows_of_table,
    score_all,
    scores_per_image,
    spacing_of,
    unit_remark,
)  # fmt: skip
from lungseg.evaluation.tables import CLASSES, POOLED, Column, markdown_table, rows_of_images, write_csv
from lungseg.exits import leave, run_main
from lungseg.files import check_free, or_warn, whole_folder
from lungseg.flags import Parser, add_flags, changed, given_path
from lungseg.predictor import PredictOptions, Predictor, load_predictor
from lungseg.training.data import refuse
from lungseg.training.distributed import start_processes

LEGEND = (
    "A slice (or volume) stands in the row of its largest lesion; `lesions` and `found` count each lesion by its own "
    "size. Scores are means over the slices that have them; in parentheses the middle 95 % of 2,000 draws of whole "
    "patients. A lesion is found if one predicted pixel lies on it; a connected find on no lesion is a false positive "
    "(FP)."
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="evaluate.py", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=given_path, metavar="CHECKPOINT", help="a trained network, such as runs/swin/best.pt")
    add("--data", type=given_path, required=True, metavar="DIR", help="folder of slices or of volumes, with targets")
    add("--split", choices=SPLITS, default="test", help="which part of it (default: %(default)s)")
    add(
        "--out",
        type=given_path,
        metavar="DIR",
        help="a new or empty folder (default: evaluation_SPLIT beside the checkpoint)",
    )
    add_flags(parser, PredictOptions())
    args = parser.parse_args(argv)
    args.out = args.out or args.checkpoint.parent / f"evaluation_{args.split}"
    return args


# ---- scoring ----------------------------------------------------------------------------------------------------


def check_data(folder: Path) -> None:
    """Refuse, or warn of, all that a training would: scores on exchanged masks or raw CT mean nothing either.

    Raises:
        ValueError: the first thing that is wrong with the folder, in one sentence.
    """
    check = check_volume_folder if held_kind(folder) == "volumes" else check_folder
    refuse(check(folder))


def open_split(folder: Path, split: str) -> SliceDataset | VolumeDataset:
    """Slices where there is a folder images/, else volumes; at the size of their files."""
    return VolumeDataset(folder, split) if held_kind(folder) == "volumes" else SliceDataset(folder, split)


def probs_of(
    predictor: Predictor, image: NDArray, record: ImageRecord, spacing_mm: float | tuple[float, ...]
) -> tuple[NDArray, str | None]:
    """Probabilities of one image, whatever its HU window and its pixels; and what to know of its scale, if anything."""
    low, high = record.hu_low, record.hu_high
    if (low, high) != predictor.input.hu_window:
        image = predictor.grey(low + (high - low) * image)
    spacing = np.broadcast_to(spacing_mm, image.ndim)  # of a slice one number for both sides
    source = record.source_size if image.ndim == 2 else image.shape[1:]  # volumes are not shrunk
    try:
        scale, about_scale = predictor.scale_for(image.shape, spacing, source)
        return predictor.probs(image, scale), about_scale
    except ValueError as error:
        raise ValueError(f"{record.id}: {error}") from None


def make_baselines(folder: Path, data: SliceDataset | VolumeDataset) -> tuple[dict[str, Predict], list[str]]:
    """name -> what predicts without a network, made from the training split; and why one is missing, if one is."""
    baselines = {"all background": lambda image, _: np.zeros(image.shape, bool)}
    try:
        train = open_split(folder, "train")
    except ValueError as error:
        return baselines, [f"No other baseline: {error}"]
    level = best_threshold(of_any_class(tqdm(train, desc="grey threshold", disable=None)))
    baselines["best grey threshold"] = lambda image, _: np.rint(image * (LEVELS - 1)) >= level
    try:
        same = fixed_map(of_any_class(tqdm(train, desc="fixed map", disable=None)))[0].numpy()  # (H, W) or (D, H, W)
        for _, target, id_ in data:
            if target[0].shape != same.shape:
                raise ValueError(f"{id_} is not as large as the training slices, {same.shape}.")
        baselines["best fixed map"] = lambda *_: same
    except ValueError as error:
        return baselines, [f"No best fixed map, which wants images of one size: {error}"]
    return baselines, []


# ---- telling ----------------------------------------------------------------------------------------------------


def remarks(split: str, network: dict, background: dict) -> list[str]:
    """What these scores do not say by themselves; both rows are of all slices."""
    share, rmse = background["pooled_rmse"] ** 2, background["pooled_rmse"]  # of a map without lesion, by definition
    found = []
    if share > 0:
        found = [
            f"Why a small RMSE says little: lesions cover {share:.2%} of these pixels, so a map that finds nothing has "
            f"a pooled RMSE of sqrt({share:.4g}) = {rmse:.4f}; the network has {network['pooled_rmse']:.4f}."
        ]
    flattering = {
        "train": "The network learned from these slices",
        "val": "These slices chose the epoch of the network",
    }
    return [f"{flattering[split]}, so their scores flatter."] + found if split in flattering else found


def scale_remark(about_scale: dict[str, str], num: int) -> list[str]:
    """A network knows lesions in pixels: what `scale_for` said of those of `num` images whose pixels are others."""
    if not about_scale:
        return []
    id_, sentence = next(iter(about_scale.items()))
    return [f"{len(about_scale)} of {num} may have pixels unlike those of the training. {id_}: {sentence}"]


def class_remark(predictor: Predictor, data: SliceDataset | VolumeDataset) -> list[str]:
    """Why there is no table of classes, where the network or the data have some."""
    known = [", ".join(names) if len(names) > 1 else "lesion" for names in (predictor.classes, data.classes)]
    if known[0] == known[1]:
        return []
    return [f"The network knows {known[0]}, the data {known[1]}: only lesions of any class are scored."]


def class_tables(rows: list[dict], calls: list[dict]) -> list[str]:
    """The lesion classes, and what the lesions of each were taken for, if there are rows of several."""
    if not rows:
        return []
    text = (
        "Each class by itself. Its lesions count as found, and its pixels as right, only where the same class was "
        "predicted. A slice with neither has no Dice; a false alarm of the class has 0:"
    )
    columns = [Column(name, name) for name in calls[0] if name != "class"]
    what = "What the lesions of each class were taken for: the class that has most of the pixels predicted on it."
    return [text, markdown_table(rows, CLASSES), what, markdown_table(calls, columns, names=("class",))]


def report_of(
    args: argparse.Namespace, threshold: float, rows: dict[str, list[dict]], of_classes: list[str], notes: list[str]
) -> str:
    """Markdown: the network by stratum and by class, and all methods side by side. The network has the first rows."""
    name = next(iter(rows))
    everything = rows[name][0]
    side_by_side = [{"method": method, **of_method[0]} for method, of_method in rows.items()]
    return "\n\n".join(
        [
            f"# {name} on {args.data.name}, {args.split}",
            f"Checkpoint {args.checkpoint}, data {args.data}. Slices (or volumes): {everything['slices']}, "
            f"patients: {everything['patients']}. Lesion is where the probability is above {threshold}.",
            markdown_table(rows[name]),
            markdown_table(rows[name], POOLED),
            *of_classes,
            "Beside what needs no network:",
            markdown_table(side_by_side, names=("method",)),
            *notes,
            LEGEND,
        ]
    )


def draw_three(
    predictor: Predictor, data: SliceDataset | VolumeDataset, scores: list[ImageScore], threshold: float, by_class: bool
) -> Image.Image:
    """The worst, the median and the best by Dice; of a volume, the slice that holds most of target and prediction."""
    dice = scores_per_image(scores)["dice"]
    rows = []
    for name, i in worst_median_best(dice):
        image, target = data[i][0][0].numpy(), to_labels(data[i][1].numpy())  # (*spatial) each
        probs, _ = probs_of(predictor, image, data.records[i], spacing_of(data, i))
        anything = predictor.any_class(probs)  # (*spatial)
        if not by_class:
            target, probs = target > 0, anything
        if image.ndim == 3:
            z = int(((target > 0).astype(int) + (anything > threshold)).sum(axis=(1, 2)).argmax())
            parts = image[z], target[z], probs[..., z, :, :]  # (H, W) each, or probs (K, H, W)
            image, target, probs = (x.copy() for x in parts)  # a view keeps all of it
        rows.append((f"{name}\nDice {dice[i]:.3f}\n{scores[i].id}", image, target, probs))
    classes = predictor.classes if by_class else ()
    return prediction_sheet(rows, threshold=threshold, scale=max(1, 192 // max(rows[0][1].shape)), classes=classes)


# ---- the whole --------------------------------------------------------------------------------------------------


def evaluate(args: argparse.Namespace) -> float:
    """Score, tabulate, write; returns the mean Dice."""
    options = changed(PredictOptions(), vars(args))
    check_free(args.out)
    check_data(args.data)
    with start_processes(options.device) as processes:
        predictor = load_predictor(
            args.checkpoint, processes.device, overlap=options.overlap, batch_size=options.batch_size
        )
    data, threshold = open_split(args.data, args.split), options.threshold
    name = type(predictor.network).__name__
    baselines, notes = make_baselines(args.data, data)
    by_class = len(predictor.classes) > 1 and predictor.classes == data.classes
    spacings = {record.id: spacing_of(data, i) for i, record in enumerate(data.records)}
    about_scale = {}  # id -> sentence

    def find(image: NDArray, record: ImageRecord) -> NDArray:
        probs, sentence = probs_of(predictor, image, record, spacings[record.id])
        if sentence:
            about_scale[record.id] = sentence
        labels = predictor.labels(probs, threshold)
        return labels if by_class else labels > 0

    methods, known = {name: find} | baselines, known_spacings(data)
    scores = {
        method: score_all(data, predict, title=method, in_mm=all(known), by_class=by_class and method == name)
        for method, predict in methods.items()
    }
    rows = {method: rows_of_table(of_method) for method, of_method in scores.items()}
    notes += remarks(args.split, rows[name][0], rows["all background"][0]) + scale_remark(about_scale, len(data))
    notes += [*filter(None, [unit_remark(data, known)]), *class_remark(predictor, data)]
    of_classes = rows_of_classes(scores[name], data.classes) if by_class else []
    calls = rows_of_calls(scores[name], data.classes) if by_class else []
    report = report_of(args, threshold, rows, class_tables(of_classes, calls), notes)
    rows[name] += of_classes
    with whole_folder(args.out) as out:
        (out / "evaluation.md").write_text(report + "\n", encoding="utf-8", errors="backslashreplace")
        write_csv(out / "evaluation.csv", [{"method": m, **row} for m, of_method in rows.items() for row in of_method])
        write_csv(out / "slices.csv", rows_of_images(scores[name], data.classes))
    print(f"{report}\n\nWritten to {args.out}.")
    with or_warn("worst_median_best.png was not drawn"):  # last of all: it needs the network and its memory again
        picture = draw_three(predictor, data, scores[name], threshold, by_class)
        picture.save(args.out / "worst_median_best.png", optimize=True)
    return rows[name][0]["dice"]


def main(argv: list[str] | None = None) -> float | int:
    args = parse_arguments(argv)

    def stopped() -> str:
        what = "holds the scores, but no picture" if (args.out / "evaluation.md").exists() else "was not written"
        return f"{args.out} {what}."

    return run_main("evaluate.py", lambda: evaluate(args), stopped=stopped, too_little_memory="Lower --batch-size.")


if __name__ == "__main__":
    leave(main())
