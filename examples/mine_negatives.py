"""Make a folder of windows without a lesion, which training adds with --negatives.

    python examples/mine_negatives.py runs/unet/best.pt --data data/scans --out data/negatives --num 1000
    python examples/train_unet.py --data data/lungs --negatives data/negatives --out runs/second

CHECKPOINT is best.pt of a training run. DATA is a folder of whole scans, as volumes or slices, with targets. Windows
are cut from its training split, at the scale of the slices that the network was trained on, where no reader outlined
anything: a share of them around the network's false positives (highest probability first, spread over the scans, no
two at nearly the same place), the others anywhere in the body.
"""

import argparse
import sys

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

import numpy as np
from tqdm import tqdm

from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import ImageRecord, read_split
from lungseg.data.slices import SliceWriter, check_folder
from lungseg.data.volumes import check_volume_folder
from lungseg.exits import leave, run_main
from lungseg.files import check_free
from lungseg.flags import Parser, given_path
from lungseg.mining import Window, cut, random_windows, read_source, spread, window_sides, wrong_windows
from lungseg.predictor import Predictor, load_predictor
from lungseg.training.data import refuse
from lungseg.training.distributed import start_processes


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags; a bad one ends in one sentence."""
    parser = Parser(prog="mine_negatives.py", description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=given_path, metavar="CHECKPOINT", help="a trained 2-D network, such as runs/unet/best.pt")
    add("--data", type=given_path, required=True, metavar="DIR", help="folder of volumes or of slices, with targets")
    add("--out", type=given_path, required=True, metavar="DIR", help="a new or empty folder, of slices")
    add("--size", type=int, default=64, help="side of a window, in pixels of the training files (default: %(default)s)")
    add("--num", type=int, default=1000, help="how many windows (default: %(default)s)")
    add(
        "--share-hard",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of them around false positives of the network (default: %(default)s)",
    )
    add("--lungs", action="store_true", help="only windows centred in the lungs, which are found by a threshold on HU")
    add("--seed", type=int, default=0, help="of the random choices (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="positions of the sliding window at once (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    args = parser.parse_args(argv)
    if min(args.size, args.num, args.batch_size) < 1 or args.seed < 0 or not 0 <= args.share_hard <= 1:
        parser.error("--size, --num and --batch-size must be at least 1, --seed at least 0, --share-hard from 0 to 1.")
    return args


def mine(args: argparse.Namespace) -> int:
    """Find the windows, write them, and say what they are; return 0."""
    check_free(args.out)
    kind = held_kind(args.data)
    refuse(check_volume_folder(args.data) if kind == "volumes" else check_folder(args.data))
    records = read_split(args.data, "train", kind)
    with start_processes(args.device) as processes:
        predictor = load_predictor(args.checkpoint, processes.device, batch_size=args.batch_size)
    hard = find_hard(predictor, records, args)
    windows = write_windows(predictor, records, hard, args)
    print(summary(windows, records, args))
    return 0


def find_hard(predictor: Predictor, records: list[ImageRecord], args: argparse.Namespace) -> list[list[Window]]:
    """For each scan, the windows around false positives that are taken."""
    wanted = round(args.num * args.share_hard)
    found: list[list[Window]] = [[] for _ in records]
    for number, record in enumerate(tqdm(records if wanted else [], desc="false positives", disable=None)):
        source = read_source(args.data, record, lungs=args.lungs)
        scale, sides = window_sides(predictor, source, args.size)
        probs = predictor.any_class(predictor.probs(predictor.grey(source.hu), scale))  # (D, H, W)
        if source.lungs is not None:
            probs = np.where(source.lungs, probs, 0)
        rng = np.random.default_rng([args.seed, number, 0])
        found[number] = wrong_windows(probs, source.seen, sides, wanted, rng)
    return spread(found, wanted)


def write_windows(
    predictor: Predictor, records: list[ImageRecord], hard: list[list[Window]], args: argparse.Namespace
) -> list[list[Window]]:
    """Write the folder: the hard windows of each scan, and random ones up to --num; return those of each scan."""
    missing = args.num - sum(map(len, hard))
    order = np.random.default_rng(args.seed).permutation(len(records))  # so that few windows are of many scans
    shares = np.bincount(order[np.arange(missing) % len(records)], minlength=len(records)).tolist()
    written = []
    with SliceWriter(args.out, predictor.classes) as out:
        for number, record in enumerate(tqdm(records, desc="cut", disable=None)):
            source = read_source(args.data, record, lungs=args.lungs)
            scale, sides = window_sides(predictor, source, args.size)
            rng = np.random.default_rng([args.seed, number, 1])
            windows = [*hard[number], *random_windows(source, sides, shares[number], rng, hard[number])]
            for window in windows:
                grey = cut(source, window, sides, args.size, predictor.input.hu_window)
                out.add(about(window, source.record, source.pixel_mm[0] * sides[0] / args.size, predictor),
                        grey, np.zeros(grey.shape, np.uint8))  # fmt: skip
            written.append(windows)
        if not out.records:
            raise ValueError(
                f"{args.data}: no window of {args.size} x {args.size} pixels is without a lesion. Give whole slices, "
                f"or a smaller --size."
            )
    return written


def about(window: Window, record: ImageRecord, spacing_mm: float, predictor: Predictor) -> ImageRecord:
    """The row of the manifest: of the patient it was cut from, in the HU window of the training."""
    low, high = predictor.input.hu_window
    label = "anywhere" if np.isnan(window.score) else "false positive"
    id_ = f"{record.id}_{window.z:04d}_{window.top:04d}_{window.left:04d}"
    return ImageRecord(id_, record.group, "train", label, spacing_mm, low, high)


def summary(windows: list[list[Window]], records: list[ImageRecord], args: argparse.Namespace) -> str:
    """What was written, and how to use it."""
    scores = [w.score for of_scan in windows for w in of_scan if not np.isnan(w.score)]
    place = "lungs" if args.lungs else "body"
    number, patients = sum(map(len, windows)), len({r.group for r, w in zip(records, windows, strict=True) if w})
    whose = f"{patients} patient" + "s" * (patients > 1)
    where = f" (probability {max(scores):.2f} to {min(scores):.2f})" if scores else ""
    few = [f"There was room for {number} windows, not {args.num}."] if number < args.num else []
    wanted = round(args.num * args.share_hard)
    if len(scores) < wanted:
        few += [f"The network has only {len(scores)} false positives far enough apart, not {wanted}."]
    return " ".join([
        f"{args.out} holds {number} windows of {args.size} x {args.size} pixels, of {whose}: {len(scores)} "
        f"where the network is wrong{where}, {number - len(scores)} anywhere in the {place}.", *few,
        f"Train with --negatives {args.out}",
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Return an exit code: 0, 2 for what the user can fix, 130 for Ctrl-C."""
    args = parse_arguments(argv)
    return run_main(
        "mine_negatives.py", lambda: mine(args), stopped=lambda: f"{args.out} was not written.",
        too_little_memory="Lower --batch-size.",
    )  # fmt: skip


if __name__ == "__main__":
    leave(main())
