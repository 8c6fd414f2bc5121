"""Evaluate a trained network on slices or volumes it has not seen: a table by lesion size, compared with baselines.

    python examples/evaluate.py runs/swin/best.pt --data data/lungs
    python examples/evaluate.py runs/unetr/best.pt --data data/volumes --split val --out runs/unetr/val
    python examples/evaluate.py runs/swin/best.pt runs/unet/best.pt --data data/lungs --tta flips --choose

CHECKPOINT is best.pt or last.pt of a training run; of several, the probabilities are averaged. DATA is a folder of
slices or of volumes, with targets. Everything is scored in the pixels of its files, whatever size the network works
at. With several lesion classes (classes.txt in DATA), each has its own row in a table of classes; everything else is
about lesions of any class. In --out there will be

    evaluation.md           the tables, as they are printed
    evaluation.csv          every score with its interval, for each method and each stratum
    slices.csv              one row per slice (or volume), to look up the bad ones
    worst_median_best.png   the slices (or volumes) with the worst, the median and the best Dice
    froc.csv, froc.png      with --froc, for volumes that are whole scans: lesions found, by false positives per scan
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

from lungseg.candidates import Candidate, CandidateOptions, clear_others
from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import SPLITS
from lungseg.data.slices import SliceDataset, check_folder
from lungseg.data.volumes import VolumeDataset, check_volume_folder
from lungseg.decision import PLAIN, Decision
from lungseg.draw import prediction_sheet
from lungseg.evaluation.baselines import LEVELS, best_threshold, fixed_map, merge_classes
from lungseg.evaluation.choosing import Choice
from lungseg.evaluation.froc import draw_froc, froc_rows, froc_text, match_all
from lungseg.evaluation.metrics import worst_median_best
from lungseg.evaluation.pictures import prediction_rows
from lungseg.evaluation.scores import ImageScore, Predict, known_spacings, score_all, scores_per_image
from lungseg.evaluation.strata import Row, class_rows, confusion_rows, table_rows
from lungseg.evaluation.tables import POOLED, class_tables, image_rows, markdown_table, write_csv
from lungseg.exits import leave, run_main
from lungseg.files import check_free, or_warn, whole_folder
from lungseg.flags import Parser, add_flags, changed, given_path
from lungseg.folder_prediction import FolderLesions, choose_decision, open_split, predict_probs, without_removed
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
    add("checkpoints", type=given_path, nargs="+", metavar="CHECKPOINT", help="trained networks, runs/swin/best.pt")
    add("--data", type=given_path, required=True, metavar="DIR", help="folder of slices or of volumes, with targets")
    add("--split", choices=SPLITS, default="test", help="the split to evaluate (default: %(default)s)")
    add(
        "--out",
        type=given_path,
        metavar="DIR",
        help="a new or empty folder (default: evaluation_SPLIT next to the first checkpoint)",
    )
    add("--froc", action="store_true", help="volumes that are whole scans: also the FROC curve, over all candidates")
    add("--choose", action="store_true", help="choose threshold and smallest component on the split val of --data")
    add_flags(parser, PredictOptions())
    add_flags(parser, CandidateOptions())
    args = parser.parse_args(argv)
    if args.choose and {"threshold", "min_pixels"} & vars(args).keys():
        parser.error("--choose chooses what --threshold and --min-pixels state. Give the one or the other.")
    args.out = args.out or args.checkpoints[0].parent / f"evaluation_{args.split}"
    return args


# ---- scoring ----------------------------------------------------------------------------------------------------


def check_data(folder: Path) -> None:
    """Refuse, or warn about, everything that training would: scores on swapped masks or raw CT mean nothing.

    Raises:
        ValueError: the first thing that is wrong with the folder, in one sentence.
    """
    check = check_volume_folder if held_kind(folder) == "volumes" else check_folder
    refuse(check(folder))


def open_all(args: argparse.Namespace, options: PredictOptions) -> tuple[Predictor, SliceDataset | VolumeDataset]:
    """The network and the images; a ValueError for what would make the scores wrong, or end them in the middle."""
    if args.froc and held_kind(args.data) != "volumes":
        raise ValueError(f"--froc is for volumes that are whole scans, and {args.data} holds none. Leave it out.")
    check_free(args.out)
    check_data(args.data)
    how = {name: getattr(options, name) for name in ("overlap", "batch_size", "tta", "search")}
    with start_processes(options.device) as processes:
        held_out = args.split != "val" and not args.choose
        predictor = load_predictor(args.checkpoints, processes.device, allow_folds=held_out, **how)
    data = open_split(args.data, args.split, predictor.input.neighbours)
    for index in range(len(data)) if args.froc else []:
        data.votes(index)  # wrong ones are refused before the first prediction
    return predictor, data


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
        "val": "These slices were used to choose the epoch of the network, and the decision if there is one",
    }
    return [f"{flattering[split]}, so the scores are too high."] + found if split in flattering else found


def choice_remark(choice: Choice) -> str:
    """What was chosen on the validation images, and the flags with which predict.py uses it."""
    (decision, dice, plain) = choice
    return (
        f"Chosen on validation (--choose), where the mean Dice with it is {dice:.4f}, and {plain:.4f} above 0.5: "
        f"--threshold {decision.threshold:g} --min-pixels {decision.min_pixels}."
    )


def make_report(
    args: argparse.Namespace, decision: Decision, rows: dict[str, list[dict]], parts: list[str], notes: list[str]
) -> str:
    """Markdown: the network by stratum, `parts` such as classes, and all methods side by side. The network is first."""
    name = next(iter(rows))
    everything = rows[name][0]
    side_by_side = [{"method": method, **of_method[0]} for method, of_method in rows.items()]
    return "\n\n".join(
        [
            f"# {name} on {args.data.name}, {args.split}",
            f"Checkpoint {', '.join(map(str, args.checkpoints))}, data {args.data}. Slices (or volumes): "
            f"{everything['slices']}, patients: {everything['patients']}. "
            f"Lesion is where the probability is {decision}.",
            markdown_table(rows[name]),
            markdown_table(rows[name], POOLED),
            *parts,
            "Compared with baselines that need no network:",
            markdown_table(side_by_side, names=("method",)),
            *notes,
            LEGEND,
        ]
    )


def write_files(folder: Path, report: str, rows: dict[str, list[Row]], per_image: list[Row], froc: list[Row]) -> None:
    """Write evaluation.md, evaluation.csv, slices.csv and, if there is one, froc.csv: all of them or nothing."""
    with whole_folder(folder) as out:
        (out / "evaluation.md").write_text(report + "\n", encoding="utf-8", errors="backslashreplace")
        write_csv(out / "evaluation.csv", [{"method": m, **row} for m, of_method in rows.items() for row in of_method])
        write_csv(out / "slices.csv", per_image)
        if froc:
            write_csv(out / "froc.csv", froc)


def draw_three_predictions(
    predictor: Predictor,
    data: SliceDataset | VolumeDataset,
    scores: list[ImageScore],
    decision: Decision,
    by_class: bool,
    kept: dict[str, list[Candidate]],
) -> Image.Image:
    """The worst, the median and the best by Dice; of a volume, the slice with the most of target and prediction."""
    dice = scores_per_image(scores)["dice"]

    def predict(index: int, image: NDArray) -> NDArray:
        probs, scale, _ = predict_probs(predictor, data, index, image)
        probs = without_removed(predictor, probs, decision, scale)
        probs = probs if by_class else predictor.any_class(probs)
        for map_ in (probs if by_class else [probs]) if kept else []:
            clear_others(map_, kept[data.records[index].id])
        return probs

    def caption(name: str, index: int, _: int | None) -> str:
        return f"{name}\nDice {dice[index]:.3f}\n{scores[index].id}"

    chosen, threshold = worst_median_best(dice), decision.threshold
    rows = prediction_rows(data, chosen, predict, caption, threshold=threshold, by_class=by_class)
    classes = predictor.classes if by_class else ()
    return prediction_sheet(rows, threshold=threshold, scale=max(1, 192 // max(rows[0][1].shape)), classes=classes)


# ---- everything --------------------------------------------------------------------------------------------------


def evaluate(args: argparse.Namespace) -> float:
    """Score the images, make the tables and write them; return the mean Dice."""
    options, wanted = changed(PredictOptions(), vars(args)), changed(CandidateOptions(), vars(args))
    predictor, data = open_all(args, options)
    choice = choose_decision(predictor, args.data) if args.choose else None
    decision = choice.decision if choice else options.decision(predictor.decision)
    by_class = len(predictor.classes) > 1 and predictor.classes == data.classes
    candidates = wanted if args.froc or wanted != CandidateOptions() else None
    lesions = FolderLesions(predictor, data, decision, by_class=by_class, candidates=candidates)
    baselines, notes = make_baselines(args.data, data)
    name, methods = predictor.name, {predictor.name: lesions, **baselines}
    if decision != PLAIN:
        methods = {name: lesions, f"{name}, above 0.5": lesions.plain.predict, **baselines}  # in this order
    in_mm = all(known_spacings(data))
    scores = {
        method: score_all(data, function, title=method, in_mm=in_mm, by_class=by_class and method == name)
        for method, function in methods.items()
    }
    rows = {method: table_rows(of_method) for method, of_method in scores.items()}
    notes += [choice_remark(choice)] if choice else []
    notes += remarks(args.split, rows[name][0], rows["all background"][0]) + lesions.remarks()
    of_classes = class_rows(scores[name], data.classes) if by_class else []
    calls = confusion_rows(scores[name], data.classes) if by_class else []
    matches = match_all(data, lesions.found) if args.froc else []
    froc = froc_rows(matches) if matches else []
    parts = [*class_tables(of_classes, calls), *(froc_text(matches, froc) if froc else [])]
    report = make_report(args, decision, rows, parts, notes)
    rows[name] += of_classes
    write_files(args.out, report, rows, image_rows(scores[name], data.classes), froc)
    print(f"{report}\n\nWritten to {args.out}.")
    with or_warn("worst_median_best.png was not drawn"):  # last, because it needs the network and its memory again
        kept = lesions.found if wanted != CandidateOptions() else {}
        picture = draw_three_predictions(predictor, data, scores[name], decision, by_class, kept)
        picture.save(args.out / "worst_median_best.png", optimize=True)
    if froc:
        with or_warn("froc.png was not drawn"):
            draw_froc({name: matches}).save(args.out / "froc.png", optimize=True)
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
