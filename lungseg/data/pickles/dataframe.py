"""What the names in a pickled pandas DataFrame mean: from records to arrays, from arrays to columns.

`lungseg.data.pickles.unpickler` writes down what a file asks for and calls nothing. This file knows the functions and
classes that numpy and pandas name in a table of slices, and does what they would do, for plain arrays only.
"""

import math
import re

import numpy as np

from lungseg.data.pickles.unpickler import PickledObject, RefusedError

# What a file may name, by our word for it. The names differ between numpy 1 and 2, and pandas 1.5 and 3.0.
WORDS = {
    "dtype": ["numpy.dtype"],
    "array": ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"],
    "buffer": ["numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"],
    "scalar": ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"],
    # Protocol 2 writes bytes as a text to encode, and protocols 2 to 4 a bytearray as a call with bytes.
    "bytes": ["_codecs.encode", "builtins.bytearray", "__builtin__.bytearray"],
    "slice": ["builtins.slice", "__builtin__.slice"],
    "frame": ["pandas.core.frame.DataFrame", "pandas.DataFrame"],
    "manager": ["pandas.core.internals.managers.BlockManager"],
    "block": ["pandas._libs.internals._unpickle_block", "pandas.core.internals.blocks.new_block"],
    "index": ["pandas.core.indexes.base._new_Index"],
    "texts": ["pandas._libs.arrays.__pyx_unpickle_NDArrayBacked"],
    "arrow texts": ["pandas.arrays.ArrowStringArray"],
    "arrow array": ["pyarrow.lib._restore_array"],
    "arrow buffer": ["pyarrow.lib.py_buffer"],
    "arrow type": ["pyarrow.lib.type_for_alias"],
    "missing": ["pandas.NA", "pandas._libs.missing.NA"],
    "class": [  # which of these a file gives to the functions above makes no difference here
        "numpy.ndarray",
        "pandas.Index",
        "pandas.RangeIndex",
        "pandas.StringDtype",
        "pandas.arrays.StringArray",
        "pandas.core.indexes.base.Index",
        "pandas.core.indexes.numeric.Int64Index",
        "pandas.core.indexes.range.RangeIndex",
        "pandas.core.arrays.string_.StringArray",
        "pandas.core.arrays.string_.StringDtype",
    ],
}
NAMES = {tuple(path.rsplit(".", 1)): word for word, paths in WORDS.items() for path in paths}
DTYPE = re.compile(r"O8|b1|[iu][1248]|f[248]|U[1-9][0-9]{0,3}")  # object, bool, int, float, text


# Arrays: the records of numpy


def dtype_of(record: PickledObject) -> np.dtype:
    """Called with a code such as "f8"; then given (version, byte order, ...)."""
    code, order = record.args[0], record.state[1]
    if record.name != "dtype" or not DTYPE.fullmatch(code) or order not in ("<", ">", "|"):
        raise RefusedError(f"an array is of type {ascii(code)[:40]}, not bool, int, float, text or object")
    return np.dtype(code).newbyteorder(order)


def bytes_of(value: bytes | PickledObject) -> bytes:
    """Bytes; or the text that protocol 2 has for them, a character for a byte; or a bytearray of either.

    Made once for a record, however often the file refers to it: else a small file could ask for many copies.
    """
    if type(value) is bytes:
        return value
    if value.state is None:
        content = value.args[0]
        value.state = content.encode("latin-1") if type(content) is str else bytes_of(content)
    return value.state


def array_of(record: PickledObject) -> np.ndarray:
    """The array that a record stands for; made once too."""
    if record.name != "done":
        record.name, record.state = "done", build_array(record)
    return record.state


def build_array(record: PickledObject) -> np.ndarray:
    """Numbers and text: a view of the file's bytes. Objects: what the file put there, not yet looked at."""
    if record.name == "buffer":  # protocol 5
        data, dtype, shape, order, *axes = record.args
    elif record.name == "array":  # before: an empty array is made, then given its state
        _, shape, dtype, is_fortran, data = record.state
        order, axes = "F" if is_fortran else "C", []
    else:
        raise RefusedError(f"an array was expected where the file has a {record.name}")
    dtype = dtype_of(dtype)
    if dtype.kind == "O":
        flat = np.empty(len(data), object)
        for i, item in enumerate(data):  # flat[:] = data would look into the items
            flat[i] = item
        return flat.reshape(shape)  # numpy lists objects row by row, in Fortran order too
    data = bytes_of(data)
    if len(shape) > 3 or math.prod(shape) * dtype.itemsize != len(data):
        raise RefusedError(f"an array has {len(data)} bytes, which is not what its size needs")
    flat = np.frombuffer(data, dtype)
    # order "K": stored row by row with the axes in memory order, then put in their places
    return flat.reshape(shape).transpose(axes[0]) if order == "K" else flat.reshape(shape, order=order)


# Columns: the records of pandas


def texts_of(record: PickledObject) -> np.ndarray:
    """A column of text in pandas 3: an object array in a wrapper, or Arrow's layout if pyarrow was there.

    Arrow's `large_string` is (type, length, missing, start, buffers, ...). Its buffers hold a bit per row
    that says whether the text is there (None: all are), the ends of the texts (64 bits), and all texts in one
    run of UTF-8. See "Variable-size Binary Layout" in the Arrow columnar format.
    """
    if record.name == "texts":
        return next(array_of(part) for part in record.state if part.name in ("array", "buffer", "done"))
    kind, length, _, start, buffers, *_ = record.state["_pa_array"].args[0]
    if kind.args != ("large_string",):
        raise RefusedError("a column of Arrow texts is not stored as large_string")
    there, ends, run = (bytes_of(buffer.args[0]) if buffer else None for buffer in buffers)
    ends = np.frombuffer(ends, "<i8")[start : start + length + 1]  # (length + 1,)
    if len(ends) != length + 1 or ends[0] < 0 or (ends[1:] < ends[:-1]).any():
        raise RefusedError("a column of Arrow texts is damaged")
    texts = np.array([str(run[a:b], "utf-8") for a, b in zip(ends[:-1], ends[1:], strict=True)], object)
    if there is not None:
        is_there = np.unpackbits(np.frombuffer(there, np.uint8), bitorder="little")[start : start + length]
        texts[is_there == 0] = None
    return texts


def values_of(record: PickledObject) -> np.ndarray:
    return texts_of(record) if record.name in ("texts", "arrow texts") else array_of(record)


def frame_columns(frame: PickledObject) -> dict[str, np.ndarray]:
    """A DataFrame keeps the columns of one type in one block (columns, rows), and notes where each belongs.

    The second axis, the index, is not needed: the cells are stored in the order of the rows.
    """
    blocks, (names, _) = frame.state["_mgr"].args
    names = values_of(names.args[1]["data"]).tolist()
    if not all(type(name) is str for name in names):
        raise RefusedError("a column has no name, or one that is not text")
    found = {}
    for block in blocks:
        values, places, _ = block.args
        rows = np.atleast_2d(values_of(values))  # (columns, rows); a block of text has one column, (rows,)
        places = range(*places.args) if places.name == "slice" else array_of(places).tolist()
        found.update(zip((names[i] for i in places), rows, strict=True))
    if len(found) != len(names):
        raise RefusedError("two columns have the same name, or a column has no cells")
    return {name: found[name] for name in names}
