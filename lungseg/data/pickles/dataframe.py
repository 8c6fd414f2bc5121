"""Turn the objects of a pickled pandas DataFrame into arrays, and the arrays into columns.

`lungseg.data.pickles.unpickler` notes the calls that a file asks for, as `PickledObject`s, and makes none. This
file knows the functions and classes of numpy and pandas that occur in a table of slices, and does the work of each, for
plain arrays only.
"""

import math
import re

import numpy as np

from lungseg.data.pickles.unpickler import PickledObject, RefusedError

# What a file may name, by our short name for it. The full names differ between numpy 1 and 2, and pandas 1.5 and 3.0.
WORDS = {
    "dtype": ["numpy.dtype"],
    "array": ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"],
    "buffer": ["numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"],
    "scalar": ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"],
    # Protocol 2 writes bytes as a text to encode, and protocols 2 to 4 write a bytearray as a call with bytes.
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
    "class": [  # arguments of the functions above; which of these it is makes no difference here
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
NAMES = {
    (module, name): word
    for word, paths in WORDS.items()
    for path in paths
    for module, _, name in [path.rpartition(".")]
}
DTYPE = re.compile(r"O8|b1|[iu][1248]|f[248]|U[1-9][0-9]{0,3}")  # object, bool, int, float, text


# Arrays: the objects of numpy


def read_dtype(pickled: PickledObject) -> np.dtype:
    """Read a dtype, which is called with a code such as "f8" and whose state is (version, byte order, ...)."""
    code, order = pickled.args[0], pickled.state[1]
    if pickled.name != "dtype" or not DTYPE.fullmatch(code) or order not in ("<", ">", "|"):
        raise RefusedError(f"expected an array of bool, int, float, text or object, got type {ascii(code)[:40]}")
    return np.dtype(code).newbyteorder(order)


def read_bytes(value: bytes | PickledObject) -> bytes:
    """Read bytes, or the text that protocol 2 has instead (a character per byte), or a bytearray of either.

    They are made once for each object, however often the file refers to it; otherwise a small file could ask for many
    copies.
    """
    if isinstance(value, bytes):
        return value
    if value.state is None:
        content = value.args[0]
        value.state = content.encode("latin-1") if type(content) is str else read_bytes(content)
    return value.state


def read_array(pickled: PickledObject) -> np.ndarray:
    """Read an array, which is also made only once: from then on, the object is "done" and its state is the array."""
    if pickled.name != "done":
        pickled.name, pickled.state = "done", build_array(pickled)
    return pickled.state


def build_array(pickled: PickledObject) -> np.ndarray:
    """Numbers and text become a view of the file's bytes; objects remain as the file has them."""
    if pickled.name == "buffer":  # protocol 5
        data, pickled_dtype, shape, order, *axes = pickled.args
    elif pickled.name == "array":  # earlier protocols: an empty array is made, then its state is set
        _, shape, pickled_dtype, is_fortran, data = pickled.state
        order, axes = "F" if is_fortran else "C", []
    else:
        raise RefusedError(f"expected an array, got a {pickled.name}")
    dtype = read_dtype(pickled_dtype)
    if dtype.kind == "O":
        flat = np.empty(len(data), object)
        for i, item in enumerate(data):  # not flat[:] = data, which would look into the items
            flat[i] = item
        return flat.reshape(shape)  # numpy lists objects row by row, in Fortran order too
    data = read_bytes(data)
    if len(shape) > 3 or math.prod(shape) * dtype.itemsize != len(data):
        raise RefusedError(f"an array has {len(data)} bytes, which does not match its shape")
    flat = np.frombuffer(data, dtype)
    # Order "K": stored row by row with the axes in the order of memory, then transposed.
    return flat.reshape(shape).transpose(axes[0]) if order == "K" else flat.reshape(shape, order=order)


# Columns: the objects of pandas


def read_texts(pickled: PickledObject) -> np.ndarray:
    """Read a text column of pandas 3: an object array in a wrapper, or Arrow's layout if pyarrow was installed.

    Arrow's `large_string` is (type, length, missing, start, buffers, ...). Its three buffers are a bit per row that
    says if the text is present (None if all are), the ends of the texts (64 bits), and the UTF-8 of all texts in
    sequence. See "Variable-size Binary Layout" in the Arrow columnar format.
    """
    if pickled.name == "texts":
        return next(read_array(part) for part in pickled.state if part.name in ("array", "buffer", "done"))
    kind, length, _, start, buffers, *_ = pickled.state["_pa_array"].args[0]
    if kind.args != ("large_string",):
        raise RefusedError("a column of Arrow texts is not stored as large_string")
    presence, end_buffer, text_buffer = buffers
    utf8 = read_bytes(text_buffer.args[0])
    ends = np.frombuffer(read_bytes(end_buffer.args[0]), "<i8")[start : start + length + 1]  # (length + 1,)
    if len(ends) != length + 1 or ends[0] < 0 or np.any(ends[1:] < ends[:-1]):
        raise RefusedError("a column of Arrow texts is damaged")
    texts = np.array([str(utf8[a:b], "utf-8") for a, b in zip(ends[:-1], ends[1:], strict=True)], np.object_)
    if presence is not None:
        bits = np.unpackbits(np.frombuffer(read_bytes(presence.args[0]), np.uint8), bitorder="little")
        texts[bits[start : start + length] == 0] = None
    return texts


def read_values(pickled: PickledObject) -> np.ndarray:
    """Read the values of a block or index: a column of text, or an array."""
    return read_texts(pickled) if pickled.name in ("texts", "arrow texts") else read_array(pickled)


def frame_columns(frame: PickledObject) -> dict[str, np.ndarray]:
    """Collect the columns of a DataFrame, name -> cells, in their order.

    A DataFrame keeps the columns of one type in one block (columns, rows), with the position of each column. Its row
    index is not needed, because cells are stored in the order of the rows.
    """
    blocks, (column_index, _) = frame.state["_mgr"].args
    names = read_values(column_index.args[1]["data"]).tolist()
    if not all(type(name) is str for name in names):
        raise RefusedError("a column has no name, or one that is not text")
    found: dict[str, np.ndarray] = {}
    for block in blocks:
        values, where, _ = block.args
        columns = np.atleast_2d(read_values(values))  # (columns, rows); a block of text has one column, (rows,)
        positions = range(*where.args) if where.name == "slice" else read_array(where).tolist()
        found.update(zip((names[i] for i in positions), columns, strict=True))
    if len(found) != len(names):
        raise RefusedError("two columns have the same name, or a column has no cells")
    return {name: found[name] for name in names}
