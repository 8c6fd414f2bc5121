"""Turn tables of CT slices, or pictures with masks, into a folder of PNG pairs that can be trained on.

    python examples/prepare_data.py train.pkl --test test.pkl --out data/lungs
    python examples/prepare_data.py download --images 'images/*.jpg' --masks 'masks/*_mask.png' --out data/lungs

Each row of a table (or each pair of pictures) becomes an image and a mask of one size, in one fixed HU window. All
slices of a patient go to the same split: training, validation or test. Where no patients are named, slices that show
the same part of the same patient are found by their similarity. Augmentation comes last, for training slices only.
"""

import argparse
import sys
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import numpy as np
from tqdm import tqdm

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (later lungseg.exits does this)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.data.augment import Augmentation
from lungseg.data.classes import number_labels
from lungseg.data.folder_files import OTHER_PICTURES
from lungseg.data.manifest import FRACTIONS, SPLITS, ImageRecord
from lungseg.data.prepare.columns import parse_spacing_flag
from lungseg.data.prepare.order import settle_order
from lungseg.data.prepare.overview import draw_sheet, overview_lines
from lungseg.data.prepare.sources import (
    Slice,
    SliceFormat,
    comparison_patterns,
    make_ids_unique,
    read_picture_slices,
    read_table_slices,
)
from lungseg.data.slices import SliceWriter
from lungseg.data.splits import (
    affordable_fractions,
    find_similar_groups,
    group_slices,
    link_similar_slices,
    split_by_group,
)
from lungseg.exits import leave, run_main
from lungseg.flags import Parser


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the flags; --help explains them."""
    parser = Parser(prog="prepare_data.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="pickled tables (.pkl, .pkl.gz), or folders of pictures, to split")
    add("--out", required=True, metavar="DIR", help="the folder to write; it must not exist yet")
    add("--test", metavar="SOURCE", help="a source to keep for testing; the others are then training and validation")
    add("--size", type=int, default=256, help="side of the written images in pixels (%(default)s)")
    add("--bits", type=int, default=8, choices=(8, 16), help="8: grey steps of 5.5 HU; 16: of 0.02 (%(default)s)")
    help_ = "side of an original pixel, or the column that states it, or none (default: a column of that name)"
    add("--spacing-mm", metavar="MM", help=help_)
    help_ = "share of the slices in each split (0.7 0.15 0.15)"
    add("--fractions", type=float, nargs=3, default=[*FRACTIONS.values()], metavar=("TRAIN", "VAL", "TEST"), help=help_)
    help_ = "similarity, 0 to 1, above which two slices count as of one patient (%(default)s)"
    add("--threshold", type=float, default=0.4, help=help_)
    help_ = "add augmented copies until there are N training slices (0: none; the report had about 3400); then train "
    help_ += "with --augment none, or the copies are augmented again"
    add("--augment", type=int, default=0, metavar="N", help=help_)
    add("--seed", type=int, default=0, help="decides the split and the augmentation (%(default)s)")
    add("--from-head", action="store_true", help="the numbers of slices grow from the head to the feet, not upwards")

    add = parser.add_argument_group("tables").add_argument
    add("--column", default="hu_array_old", help="the column with HU (%(default)s; hu_array shows only the lung)")
    help_ = "the column that names the patient, or none (default: one called patient, patient_id, series, group, ...)"
    add("--group", metavar="COLUMN", help=help_)
    help_ = "the column that names the scan, or none; with --slice-index, for --neighbours (default: one called series)"
    add("--series", metavar="COLUMN", help=help_)
    help_ = "the column that numbers the slices of a scan upwards, or none (default: one called slice_index)"
    add("--slice-index", metavar="COLUMN", help=help_)
    help_ = "make lesion classes from label1: masks hold the number of the label, named in classes.txt"
    add("--classes", action="store_true", help=help_)

    add = parser.add_argument_group("folders of pictures").add_argument
    add("--images", metavar="PATTERN", help="the images, such as 'images/*.jpg'")
    add("--masks", metavar="PATTERN", help="the masks, such as 'masks/*_mask.png'; * stands for the same text in both")
    help_ = "the patient in the path of an image, in parentheses, such as 'images/([^_]+)_'"
    add("--patient-from", metavar="REGEX", help=help_)
    help_ = "the scan and the number of the slice in the path, for --neighbours, such as 'images/(.+)_([0-9]+)'"
    add("--order-from", metavar="REGEX", help=help_)
    add("--hu-window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="HU of black and white, if known")
    return parser.parse_args(argv)


# ---- reading -----------------------------------------------------------------------------------------------


def read_source(path: str, prefix: str, start: int, args: argparse.Namespace) -> tuple[list[Slice], list[str]]:
    """The slices of a table or a folder of pictures, and sentences to print; `start` slices came before them."""
    form = SliceFormat(args.size, args.bits)
    if Path(path).is_dir():
        if not (args.images and args.masks):
            raise ValueError(
                f"{path} is a folder. Say which files are what: --images 'images/*.png' --masks 'masks/*.png'."
            )
        how = {"images": args.images, "masks": args.masks}
        how |= {"patient_from": args.patient_from, "order_from": args.order_from}
        spacing = (None if args.spacing_mm == "none" else parse_spacing_flag(args.spacing_mm)) or nan
        return read_picture_slices(path, form, hu_window=args.hu_window, spacing_mm=spacing, **how)
    how = {"column": args.column, "group": args.group, "spacing": args.spacing_mm}
    how |= {"series": args.series, "slice_index": args.slice_index}
    return read_table_slices(path, form, prefix=prefix, start=start, **how)


def paint_classes(slices: list[Slice]) -> tuple[str, ...]:
    """Number each lesion by the label of its slice, and return the classes in order; a ValueError for bad labels."""
    painted = [s for s in slices if s.target.any()]
    unknown = [s.record.id for s in painted if s.record.label in ("", "none")]
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise ValueError(
            f"--classes: {len(unknown)} of {len(painted)} slices with a lesion have no label ({shown}), so their class "
            f"is not known. Fill in label1, or leave --classes out."
        )
    try:
        classes, number = number_labels(s.record.label for s in painted)
    except ValueError as error:
        raise ValueError(f"--classes: label1 does not name classes, in order: {error}") from None
    for s in painted:
        s.target *= np.uint8(number[s.record.label])
    return classes


def missing_in_training(classes: tuple[str, ...], slices: list[Slice], splits: list[str]) -> list[str]:
    """A sentence on the classes that training would refuse."""
    trained = {s.record.label for s, split in zip(slices, splits, strict=True) if split == "train" and s.target.any()}
    missing = [name for name in classes if name not in trained]
    if not missing:
        return []
    return [f"No training slice holds {', '.join(missing)}, so training will refuse this folder. Try another --seed."]


# ---- groups and splits -------------------------------------------------------------------------------------


def choose_groups(slices: list[Slice], threshold: float) -> tuple[list[str], list[str]]:
    """(group of each slice, sentences to print): by patient, or by similarity where no patient is named."""
    linked = link_similar_slices(*comparison_patterns(slices), threshold=threshold)
    groups = group_slices([s.record.group for s in slices], linked)
    alike = find_similar_groups(groups, linked)
    if not alike:
        return groups, []
    shown = ", ".join(" and ".join(pair) for pair in alike[:3]) + (", ..." if len(alike) > 3 else "")
    return groups, [
        f"Slices of {len(alike)} pairs of patients look alike: {shown}. If two names mean one patient, give them one "
        f"name: otherwise they may be in two splits."
    ]


def choose_splits(groups: list[str], num_test: int, args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """(split of each slice, sentences to print). The last `num_test` slices come from the --test table."""
    num_train = len(groups) - num_test
    fractions, notes = dict(zip(SPLITS, args.fractions, strict=True)), []
    if num_test:
        fractions = {"train": fractions["train"], "val": fractions["val"]}
        fractions = {name: f / (sum(fractions.values()) or 1) for name, f in fractions.items()}
    own = groups[:num_train]
    if len(set(own)) < sum(f > 0 for f in fractions.values()):
        fractions = affordable_fractions(fractions, len(set(own)))
        notes.append(f"Only {len(set(own))} group(s) of slices: enough for {' and '.join(fractions)}, no other split.")
    splits = split_by_group(own, fractions, seed=args.seed)
    split_of = dict(zip(own, splits, strict=True))
    splits += [split_of.get(group, "test") for group in groups[num_train:]]
    shared = num_test - splits[num_train:].count("test")
    if shared:
        notes.append(
            f"Leakage: {shared} of {num_test} test slices are of patients of the training data (by name, or because "
            f"they look alike). They were moved from the test set to the split of their group."
        )
    return splits, notes


# ---- writing -----------------------------------------------------------------------------------------------


def write_all(out: SliceWriter, slices: list[Slice], records: list[ImageRecord], args: argparse.Namespace) -> None:
    """Write the slices, then augmented copies of the training slices."""
    for s, record in zip(tqdm(slices, desc="write", unit="slice", disable=None), records, strict=True):
        out.add(record, s.image, s.target)
    train = [(s, record) for s, record in zip(slices, records, strict=True) if record.split == "train"]
    augment, levels = Augmentation(), 2**args.bits - 1
    for k in tqdm(range(args.augment - len(train)), desc="augment", unit="slice", disable=None):
        copy, row = divmod(k, len(train))  # every slice once, then every slice a second time, ...
        s, record = train[row]
        rng = np.random.default_rng([args.seed, row, copy])
        image, target = augment(s.image.astype(np.float32) / levels, s.target, rng)
        grey = np.rint(np.clip(image, 0, 1) * levels).astype(s.image.dtype)
        about = {"series": "", "slice_index": None}  # a copy is turned by itself, so the slices next to it do not fit
        out.add(replace(record, id=f"{record.id}_aug{copy + 1:02d}", **about), grey, target)


def describe_origin(args: argparse.Namespace) -> str:
    """The sources and settings in words, for the summary."""
    what = f"{args.images} and {args.masks}" if args.images else f"column {args.column}"
    return f"{', '.join([*args.sources, *([args.test] if args.test else [])])}, {what}, seed {args.seed}"


# ---- everything ---------------------------------------------------------------------------------------------


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse impossible flags before a table of gigabytes is read."""
    if args.size < 1 or min(args.augment, args.seed) < 0:
        raise ValueError(
            f"--size must be at least 1, --augment and --seed at least 0, got {args.size}, {args.augment}, {args.seed}."
        )
    if args.column == "mask":
        raise ValueError("--column mask is the lesion, not the image. Choose an HU column, such as hu_array_old.")
    if args.column == "label1":
        raise ValueError("--column label1 is text, not an image. Choose an HU column, such as hu_array_old.")
    if not (min(args.fractions) >= 0 and abs(sum(args.fractions) - 1) < 1e-6):  # NaN fails both
        raise ValueError(f"--fractions must be at least 0 and sum to 1, got {' '.join(map(str, args.fractions))}.")
    if not 0 < args.threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {args.threshold}.")
    if args.augment and args.fractions[0] == 0:
        raise ValueError("--augment makes copies of training slices, but --fractions leaves none for training.")
    number = args.spacing_mm in (None, "none") or parse_spacing_flag(args.spacing_mm)
    check_flags_of_folders(args, spacing_is_column=not number)


def check_flags_of_folders(args: argparse.Namespace, spacing_is_column: bool) -> None:
    """Refuse flags of tables for pictures, and flags of pictures for tables."""
    files = [path for path in (*args.sources, args.test) if path and not Path(path).is_dir()]
    if args.hu_window and not -inf < args.hu_window[0] < args.hu_window[1] < inf:  # NaN fails
        raise ValueError(f"--hu-window must be two numbers, the lower one first, got {args.hu_window}.")
    if args.images or args.masks:
        if files:
            raise ValueError(f"--images and --masks are for a folder of pictures, and {files[0]} is not a folder.")
        if args.classes:
            raise ValueError(
                "--classes takes the classes from the labels of a table, and pictures have none. Masks that hold class "
                "numbers become a folder with lungseg.data.SliceWriter."
            )
        if spacing_is_column or not {args.group, args.series, args.slice_index} <= {None, "none"}:
            raise ValueError(
                "pictures have no columns: use --patient-from for --group, --order-from for --series and "
                "--slice-index, and a number of mm."
            )
    elif pictures := [path for path in files if Path(path).suffix.lower() in (".png", *OTHER_PICTURES)]:
        raise ValueError(f"{pictures[0]} is a picture. Give its folder, and --images and --masks (patterns in quotes).")
    elif args.patient_from or args.order_from or args.hu_window:
        flags = "--patient-from, --order-from and --hu-window"
        raise ValueError(f"{flags} are for folders of pictures, with --images and --masks.")
    elif "none" not in (args.series, args.slice_index) and bool(args.series) != bool(args.slice_index):
        raise ValueError("--series and --slice-index say the order of slices only together. Give both.")


def prepare(args: argparse.Namespace) -> None:
    """Read, group, split, write, and summarise."""
    check_arguments(args)
    with SliceWriter(args.out) as out:
        slices: list[Slice] = []
        notes: list[str] = []
        for path in args.sources:
            more, remarks = read_source(path, "row", len(slices), args)
            slices, notes = slices + more, notes + remarks
        test, remarks = read_source(args.test, "test", 0, args) if args.test else ([], [])
        slices, notes = slices + test, notes + remarks
        make_ids_unique(slices)
        settled, remarks = settle_order([s.record for s in slices], args.from_head)
        slices, notes = [replace(s, record=r) for s, r in zip(slices, settled, strict=True)], notes + remarks
        out.classes = paint_classes(slices) if args.classes else ()
        groups, alike = choose_groups(slices, args.threshold)
        splits, few = choose_splits(groups, len(test), args)
        notes += alike + few + missing_in_training(out.classes, slices, splits)
        records = [
            replace(s.record, group=group, split=split) for s, group, split in zip(slices, groups, splits, strict=True)
        ]
        if args.augment and args.augment <= splits.count("train"):
            notes.append(f"--augment {args.augment} added nothing: there are {splits.count('train')} training slices.")
        write_all(out, slices, records, args)
        summary = "\n".join([*overview_lines(slices, groups, out.records, describe_origin(args)), *notes]) + "\n"
        (out.path / "summary.txt").write_text(summary, encoding="utf-8")
        draw_sheet(out).save(out.path / "contact_sheet.png")
    print(f"{args.out} is ready:\n{summary}Look at {Path(args.out, 'contact_sheet.png')} before you train.")


def report_existing(args: argparse.Namespace, summary: Path) -> None:
    """Leave a finished folder as it is."""
    print(f"{args.out} exists already and was left as it is:\n{summary.read_text('utf-8')}Remove it to write it again.")


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    summary = Path(args.out, "summary.txt")
    return run_main(
        "prepare_data.py",
        lambda: report_existing(args, summary) if summary.is_file() else prepare(args),
        stopped=f"{args.out} was not written.",
        too_little_memory="Lower --size, or give fewer tables at once.",
    ) or 0  # fmt: skip


if __name__ == "__main__":
    leave(main())
