"""Lesion classes of a folder: their names, and the two forms of a class map.

    DIR/classes.txt     one name per line: line k (counted from 1) names the mask value k; 0 is background

Without this file a folder is binary: lesion or not. On disk, and wherever people look at it, a class map is a label map
(*spatial) with values 0..K. Networks and losses use one channel per class: (K, *spatial) in {0, 1}.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

FILE = "classes.txt"
MOST_CLASSES = 254  # 255 means lesion in a binary mask
MOST_BYTES = 32_768  # of the file
HINT = f"Masks of lesion classes 1 to K need a {FILE} with K names next to the manifest."  # for unexpected mask values


# ---- the file ---------------------------------------------------------------------------------------------------


def read_classes(folder: str | Path) -> tuple[str, ...]:
    """Read the class names in the order of their mask values; () if the folder has no classes.txt and so is binary.

    Raises:
        ValueError: in one sentence, for a file that does not name 1 to MOST_CLASSES different classes.
    """
    path = classes_file(Path(folder))
    if path is None:
        return ()
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is not a list of names. Write one class name per line.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # -sig: some editors start a file with a byte-order mark
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text. Write one class name per line, and save it as UTF-8.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Write one class name per line.") from None
    try:
        return checked_classes(line.strip() for line in text.rstrip().splitlines())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def classes_file(folder: Path) -> Path | None:
    """The path of classes.txt, in whatever capitals, or None if there is no such file."""
    named = sorted(p for p in folder.iterdir() if p.name.lower() == FILE) if folder.is_dir() else []
    return named[0] if named else None


def checked_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as a tuple; raise a ValueError, which counts lines from 1, for names that no class can have."""
    names = tuple(names)
    if not 1 <= len(names) <= MOST_CLASSES:
        raise ValueError(
            f"it names {len(names)} classes, expected 1 to {MOST_CLASSES}. Write one name per line, "
            f"or remove the file if the masks are binary."
        )
    first_line: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"line {line} is empty, but it names the mask value {line}. Write the name of its class.")
        if not name.isprintable():
            raise ValueError(f"line {line} holds {name!r}. Use printable characters only.")
        if name.casefold() in ("background", "bg"):
            raise ValueError(f"line {line} is {name!r}, but background is the mask value 0 and has no line. Remove it.")
        if name.casefold() in first_line:
            raise ValueError(
                f"line {line} is {name!r}, and so is line {first_line[name.casefold()]} (capitals are ignored). "
                f"Give each class a different name."
            )
        first_line[name.casefold()] = line
    return names


def write_classes(folder: str | Path, classes: Sequence[str]) -> None:
    """Write classes.txt, or nothing if there are no classes."""
    if classes:
        Path(folder, FILE).write_text("\n".join(checked_classes(classes)) + "\n", encoding="utf-8")


def check_labels(values: Iterable[float], classes: Sequence[str]) -> None:
    """Raise a ValueError, to be put after the mask's name, unless all values of the mask are 0 or those of classes."""
    values = sorted(values)
    if not all(v in range(len(classes) + 1) for v in values):
        raise ValueError(
            f"holds the values {format_values(values)}, but {FILE} names only the values 1 to {len(classes)} (0 is "
            f"background). Add the missing names there, and resize masks without interpolation."
        )


def format_values(values: Sequence[float]) -> str:
    """The first five values as text."""
    return ", ".join(f"{v:g}" for v in values[:5]) + (", ..." if len(values) > 5 else "")


def unused_classes(seen: Iterable[int], classes: Sequence[str]) -> list[str]:
    """One sentence for each class that no mask contains; `seen` are the values of all masks together."""
    missing = set(range(1, len(classes) + 1)) - set(seen)
    return [
        f"no mask holds the value {k}, which {FILE} calls {classes[k - 1]!r}. Add examples of it, or remove the name "
        f"and lower the values above {k} by one."
        for k in sorted(missing)
        if len(classes) > 1
    ]


def number_labels(labels: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Make classes of the labels of slices: the names in natural order (LR4 before LR10), and the number of each.

    Raises:
        ValueError: for labels that differ only in capitals, or cannot be class names (`checked_classes`).
    """
    parts = {name: re.split(r"(\d+)", name.casefold()) for name in labels}  # text, digits, text, ...
    names = sorted(parts, key=lambda name: ([int(x) if x.isdecimal() else x for x in parts[name]], name))
    return checked_classes(names), {name: k for k, name in enumerate(names, start=1)}


# ---- the two forms ----------------------------------------------------------------------------------------------


def one_hot(labels: NDArray, num_classes: int) -> NDArray[np.float32]:
    """(*spatial) labels 0..K -> (K, *spatial) in {0, 1}: channel k - 1 is 1 where the label is k.

    With `num_classes` 0 or 1 this only adds a channel axis to a binary map.
    """
    channels = [labels == k for k in range(1, max(1, num_classes) + 1)]
    return np.stack(channels).astype(np.float32)


def to_labels(probs: ArrayLike, threshold: float = 0.5) -> NDArray[np.uint8]:
    """(K, *spatial) probabilities -> (*spatial) labels 0..K: the most probable class if it exceeds `threshold`, else 0.

    In a tie the first class wins. With one class, the label is 1 where the probability exceeds the threshold. NaN never
    exceeds it.
    """
    scores: NDArray = np.nan_to_num(np.asarray(probs), nan=-1.0)
    best = scores.argmax(axis=0)  # (*spatial)
    exceeds = np.take_along_axis(scores, best[None], axis=0)[0] > threshold
    return np.where(exceeds, best + 1, 0).astype(np.uint8)
