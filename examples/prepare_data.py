"""Turn the published data (pickled tables of CT slices) into a folder of PNG pairs that can be trained on.

    python examples/prepare_data.py train.pkl --test test.pkl --out data/lungs

Each row of a table becomes an image and a mask of one size, in one fixed HU window. The tables name no
patients, so slices that show the same place of the same patient are found by their likeness, kept together,
and given to training, validation or test as a whole. Only then is anything augmented, and only the training
slices.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from lungseg.data.augment import Augmentation
from lungseg.data.ct import HU_WINDOW, hu_to_grey, resize_image, resize_target
from lungseg.data.folder import FolderWriter, read_slice
from lungseg.data.manifest import FRACTIONS, SPLITS, SliceRecord
from lungseg.data.pickles import read_table
from lungseg.data.splits import affordable_fractions, fine_structure, link_patterns, split_by_group
from lungseg.draw import contact_sheet, overlay


@dataclass
class Slice:
    """One row of a table, ready to be written."""

    id: str
    label: str
    image: NDArray  # (size, size) uint8 or uint16
    target: NDArray[np.uint8]  # (size, size) in {0, 1}
    pattern: NDArray[np.float32]  # to find its like: lungseg.data.splits.fine_structure
    vanished: bool  # the lesion of the table is smaller than half a pixel of the new size
    source_size: tuple[int, int]  # (H, W) in the table


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="prepare_data.py",
        description="Turn pickled tables of CT slices into a folder of PNG images and masks with a manifest.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "pickles",
        nargs="+",
        metavar="PICKLE",
        help="tables to split into training, validation and test (.pkl, .pkl.gz)",
    )
    add("--out", required=True, metavar="DIR", help="the folder to write; it must not exist yet")
    add(
        "--test",
        metavar="PICKLE",
        help="a table to keep for testing; the others are then training and validation only",
    )
    add(
        "--column",
        default="hu_array_old",
        help="HU column (%(default)s; docs/data/folder.md says why not hu_array)",
    )
    add("--size", type=int, default=256, help="side of the written images in pixels (%(default)s)")
    add(
        "--bits",
        type=int,
        default=8,
        choices=(8, 16),
        help="8: grey steps of 5.5 HU; 16: of 0.02 (%(default)s)",
    )
    add(
        "--fractions",
        type=float,
        nargs=3,
        default=list(FRACTIONS.values()),
        metavar=("TRAIN", "VAL", "TEST"),
        help="share of the slices in each split (0.7 0.15 0.15)",
    )
    add(
        "--threshold",
        type=float,
        default=0.4,
        help="likeness, 0 to 1, above which two slices count as one patient's (%(default)s)",
    )
    add(
        "--augment",
        type=int,
        default=0,
        metavar="N",
        help="add augmented copies until there are N training slices (none; the report had about 3400)",
    )
    add("--seed", type=int, default=0, help="decides the split and the augmentation (%(default)s)")
    return parser.parse_args(argv)


# ---- from rows to slices -----------------------------------------------------------------------------------


def read_slices(path: str, prefix: str, start: int, args: argparse.Namespace) -> list[Slice]:
    """All the rows of one table; each is let go once it is converted, so the memory needed only shrinks."""
    table = read_table(path, required=("mask", args.column))
    hus, masks = table.pop(args.column), table.pop("mask")
    labels = table.pop("label1", [""] * len(hus))
    if not hus:
        raise ValueError(f"{path} holds no rows. Give a table with at least one slice.")
    del table  # drops the other HU column, half of the memory
    slices = []
    for row in tqdm(range(len(hus)), desc=Path(path).name, unit="slice", disable=None):
        hu, mask = hus[row], masks[row]
        hus[row] = masks[row] = None
        try:
            slices.append(convert(f"{prefix}{start + row:04d}", str(labels[row] or ""), hu, mask, args.size, args.bits))
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}") from None
    return slices


def convert(id_: str, label: str, hu: NDArray, mask: NDArray, size: int, bits: int) -> Slice:
    """Clip to the window first, so that -2048 outside the scanner's circle cannot bleed into the rest."""
    if np.ndim(hu) != 2 or np.shape(hu) != np.shape(mask):
        raise ValueError(f"HU is {np.shape(hu)} and mask {np.shape(mask)}; both must be one (H, W).")
    clipped = np.clip(np.asarray(hu, dtype=np.float32), *HU_WINDOW)
    image = hu_to_grey(resize_image(clipped, (size, size)), bits=bits)
    lesion = (np.asarray(mask) > 0).astype(np.uint8)
    target = resize_target(lesion, (size, size))
    vanished = bool(lesion.any() and not target.any())
    return Slice(id_, label, image, target, fine_structure(clipped), vanished, hu.shape)


# ---- groups and splits -------------------------------------------------------------------------------------


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
            f"Leakage: {shared} of {num_test} test slices look like slices of the training table "
            f"(same patient). They left the test set and follow their group."
        )
    return splits, notes


# ---- writing -----------------------------------------------------------------------------------------------


def write_all(out: FolderWriter, slices: list[Slice], records: list[SliceRecord], args: argparse.Namespace) -> None:
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
        out.add(replace(record, id=f"{s.id}_aug{copy + 1:02d}"), grey, target)


def draw_sheet(out: FolderWriter, count: int = 24, columns: int = 6) -> Image.Image:
    """Slices from all over the folder, read back from the disk, with the lesion outlined in green."""
    chosen = np.unique(np.linspace(0, len(out.records) - 1, count).round().astype(int))
    tiles, captions = [], []
    for record in (out.records[i] for i in chosen):
        image, target = read_slice(out.path, record)
        tiles.append(overlay(image / (2**record.bits - 1), target))
        captions.append(f"{record.id}, {record.split}\n{record.label or 'no label'}, {target.sum()} px")
    in_rows = [range(i, min(i + columns, len(tiles))) for i in range(0, len(tiles), columns)]
    return contact_sheet([[tiles[i] for i in r] for r in in_rows], captions=[[captions[i] for i in r] for r in in_rows])


def summarise(slices: list[Slice], groups: list[str], records: list[SliceRecord], args: argparse.Namespace) -> str:
    """What to know before training: how many of what, how large, and from how many patients."""
    lines = [f"{args.size} x {args.size} pixels, {args.bits} bits, HU window {HU_WINDOW[0]:g} to {HU_WINDOW[1]:g}"]
    lines.append(f"from {', '.join(map(str, args.pickles + ([args.test] if args.test else [])))}, column {args.column}")
    copies = len(records) - len(slices)
    lines.append(f"{len(slices)} slices read, {copies} augmented copies added, seed {args.seed}")
    counts = Counter((r.label or "(none)", r.split) for r in records)
    lines.append("label, with copies".ljust(20) + "".join(split.rjust(8) for split in SPLITS))
    for label in sorted({label for label, _ in counts}):
        lines.append(label[:19].ljust(20) + "".join(f"{counts[label, split]:8d}" for split in SPLITS))
    sizes = [int(s.target.sum()) for s in slices if s.target.any()]
    if sizes:
        low, q1, median, q3, high = np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1])
        lines.append(f"lesion pixels: least {low:g}, quartiles {q1:g} / {median:g} / {q3:g}, most {high:g}")
    empty, vanished = len(slices) - len(sizes), sum(s.vanished for s in slices)
    lines.append(
        f"empty masks: {empty}" + (f", {vanished} of them by shrinking: use a larger --size" if vanished else "")
    )
    largest = Counter(groups).most_common(1)[0][1]
    lines.append(f"groups of like slices: {len(set(groups))}, the largest of {largest}")
    if largest > len(slices) / 2 and len(set(groups)) > 1:
        lines.append("More than half of all slices hang together: if they are many patients, raise --threshold.")
    return "\n".join(lines)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot work before a table of gigabytes is read."""
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
        raise ValueError(f"--threshold must lie between 0 and 1, got {args.threshold}.")
    if args.augment and args.fractions[0] == 0:
        raise ValueError("--augment makes copies of training slices, but --fractions leaves none for training.")


def prepare(args: argparse.Namespace) -> None:
    check_arguments(args)
    with FolderWriter(args.out) as out:
        slices: list[Slice] = []
        for path in args.pickles:
            slices += read_slices(path, "row", len(slices), args)
        test = read_slices(args.test, "test", 0, args) if args.test else []
        slices += test
        groups = link_patterns([s.pattern for s in slices], threshold=args.threshold)
        splits, notes = choose_splits(groups, len(test), args)
        records = [
            SliceRecord(
                s.id, group, split, s.label, bits=args.bits, source_height=s.source_size[0], source_width=s.source_size[1]
            )
            for s, group, split in zip(slices, groups, splits, strict=True)
        ]
        if args.augment and args.augment <= splits.count("train"):
            notes.append(f"--augment {args.augment} added nothing: there are {splits.count('train')} training slices.")
        write_all(out, slices, records, args)
        summary = "\n".join([summarise(slices, groups, out.records, args), *notes]) + "\n"
        (out.path / "summary.txt").write_text(summary, encoding="utf-8")
        draw_sheet(out).save(out.path / "contact_sheet.png")
    print(f"{args.out} is ready:\n{summary}Look at {Path(args.out, 'contact_sheet.png')} before you train.")


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    summary = Path(args.out, "summary.txt")
    if summary.is_file():
        told = summary.read_text("utf-8")
        print(f"{args.out} exists already and was left as it is:\n{told}Remove it to make it anew.")
        return 0
    try:
        prepare(args)
    except (ValueError, OSError) as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"prepare_data: stopped; {args.out} was not written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
