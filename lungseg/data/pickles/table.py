"""The published table of CT slices, a pickled pandas DataFrame, read safely and without pandas.

`lungseg.data.pickles.unpickler` takes the file apart without running it, `lungseg.data.pickles.dataframe` knows what its
parts mean. Here is the door, `read_table`, and the check of every cell.
"""

import gzip
import io
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lungseg.data.headers import ColumnError, recognise
from lungseg.data.pickles.dataframe import NAMES, array_of, bytes_of, dtype_of, frame_columns
from lungseg.data.pickles.unpickler import Name, PickledObject, RefusedError, unpickle
from lungseg.data.plausible import LesionExtent, Tally, odd_hu
from lungseg.files import regular_file

MAX_CELLS = 1_000_000  # the published table has 2,832; a hostile file can use one list for a thousand columns
TOO_MANY = f"the table has more than {MAX_CELLS} cells, which no table of slices needs"
MALFORMED = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


def read_table(
    path: str | Path, *, required: Sequence[str] = ("label1", "mask"), judged: bool = True
) -> dict[str, list]:
    """Read a table of CT slices from a pickle, `.pkl` or `.pkl.gz`, without running anything in it.

    The file holds a DataFrame (pandas 1.5 to 3.0), a dict of lists, a dict of arrays (n, H, W) and (n,), or a
    list of dicts. Its columns are `label1` (text), `mask` (the lesion: 0 and 1, or 0 and 255) and one or more
    of CT values in HU, as `hu_array` and `hu_array_old` are; case and outer spaces do not matter. Others may be there.

    Args:
        path: the file. Gzip is recognised by its first two bytes.
        required: columns that must be there. One column of CT values must be there in any case.
        judged: also refuse a table if what is required of it is hardly meant (`lungseg.data.plausible`) in more than
            half of the rows, and warn if it is in some. Without it, only what cannot be used is refused.

    Returns:
        column -> cells, in the order of the rows in the file, whatever their index says. An image is an array
        (H, W), read-only, of the type it has in the file; the images of one row have one size. Other cells
        are str, int, float, bool or None.

    Raises:
        ValueError: one sentence with the file, and the row (counted from 0) and column where there is one.
    """
    path = Path(path)
    try:
        value = unpickle_file(path)
        table: dict[str, list] = {}
        columns = list(columns_of(value))
        names = recognise([name for name, _ in columns], {"label1", "mask", *required})
        for name, (_, column) in zip(names, columns, strict=True):
            cells = cells_of(column, name, MAX_CELLS // (len(table) + 1))
            table[name] = [cell_of(cell, row, name) for row, cell in enumerate(cells)]
        check_table(table, required, judged)
        return table
    except (RefusedError, ColumnError) as error:
        raise ValueError(f"{path}: {error}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ValueError(f"{path}: the gzip file is damaged or ends too early; fetch it again") from None
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read: {error.strerror}") from None
    except MemoryError:
        raise ValueError(f"{path}: the table needs more memory than there is") from None
    except MALFORMED:
        raise ValueError(f"{path}: the parts of the table do not fit together; fetch it again") from None


def unpickle_file(path: Path) -> Any:
    with open(regular_file(path), "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size == 0:
            raise RefusedError("the file is empty")
        if file.peek(2)[:2] == b"\x1f\x8b":
            unzipped = io.BufferedReader(gzip.GzipFile(fileobj=file))
            return unpickle(unzipped, NAMES, limit=1032 * size)  # deflate packs at most 1032 bytes into one
        return unpickle(file, NAMES, limit=size)


# From what the file holds to cells


def columns_of(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, column) of a DataFrame, of a dict of columns, or of a list of rows, one by one."""
    if type(value) is PickledObject and value.name == "frame":
        value = frame_columns(value)
    if type(value) is dict:
        yield from value.items()
    elif type(value) is list and value and all(type(row) is dict for row in value):
        if len(value) * len(value[0]) > MAX_CELLS:
            raise RefusedError(TOO_MANY)
        for i, row in enumerate(value):
            if different := row.keys() ^ value[0].keys():
                raise RefusedError(f"{place(i, min(different))}: the cell is missing here or in row 0")
        for name in value[0]:
            yield name, [row[name] for row in value]
    else:
        raise RefusedError("the pickle holds no table: wanted a DataFrame, a dict of columns, or a list of dicts")


def cells_of(column: Any, name: str, at_most: int) -> list:
    """The cells of a column, as the file has them: from a list, an array (n,) or an array (n, H, W)."""
    if type(column) is PickledObject:
        column = array_of(column)
    if not isinstance(column, list | tuple | np.ndarray):
        raise RefusedError(f"column {short(name)} is a {type(column).__name__}, not a list or an array of cells")
    if len(column) > at_most:
        raise RefusedError(TOO_MANY)
    return column.tolist() if isinstance(column, np.ndarray) and column.ndim != 3 else list(column)


def cell_of(value: Any, row: int, name: str) -> Any:
    """An image, a text or a number, from what the file has in one cell."""
    try:
        if type(value) is PickledObject and value.name == "scalar":
            dtype, data = value.args
            value = np.frombuffer(bytes_of(data), dtype_of(dtype)).item()
        elif type(value) is PickledObject:
            value = array_of(value)
        elif type(value) is Name and value.word == "missing":
            value = None
    except RefusedError as error:
        raise RefusedError(f"{place(row, name)}: {error}") from None
    except MALFORMED:
        raise RefusedError(f"{place(row, name)}: the cell is damaged") from None
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.size and value.dtype.kind in "biuf":
        return value
    if value is None or type(value) in (str, int, float, bool):
        return value
    found = f"an array {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    raise RefusedError(f"{place(row, name)}: wanted an image (H, W) of numbers, a text or a number, got {found}")


# What a table of slices must be


def check_table(table: dict[str, list], required: Sequence[str], judged: bool) -> None:
    """Raise `RefusedError` unless the columns are there, equally long, and their images fit together."""
    if missing := [name for name in required if name not in table]:
        there = ", ".join(map(short, list(table)[:20])) or "no columns"
        raise RefusedError(f"column {missing[0]!r} is missing; the table has {there}")
    rows = len(next(iter(table.values()), []))
    for name, cells in table.items():
        if len(cells) != rows:
            first = next(iter(table))
            raise RefusedError(f"column {short(name)} has {len(cells)} rows, but column {short(first)} has {rows}")
    images = [name for name, cells in table.items() if any(isinstance(cell, np.ndarray) for cell in cells)]
    if not set(images) - {"mask"}:
        raise RefusedError("no column holds CT values: images (H, W), as in 'hu_array' or 'hu_array_old'")
    if "mask" in table and "mask" not in images:
        raise RefusedError("column 'mask' holds no images (H, W)")
    values = Values()
    for row in range(rows):
        first = table[images[0]][row]
        for name in images:
            problem = shape_problem(table[name][row], first, images[0]) or values.problem(table[name][row], name)
            if problem:
                raise RefusedError(f"{place(row, name)}: {problem}")
    for name in required:
        if judged and name in images and name != "mask":
            judge(name, table[name], table.get("mask", [None] * rows), values)


def shape_problem(image: Any, first: Any, first_name: str) -> str | None:
    """What is wrong with one image, beside the first one of its row."""
    if not isinstance(image, np.ndarray):
        return "an image is expected, as in other rows"
    if image.shape != first.shape:
        (h, w), (first_h, first_w) = image.shape, first.shape
        return f"the image is {h} x {w} pixels, but that of {short(first_name)} is {first_h} x {first_w}"
    return None


class Values:
    """What is to be said of the values of images: looked at one by one, to need little memory, and each only once.

    A small file can refer to one image in a million cells.
    """

    def __init__(self):
        self._known: dict[tuple, Any] = {}  # place in memory and function -> what it said

    def once(self, look: Callable[[np.ndarray], Any], image: np.ndarray) -> Any:
        key = look, image.ctypes.data, image.shape, image.strides, image.dtype.str
        if key not in self._known:
            self._known[key] = look(image)
        return self._known[key]

    def problem(self, image: np.ndarray, name: str) -> str | None:
        return self.once(mask_problem if name == "mask" else hu_problem, image)


def mask_problem(image: np.ndarray) -> str | None:
    values = np.unique(image).tolist()
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        return f"the mask has the values {str(values[:6])[1:-1]}; wanted 0 and 1, or 0 and 255"
    return None


def hu_problem(image: np.ndarray) -> str | None:
    if not (finite := np.isfinite(image)).all():
        return f"{np.count_nonzero(~finite)} of its values are NaN or infinite; wanted HU"
    return None


def judge(name: str, images: list[np.ndarray], masks: list[np.ndarray | None], values: Values) -> None:
    """Refuse a column of HU, and its masks, where most rows are hardly what was meant; warn of a few."""
    tally = Tally(f"column {short(name)}", "rows")
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        tally.add(f"row {row}", [values.once(odd_hu, image)], None if mask is None else values.once(LesionExtent, mask))
    problems, warned = tally.verdict()
    if problems:
        raise RefusedError(problems[0])
    for sentence in warned:
        warnings.warn(sentence, stacklevel=1)


def place(row: int, name: str) -> str:
    return f"row {row} (counted from 0), column {short(name)}"


def short(name: str) -> str:
    return repr(name[:60])
