"""Predict lesions with a trained network: masks, overlays and, on request, probabilities.

    python examples/predict.py runs/swin/best.pt slice.png --out predictions
    python examples/predict.py runs/swin/best.pt data/lungs scan.npz --out predictions --threshold 0.3
    python examples/predict.py runs/swin/best.pt train.pkl --rows 0 5 9 --out predictions
    python examples/predict.py runs/swin/best.pt runs/unet/best.pt slice.png --out predictions --tta flips

CHECKPOINT is best.pt or last.pt of a training run; of several, the probabilities are averaged. Each INPUT is one of

    slice.png           8-bit or 16-bit grey, in the HU window of the training, as prepare_data.py writes it
    a folder            of slices or volumes as for training (then with targets), or of such PNGs
    scan.npy            HU: one slice (H, W) or a volume (D, H, W)
    scan.npz            a volume as `hu` (D, H, W), with `target`, `spacing_mm` if known; or a folder of these .npy
    table.pkl           a pickled table of slices, .pkl or .pkl.gz

In --out there will be

    masks/ID.png            0 and 255, as high and wide as the slice; of a volume masks/ID/000.png, 001.png, ...
    overlays/ID.png         prediction orange, target green; of a volume only the slices where there is either
    probabilities/ID.png    with --probabilities: 16-bit grey, probability = grey / 65535
    volumes/ID.npz          for each volume: `pred` (D, H, W), 0 and 1, on the grid of its `hu`, and the position of
                            that grid: `spacing_mm`, `affine`, `origin_mm`, ..., copied from its file if it has them
    attention/ID.png        with --attention ROW COLUMN: where the token that holds this pixel looks, in each block of a
                            Swin-UNet or UNETR; of a volume attention/ID/000.png, with --attention SLICE ROW COLUMN
    boxes/ID.png            with --box: what MedSAM draws (orange) in a box of yours (blue); also boxes/ID_mask.png
    slices.csv              for each slice: its input, the number of predicted pixels, and their mm2 if that is known
    candidates.csv          of volumes: for each connected component in 3-D its slice, position in mm from the first
                            voxel, diameter (of a ball), volume and score; candidates/ID.png shows them, best first

If the network has several lesion classes, masks and `pred` hold their numbers 1, 2, ..., named in classes.txt;
outlines have the colours named in legend.png (outside the target, inside the prediction), there are
probabilities/1/ID.png, probabilities/2/ID.png, ..., and slices.csv has one column per class.

A 2-D network takes a volume slice by slice, with their neighbours if it learned from them (of single slices they are
known in a folder whose manifest has series and slice_index). An input is shrunk as the slices of the training were (or
resampled to their pixel size in mm, where it is known and differs much), and covered with a sliding window if it is
larger. Not a medical device.
"""

import argparse
import csv
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.attention_maps import attention_blocks, attention_sheet, check_pixel
from lungseg.candidate_files import CandidateFiles
from lungseg.candidates import Candidate, CandidateOptions, keep_candidates
from lungseg.data.classes import write_classes
from lungseg.data.plausible import LesionExtent, odd_grey, odd_hu
from lungseg.data.scans import Scan, input_kind, read_scans, with_spacing
from lungseg.decision import Decision
from lungseg.draw import enlarge, overlay, with_legend
from lungseg.ensemble import leading_checkpoints
from lungseg.exits import leave, run_main
from lungseg.files import check_free, free_id, or_warn, path_below, whole_folder
from lungseg.flags import Parser, add_flags, changed, given_path
from lungseg.predictor import PredictOptions, Predictor, load_predictor
from lungseg.refiner.box_picture import box_numbers, check_takes_boxes, write_box
from lungseg.scan_prediction import predict_in_parts
from lungseg.training.distributed import start_processes
from lungseg.training.machine import keep_freed_memory

COLUMNS = ["id", "input", "predicted_px", "predicted_mm2"]  # of slices.csv
OVERLAY_SIDE = 512  # smaller slices are enlarged to about this many pixels


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = Parser(prog="predict.py", description=__doc__)
    add = parser.add_argument
    add("checkpoints", type=given_path, nargs="+", metavar="CHECKPOINT", help="trained networks, runs/swin/best.pt")
    add("inputs", type=given_path, nargs="+", metavar="INPUT", help="slices or volumes, see above")
    add("--out", type=given_path, required=True, metavar="DIR", help="a new or empty folder")
    add("--probabilities", action="store_true", help="also write the probabilities")
    add(
        "--attention",
        type=int,
        nargs="+",
        metavar="N",
        help="ROW COLUMN of a slice or SLICE ROW COLUMN of a volume, counted from 0: also draw what this pixel's token "
        "attends to (Swin-UNet, UNETR)",
    )
    add(
        "--box",
        type=box_numbers,
        metavar="X0,Y0,X1,Y1",
        help="a box in pixels of the slice, of a volume SLICE,X0,Y0,X1,Y1, counted from 0: also draw what MedSAM makes "
        "of it (checkpoints of train_refiner.py)",
    )
    add("--rows", type=int, nargs="+", metavar="N", help="tables: only these rows, counted from 0 (default: all)")
    add(
        "--column",
        default="hu_array_old",
        metavar="NAME",
        help="tables: the column with HU, as in prepare_data.py (default: %(default)s)",
    )
    add(
        "--spacing-mm",
        type=float,
        metavar="MM",
        help="side of a pixel in inputs that do not state it, such as PNGs and .npy (default: unknown)",
    )
    add_flags(parser, PredictOptions())
    add_flags(parser, CandidateOptions())
    args = parser.parse_intermixed_args(argv)  # flags may stand between the paths
    args.checkpoints, args.inputs = leading_checkpoints([*args.checkpoints, *args.inputs])
    if not args.inputs:
        parser.error(f"expected an INPUT after the checkpoints, got {' '.join(map(str, args.checkpoints))} alone.")
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is computed."""
    kinds = [input_kind(path) for path in args.inputs]
    if args.rows is not None and "table" not in kinds:
        raise ValueError("--rows chooses rows of a table, and no INPUT is one (.pkl or .pkl.gz).")
    if args.spacing_mm is not None and not 0 < args.spacing_mm < math.inf:  # NaN is not
        raise ValueError(f"--spacing-mm must be a number above 0, got {args.spacing_mm}.")
    if args.attention is not None and len(args.attention) not in (2, 3):
        raise ValueError(f"--attention takes ROW COLUMN or SLICE ROW COLUMN, got {len(args.attention)} numbers.")
    if args.attention is not None and len(args.checkpoints) > 1:
        raise ValueError(f"--attention looks into one network, got {len(args.checkpoints)} checkpoints. Give one.")
    check_free(args.out)


def oddities(scan: Scan, predictor: Predictor, about_scale: str | None, alone: str | None = None) -> dict[str, str]:
    """kind -> sentence, for inputs that can be predicted but are probably not what was meant."""
    found = {}
    as_grey = (predictor.grey(scan.hu) * 255).astype(np.uint8) if scan.from_grey else None
    if sentence := odd_hu(scan.hu) if as_grey is None else odd_grey(as_grey):
        found["hu"] = f"{sentence} Predicted unchanged."
    if scan.target is not None and (sentence := LesionExtent(scan.target).odd):
        found["target"] = sentence
    if about_scale:
        found["scale"] = about_scale
    if alone and scan.stack is None:
        found["neighbours"] = alone
    return found


# ---- writing ----------------------------------------------------------------------------------------------------


def write_scan(
    out: Path,
    id_: str,
    scan: Scan,
    predictor: Predictor,
    pred: NDArray[np.uint8],
    levels: NDArray[np.uint16] | None,
) -> list[list]:
    """Write all files of one slice or volume; return (id, pixels, mm2, pixels of each class) for each slice.

    Args:
        pred, levels: from `predict_in_parts`. Without `levels`, no probabilities are written.
    """
    classes = predictor.classes
    known_classes = bool(classes) and scan.classes == classes
    pixel_mm2 = math.nan if scan.spacing_mm is None else math.prod(scan.spacing_mm[-2:])
    names = [id_]
    if pred.ndim == 3:
        names = [f"{id_}/{z:03d}" for z in range(len(pred))]
        write_volume(out, id_, scan, pred)
    else:
        scan = replace(scan, hu=scan.hu[None], target=None if scan.target is None else scan.target[None])
        pred, levels = pred[None], None if levels is None else levels[:, None]  # (1, H, W), (K, 1, H, W)
    rows = []
    for z, name in enumerate(names):
        Image.fromarray(pred[z] if classes else pred[z] * np.uint8(255)).save(path_below(out, f"masks/{name}.png"))
        target = np.zeros_like(pred[z]) if scan.target is None else np.asarray(scan.target[z])  # slice by slice
        target = target if known_classes else target > 0
        if len(names) == 1 or pred[z].any() or target.any():
            scale = max(1, OVERLAY_SIDE // max(pred[z].shape))  # so that the outlines of a small slice are thin
            with or_warn("overlays/ is not complete"):
                picture = draw(predictor.grey(scan.hu[z]), target, pred[z], scale, bool(classes), known_classes)
                Image.fromarray(picture).save(path_below(out, f"overlays/{name}.png"))
        if levels is not None:
            write_probabilities(out, name, levels[:, z], by_class=bool(classes))
        pixels = np.bincount(pred[z].ravel(), minlength=len(classes) + 1)[1:].tolist()  # of each class
        rows.append([name, sum(pixels), sum(pixels) * pixel_mm2, *(pixels if classes else [])])
    return rows


def write_volume(out: Path, id_: str, scan: Scan, pred: NDArray[np.uint8]) -> None:
    """Write the prediction of a volume with the position of its grid, as far as that is known."""
    known: dict[str, Any] = dict(scan.geometry)
    if scan.spacing_mm is not None:
        known["spacing_mm"] = np.array(scan.spacing_mm)
    np.savez_compressed(path_below(out, f"volumes/{id_}.npz"), pred=pred, **known)


def write_probabilities(out: Path, name: str, levels: NDArray[np.uint16], *, by_class: bool) -> None:
    """Write (K, H, W) as K files in 16-bit grey."""
    for k, of_class in enumerate(levels, start=1):
        folder = f"probabilities/{k}" if by_class else "probabilities"
        Image.fromarray(of_class).save(path_below(out, f"{folder}/{name}.png"))


def write_attention(out: Path, id_: str, path: Path, scan: Scan, predictor: Predictor, pixel: list[int]) -> None:
    """Draw where the token that holds `pixel` looks, in each block; an error names the scan."""
    grey, name = predictor.grey(scan.hu), id_ if scan.hu.ndim == 2 else f"{id_}/{pixel[0]:03d}"
    try:
        check_pixel(pixel, grey.shape)
        scale, _ = predictor.scale_for(grey.shape, scan.spacing_mm, scan.source_size)
        if grey.ndim > predictor.spatial_dims:  # a 2-D network looks at one slice of a volume
            grey, pixel = grey[pixel[0]], pixel[1:]
        sheet = attention_sheet(predictor, grey, pixel, scale=scale)
    except ValueError as error:
        raise ValueError(f"{path}, {scan.id}: {error}") from None
    sheet.save(path_below(out, f"attention/{name}.png"))


def draw(
    grey: NDArray, target: NDArray, pred: NDArray, scale: int, by_class: bool, target_by_class: bool
) -> NDArray[np.uint8]:
    """A slice with outlines, in the colours of the classes where they are known; a target without classes is green."""
    if by_class == target_by_class:
        return overlay(grey, target, pred, scale=scale, by_class=by_class)
    return overlay(overlay(grey, target, scale=scale), None, enlarge(pred, scale), by_class=True)


def summary_line(path: Path, rows: list[list]) -> str:
    """A summary of the predictions in one input."""
    found, pixels, mm2 = sum(row[1] > 0 for row in rows), sum(row[1] for row in rows), sum(row[2] for row in rows)
    area = "" if math.isnan(mm2) else f", {mm2:.1f} mm2"
    return f"{path}: something found in {found} of {len(rows)} slices, {pixels} pixels{area}"


# ---- the whole --------------------------------------------------------------------------------------------------


def predict(args: argparse.Namespace) -> None:
    """Read each input, predict its lesions, and write everything to --out."""
    options, wanted = changed(PredictOptions(), vars(args)), changed(CandidateOptions(), vars(args))
    check_arguments(args)
    with start_processes(options.device) as processes:
        if processes.device.type == "cpu":
            keep_freed_memory()
        predictor = load_predictor(
            args.checkpoints, processes.device, overlap=options.overlap, batch_size=options.batch_size,
            tta=options.tta, search=options.search,
        )  # fmt: skip
    decision = options.decision(predictor.decision)
    if args.attention is not None:
        attention_blocks(predictor.network)  # refuses a network without attention
    if args.box is not None:
        check_takes_boxes(predictor)
    used: set[str] = set()
    table, lines = [], []
    with whole_folder(args.out) as out:
        found = CandidateFiles(out)
        for path in args.inputs:
            rows, warned, n = [], set(), predictor.input.neighbours
            scans = read_scans(path, predictor.input.hu_window, rows=args.rows, column=args.column, neighbours=n)
            for scan in tqdm(scans, desc=path.name, unit="scan", disable=None):
                scan, id_ = with_spacing(scan, args.spacing_mm), free_id(scan.id, used)
                if args.attention is not None:
                    write_attention(out, id_, path, scan, predictor, args.attention)
                if args.box is not None:
                    lines.append(write_box(out, id_, path, scan, predictor, args.box))
                alone = None if scan.stack is not None else predictor.alone(scan.hu)
                pred, levels, candidates, about_scale = predict_scan(
                    path, scan, predictor, decision, args.probabilities, wanted
                )
                for kind, sentence in oddities(scan, predictor, about_scale, alone).items():
                    if kind not in warned:  # once per input, however many slices it has
                        tqdm.write(f"predict.py: warning: {path}, {scan.id}: {sentence}", file=sys.stderr)
                        warned.add(kind)
                rows += write_scan(out, id_, scan, predictor, pred, levels if args.probabilities else None)
                if pred.ndim == 3:
                    found.add(id_, path, scan, predictor, pred, candidates)
            table += [[name, path, n, "" if math.isnan(mm2) else f"{mm2:.2f}", *each] for name, n, mm2, *each in rows]
            lines.append(summary_line(path, rows))
        with open(out / "slices.csv", "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            columns = [*COLUMNS, *(f"predicted_px of {name}" for name in predictor.classes)]
            csv.writer(file, lineterminator="\n").writerows([columns, *table])
        lines += found.write_table()
        if predictor.classes:
            write_classes(out, predictor.classes)
            with or_warn("legend.png was not drawn"):
                with_legend(Image.new("RGB", (OVERLAY_SIDE, 1), "white"), predictor.classes).save(out / "legend.png")
    lines += predictor.skipped_remark()
    lines.append(f"{predictor.name}: lesion is where the probability is {decision}.")
    print("\n".join([*lines, f"Look at {args.out / 'overlays'}."]))


def predict_scan(
    path: Path, scan: Scan, predictor: Predictor, decision: Decision, each_class: bool, wanted: CandidateOptions
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], list[Candidate], str | None]:
    """Labels and probabilities (of `predict_in_parts`), the candidates of a volume, and a remark on the scale."""
    shown = scan.hu if scan.stack is None else scan.stack
    try:
        scale, about_scale = predictor.scale_for(scan.hu.shape, scan.spacing_mm, scan.source_size)
        pred, levels = predict_in_parts(
            predictor, shown, scale, decision.threshold, each_class=each_class, context=predictor.input.neighbours,
            is_stack=scan.stack is not None, where=predictor.search_mask(scan.hu, scan.spacing_mm),
        )  # fmt: skip
        pred = predictor.without_small(pred, decision, scale)
        return pred, levels, keep_candidates(pred, levels, scan.hu, scan.spacing_mm, wanted), about_scale
    except ValueError as error:
        raise ValueError(f"{path}, {scan.id}: {error}") from None


def main(argv: list[str] | None = None) -> int:
    """Return an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    args = parse_arguments(argv)
    stopped, remedy = f"{args.out} was not written.", "Lower --batch-size."
    return run_main("predict.py", lambda: predict(args), stopped=stopped, too_little_memory=remedy) or 0


if __name__ == "__main__":
    leave(main())
