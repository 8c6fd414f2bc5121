"""Evaluate a trained network on slices or volumes it has not seen: a table by lesion size, compared with baselines.

    python examples/evaluate.py runs/swin/best.pt --data data/lungs
    python examples/evaluate.py runs/unetr/best.pt --data data/volumes --split val --out runs/unetr/val

CHECKPOINT is best.pt or last.pt of a training run. DATA is a folder of slices or of volumes, with targets. Everything
is scored in the pixels of its files, whatever size the network works at. With several lesion classes (classes.txt in
DATA), each has its own row in a table of classes; everything else is about lesions of any class. In --out there will be

    evaluation.md           the tables, as they are printed
    evaluation.csv          every score with its interval, for each method and each stratum
    slices.csv              one row per slice (or volume), to look up the bad ones
    worst_median_best.png   the slices (or volumes) with the worst, the median and the best Dice
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

from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import SPLITS, ImageRecord
from lungseg.data.slices import SliceDataset, check_folder
from lungseg.data.volumes import VolumeDataset, check_volume_folder
from lungseg.draw import prediction_sheet
from lungseg.evaluation.baselines import LEVELS, best_threshold, fixed_map, merge_classes
from lungseg.evaluation.metrics import worst_median_best
from lungseg.evaluation.pictures import prediction_rows
from lungseg.evaluation.scores import (
    ImageScore,
    Predict,
    known_spacings,
    sample_spacing,
    score_all,
    scores_per_image,
    unit_remark,
)
from lungseg.evaluation.strata import Row, class_rows, confusion_rows, table_rows
from lungseg.evaluation.tables import CLASSES, POOLED, Column, image_rows, markdown_table, write_csv
from lungseg.exits import leave, run_main
from lungseg.files import check_free, or_warn, whole_folder
from lungseg.flags import Parser, add_flags, changed, given_path
from lungseg.predictor import PredictOptions, Predictor, load_predictor
from lungseg.training.data import refuse
from lungseg.training.distributed import start_processes

LEGEND = (
    "A slice (or volume) is in the row of its largest lesion; `lesions` and `found` count each lesion by its own size. "
    "Scores are means over the slices that have them; in parentheses 95 % intervals from 2,000 bootstrap draws of "
    "whole patients. A lesion is found if one predicted pixel is on it; a detection that touches no lesion is a false "
    "positive (FP)."
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags; --out has a default that depends on the others."""
    parser = Parser(prog="evaluate.py", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=given_path, metavar="CHECKPOINT", help="a trained network, such as runs/swin/best.pt")
    add("--data", type=given_path, required=True, metavar="DIR", help="folder of slices or of volumes, with targets")
    add("--split", choices=SPLITS, default="test", help="the split to evaluate (default: %(default)s)")
    add(
        "--out",
        type=given_path,
        metavar="DIR",
        help="a new or empty folder (default: evaluation_SPLIT next to the checkpoint)",
    )
    add_flags(parser, PredictOptions())
    args = parser.parse_args(argv)
    args.out = args.out or args.checkpoint.parent / f"evaluation_{args.split}"
    return args


# ---- scoring ----------------------------------------------------------------------------------------------------


def check_data(folder: Path) -> None:
    """Refuse, or warn about, everything that training would: scores on swapped masks or raw CT mean nothing.

    Raises:
        ValueError: the first thing that is wrong with the folder, in one sentence.
    """
    check = check_volume_folder if held_kind(folder) == "volumes" else check_folder
    refuse(check(folder))


def open_split(folder: Path, split: str, neighbours: int = 0) -> SliceDataset | VolumeDataset:
    """The slices or volumes of a split, at the size of their files; slices with the neighbours of the network."""
    volumes = held_kind(folder) == "volumes"
    return VolumeDataset(folder, split) if volumes else SliceDataset(folder, split, neighbours=neighbours)


def predict_probs(
    predictor: Predictor, data: SliceDataset | VolumeDataset, index: int, image: NDArray
) -> tuple[NDArray, str | None]:
    """Probabilities of one image, whatever its HU window and pixel size; and a remark on its scale, if any."""
    record, is_stack = data.records[index], getattr(data, "neighbours", 0) > 0
    low, high, spacing_mm = record.hu_low, record.hu_high, sample_spacing(data, index)
    source = image.shape[1:] if image.ndim == 3 else record.source_size  # volumes are not shrunk
    if is_stack:  # the network is shown the slice with its neighbours
        image = data[index][0].numpy()  # (2n + 1, H, W)
    if (low, high) != predictor.input.hu_window:
        image = predictor.grey(low + (high - low) * image)
    spacing = np.broadcast_to(spacing_mm, image.ndim)  # a slice has one number for both sides
    try:
        scale, about_scale = predictor.scale_for(image.shape, spacing, source)
        return predictor.probs(image, scale, is_stack=is_stack), about_scale
    except ValueError as error:
        raise ValueError(f"{record.id}: {error}") from None


def make_baselines(folder: Path, data: SliceDataset | VolumeDataset) -> tuple[dict[str, Predict], list[str]]:
    """name -> prediction without a network, made from the training split; and why one is missing, if one is."""
    baselines = {"all background": lambda image, _: np.zeros(image.shape, bool)}
    try:
        train = open_split(folder, "train")
    except ValueError as error:
        return baselines, [f"No other baseline: {error}"]
    level = best_threshold(merge_classes(tqdm(train, desc="grey threshold", disable=None)))
    baselines["best grey threshold"] = lambda image, _: np.rint(image * (LEVELS - 1)) >= level
    try:
        same = fixed_map(merge_classes(tqdm(train, desc="fixed map", disable=None)))[0].numpy()  # (H, W) or (D, H, W)
        for _, target, id_ in data:
            if target[0].shape != same.shape:
                raise ValueError(f"{id_} differs in size from the training slices, {same.shape}.")
        baselines["best fixed map"] = lambda *_: same
    except ValueError as error:
        return baselines, [f"No best fixed map, which needs images of the same size: {error}"]
    return baselines, []


# ---- the report ----------------------------------------------------------------------------------------------------


def remarks(split: str, network: dict, background: dict) -> list[str]:
    """What these scores do not show by themselves. Both rows are over all images."""
    share, rmse = background["pooled_rmse"] ** 2, background["pooled_rmse"]  # of an empty prediction, by definition
    found = []
    if share > 0:
        found = [
            f"Why a small RMSE says little: lesions cover {share:.2%} of these pixels, so an empty prediction has "
            f"a pooled RMSE of sqrt({share:.4g}) = {rmse:.4f}; the network has {network['pooled_rmse']:.4f}."
        ]
    flattering = {
        "train": "The network was trained on these slices",
        "val": "These slices were used to choose the epoch of the network",
    }
    return [f"{flattering[split]}, so the scores are too high."] + found if split in flattering else found


def scale_remark(about_scale: dict[str, str], num: int) -> list[str]:
    """How many of `num` images may differ in pixel size from the training, and the remark on the first."""
    if not about_scale:
        return []
    id_, sentence = next(iter(about_scale.items()))
    return [f"{len(about_scale)} of {num} may differ in pixel size from the training. {id_}: {sentence}"]


def class_remark(predictor: Predictor, data: SliceDataset | VolumeDataset) -> list[str]:
    """Why there is no table of classes, if the network or the data have several."""
    known = [", ".join(names) if len(names) > 1 else "lesion" for names in (predictor.classes, data.classes)]
    if known[0] == known[1]:
        return []
    return [f"The network predicts {known[0]}, the data hold {known[1]}: only lesions of any class are scored."]


def class_tables(rows: list[dict], calls: list[dict]) -> list[str]:
    """The table of lesion classes, and how the lesions of each were classified, if there are several."""
    if not rows:
        return []
    text = (
        "Each class on its own. Its lesions count as found, and its pixels as correct, only where the same class was "
        "predicted. A slice with neither has no Dice; a false alarm of the class has 0:"
    )
    columns = [Column(name, name) for name in calls[0] if name != "class"]
    what = "How the lesions of each class were classified: by the class with the most predicted pixels on them."
    return [text, markdown_table(rows, CLASSES), what, markdown_table(calls, columns, names=("class",))]


def make_report(
    args: argparse.Namespace, threshold: float, rows: dict[str, list[dict]], of_classes: list[str], notes: list[str]
) -> str:
    """Markdown: the network by stratum and by class, and all methods side by side. The network comes first."""
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
            "Compared with baselines that need no network:",
            markdown_table(side_by_side, names=("method",)),
            *notes,
            LEGEND,
        ]
    )


def write_files(folder: Path, report: str, rows: dict[str, list[Row]], per_image: list[Row]) -> None:
    """Write evaluation.md, evaluation.csv and slices.csv, all of them or nothing."""
    with whole_folder(folder) as out:
        (out / "evaluation.md").write_text(report + "\n", encoding="utf-8", errors="backslashreplace")
        write_csv(out / "evaluation.csv", [{"method": m, **row} for m, of_method in rows.items() for row in of_method])
        write_csv(out / "slices.csv", per_image)


def draw_three_predictions(
    predictor: Predictor, data: SliceDataset | VolumeDataset, scores: list[ImageScore], threshold: float, by_class: bool
) -> Image.Image:
    """The worst, the median and the best by Dice; of a volume, the slice with the most of target and prediction."""
    dice = scores_per_image(scores)["dice"]

    def predict(index: int, image: NDArray) -> NDArray:
        probs, _ = predict_probs(predictor, data, index, image)
        return probs if by_class else predictor.any_class(probs)

    def caption(name: str, index: int, _: int | None) -> str:
        return f"{name}\nDice {dice[index]:.3f}\n{scores[index].id}"

    chosen = worst_median_best(dice)
    rows = prediction_rows(data, chosen, predict, caption, threshold=threshold, by_class=by_class)
    classes = predictor.classes if by_class else ()
    return prediction_sheet(rows, threshold=threshold, scale=max(1, 192 // max(rows[0][1].shape)), classes=classes)


# ---- everything --------------------------------------------------------------------------------------------------


def evaluate(args: argparse.Namespace) -> float:
    """Score the images, make the tables and write them; return the mean Dice."""
    options = changed(PredictOptions(), vars(args))
    check_free(args.out)
    check_data(args.data)
    with start_processes(options.device) as processes:
        predictor = load_predictor(
            args.checkpoint, processes.device, overlap=options.overlap, batch_size=options.batch_size
        )
    data, threshold = open_split(args.data, args.split, predictor.input.neighbours), options.threshold
    name = type(predictor.network).__name__
    baselines, notes = make_baselines(args.data, data)
    by_class = len(predictor.classes) > 1 and predictor.classes == data.classes
    index_of = {record.id: i for i, record in enumerate(data.records)}
    about_scale = {}  # id -> sentence

    def predict(image: NDArray, record: ImageRecord) -> NDArray:
        probs, sentence = predict_probs(predictor, data, index_of[record.id], image)
        if sentence:
            about_scale[record.id] = sentence
        labels = predictor.labels(probs, threshold)
        return labels if by_class else labels > 0

    methods, known = {name: predict} | baselines, known_spacings(data)
    scores = {
        method: score_all(data, function, title=method, in_mm=all(known), by_class=by_class and method == name)
        for method, function in methods.items()
    }
    rows = {method: table_rows(of_method) for method, of_method in scores.items()}
    notes += remarks(args.split, rows[name][0], rows["all background"][0]) + scale_remark(about_scale, len(data))
    lone = isinstance(data, SliceDataset) and not any(record.series for record in data.records)
    notes += filter(None, [unit_remark(data, known), lone and predictor.alone(np.zeros((1, 1)))])
    notes += class_remark(predictor, data)
    of_classes = class_rows(scores[name], data.classes) if by_class else []
    calls = confusion_rows(scores[name], data.classes) if by_class else []
    report = make_report(args, threshold, rows, class_tables(of_classes, calls), notes)
    rows[name] += of_classes
    write_files(args.out, report, rows, image_rows(scores[name], data.classes))
    print(f"{report}\n\nWritten to {args.out}.")
    with or_warn("worst_median_best.png was not drawn"):  # last, because it needs the network and its memory again
        picture = draw_three_predictions(predictor, data, scores[name], threshold, by_class)
        picture.save(args.out / "worst_median_best.png", optimize=True)
    return float(rows[name][0]["dice"])


def main(argv: list[str] | None = None) -> float | int:
    """Return the mean Dice, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    args = parse_arguments(argv)

    def stopped() -> str:
        what = "holds the scores, but no picture" if (args.out / "evaluation.md").exists() else "was not written"
        return f"{args.out} {what}."

    return run_main("evaluate.py", lambda: evaluate(args), stopped=stopped, too_little_memory="Lower --batch-size.")


if __name__ == "__main__":
    leave(main())
