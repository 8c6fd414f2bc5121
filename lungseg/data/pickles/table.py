"""Read a pickled table of CT slices, such as the published pandas DataFrame, safely and without pandas.

`lungseg.data.pickles.unpickler` takes the file apart without running it, and `lungseg.data.pickles.dataframe` turns the
parts into columns. `read_table`, in this file, is the entry point, and checks every cell.
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
from lungseg.data.pickles.dataframe import NAMES, frame_columns, read_array, read_bytes, read_dtype
from lungseg.data.pickles.unpickler import Name, PickledObject, RefusedError, unpickle
from lungseg.data.plausible import LesionExtent, Tally, odd_hu
from lungseg.files import regular_file

MAX_CELLS = 1_000_000  # the published table has 2,832; an untrusted file can use one list for a thousand columns
TOO_MANY = f"the table has more than {MAX_CELLS} cells, which no table of slices needs"
MALFORMED = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


def read_table(
    path: str | Path, *, required: Sequence[str] = ("label1", "mask"), check_plausible: bool = True
) -> dict[str, list]:
    """Read a table of CT slices from a pickle, `.pkl` or `.pkl.gz`, without running anything in it.

    The file holds a DataFrame (pandas 1.5 to 3.0), a dict of lists, a dict of arrays (n, H, W) and (n,), or a list of
    dicts. Its columns are `label1` (text), `mask` (the lesion: 0 and 1, or 0 and 255) and one or more columns of CT
    values in HU, such as `hu_array` and `hu_array_old`. Capitals and outer spaces are ignored, other columns allowed.

    Args:
        path: the file. Gzip is recognised by its first two bytes.
        required: columns that must be present. There must be a column of CT values in any case.
        check_plausible: also refuse a table if a required column is hardly what was intended (`lungseg.data.plausible`)
            in more than half of its rows, and warn if it is in some. Otherwise only unusable tables are refused.

    Returns:
        column -> cells, in the order of the rows in the file, whatever their index says. An image is a read-only array
        (H, W) with the dtype that it has in the file; the images of one row have the same size. Other cells are str,
        int, float, bool or None.

    Raises:
        ValueError: one sentence with the file and, if there is one, the row (counted from 0) and column.
    """
    path = Path(path)
    try:
        value = unpickle_file(path)
        table: dict[str, list] = {}
        columns = list(iterate_columns(value))
        names = recognise([name for name, _ in columns], {"label1", "mask", *required})
        for name, (_, column) in zip(names, columns, strict=True):
            cells = list_cells(column, name, MAX_CELLS // (len(table) + 1))
            table[name] = [read_cell(cell, row, name) for row, cell in enumerate(cells)]
        check_table(table, required, check_plausible)
        return table
    except (RefusedError, ColumnError) as error:
        raise ValueError(f"{path}: {error}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ValueError(f"{path}: the gzip file is damaged or ends too early; download it again") from None
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read: {error.strerror}") from None
    except MemoryError:
        raise ValueError(f"{path}: the table needs more memory than there is") from None
    except MALFORMED:
        raise ValueError(f"{path}: the parts of the table do not fit together; download it again") from None


def unpickle_file(path: Path) -> Any:
    """Unzip the file if it is a gzip, and unpickle it."""
    with open(regular_file(path), "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size == 0:
            raise RefusedError("the file is empty")
        if file.peek(2)[:2] == b"\x1f\x8b":
            unzipped = io.BufferedReader(gzip.GzipFile(fileobj=file))
            return unpickle(unzipped, NAMES, limit=1032 * size)  # deflate compresses 1032 bytes into one at best
        return unpickle(file, NAMES, limit=size)


# From the contents of the file to cells


def iterate_columns(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, column) of a DataFrame, of a dict of columns, or of a list of rows, one by one."""
    if type(value) is PickledObject and value.name == "frame":
        value = frame_columns(value)
    if type(value) is dict:
        yield from value.items()
    elif type(value) is list and value and all(type(row) is dict for row in value):
        if len(value) * len(value[0]) > MAX_CELLS:
            raise RefusedError(TOO_MANY)
        for i, row in enumerate(value):
            if different := row.keys() ^ value[0].keys():
                raise RefusedError(f"{cell_location(i, min(different))}: the cell is missing here or in row 0")
        for name in value[0]:
            yield name, [row[name] for row in value]
    else:
        raise RefusedError("expected a pickle of a DataFrame, of a dict of columns, or of a list of dicts")


def list_cells(column: Any, name: str, at_most: int) -> list:
    """List the cells of a column, unread, from a list, an array (n,) or an array (n, H, W)."""
    if type(column) is PickledObject:
        column = read_array(column)
    if not isinstance(column, list | tuple | np.ndarray):
        found = type(column).__name__
        raise RefusedError(f"column {short_name(name)}: expected a list or an array of cells, got a {found}")
    if len(column) > at_most:
        raise RefusedError(TOO_MANY)
    return column.tolist() if isinstance(column, np.ndarray) and column.ndim != 3 else list(column)


def read_cell(value: Any, row: int, name: str) -> Any:
    """Read one cell: an image, a text, a number or None."""
    try:
        if type(value) is PickledObject and value.name == "scalar":
            dtype, data = value.args
            value = np.frombuffer(read_bytes(data), read_dtype(dtype)).item()
        elif type(value) is PickledObject:
            value = read_array(value)
        elif type(value) is Name and value.word == "missing":
            value = None
    except RefusedError as error:
        raise RefusedError(f"{cell_location(row, name)}: {error}") from None
    except MALFORMED:
        raise RefusedError(f"{cell_location(row, name)}: the cell is damaged") from None
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.size and value.dtype.kind in "biuf":
        return value
    if value is None or type(value) in (str, int, float, bool):
        return value
    found = f"an array {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    expected = "expected an image (H, W) of numbers, a text or a number"
    raise RefusedError(f"{cell_location(row, name)}: {expected}, got {found}")


# The checks of a table


def check_table(table: dict[str, list], required: Sequence[str], check_plausible: bool) -> None:
    """Raise `RefusedError` unless the required columns exist, all are equally long, and their images match."""
    if missing := [name for name in required if name not in table]:
        there = ", ".join(map(short_name, list(table)[:20])) or "no columns"
        raise RefusedError(f"column {missing[0]!r} is missing; the table has {there}")
    rows = len(next(iter(table.values()), []))
    for name, cells in table.items():
        if len(cells) != rows:
            first = short_name(next(iter(table)))
            raise RefusedError(f"column {short_name(name)} has {len(cells)} rows, but column {first} has {rows}")
    images = [name for name, cells in table.items() if any(isinstance(cell, np.ndarray) for cell in cells)]
    if not set(images) - {"mask"}:
        raise RefusedError("no column holds CT values: images (H, W), as in 'hu_array' or 'hu_array_old'")
    if "mask" in table and "mask" not in images:
        raise RefusedError("column 'mask' holds no images (H, W)")
    cache = CheckCache()
    for row in range(rows):
        first_image = table[images[0]][row]
        for name in images:
            image, check = table[name][row], mask_problem if name == "mask" else hu_problem
            if problem := shape_problem(image, first_image, images[0]) or cache.run(check, image):
                raise RefusedError(f"{cell_location(row, name)}: {problem}")
    for name in required:
        if check_plausible and name in images and name != "mask":
            check_plausible_column(name, table[name], table.get("mask", [None] * rows), cache)


def shape_problem(image: Any, first: Any, first_name: str) -> str | None:
    """Say what is wrong with the shape of an image, compared with the first image of its row."""
    if not isinstance(image, np.ndarray):
        return "expected an image, as in other rows"
    if image.shape != first.shape:
        (h, w), (first_h, first_w) = image.shape, first.shape
        return f"the image is {h} x {w} pixels, but that of {short_name(first_name)} is {first_h} x {first_w}"
    return None


def mask_problem(image: np.ndarray) -> str | None:
    """Say what is wrong with the values of a mask."""
    values = np.unique(image).tolist()
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        return f"expected a mask of 0 and 1, or of 0 and 255, got the values {str(values[:6])[1:-1]}"
    return None


def hu_problem(image: np.ndarray) -> str | None:
    """Say if an image has values that cannot be HU."""
    if not (finite := np.isfinite(image)).all():
        return f"expected HU, but {np.count_nonzero(~finite)} of its values are NaN or infinite"
    return None


class CheckCache:
    """Runs each check only once per image, because a small file can refer to one image in a million cells.

    Only results are kept, which need little memory.
    """

    def __init__(self) -> None:
        self._results: dict[tuple, Any] = {}  # check and position of the image in memory -> result

    def run(self, check: Callable[[np.ndarray], Any], image: np.ndarray) -> Any:
        """Return the result of `check(image)`, from the cache if it is there."""
        key = check, image.ctypes.data, image.shape, image.strides, image.dtype.str
        if key not in self._results:
            self._results[key] = check(image)
        return self._results[key]


def check_plausible_column(
    name: str, images: list[np.ndarray], masks: list[np.ndarray | None], cache: CheckCache
) -> None:
    """Refuse a column of HU, and its masks, if most rows are hardly what was intended; warn if only a few are."""
    tally = Tally(f"column {short_name(name)}", "rows")
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        lesion = None if mask is None else cache.run(LesionExtent, mask)
        tally.add(f"row {row}", [cache.run(odd_hu, image)], lesion)
    problems, warned = tally.verdict()
    if problems:
        raise RefusedError(problems[0])
    for sentence in warned:
        warnings.warn(sentence, stacklevel=1)


def cell_location(row: int, name: str) -> str:
    """The row and column of a cell, for a message."""
    return f"row {row} (counted from 0), column {short_name(name)}"


def short_name(name: str) -> str:
    """The name of a column in quotes, cut to 60 characters."""
    return repr(name[:60])
