"""The objects of numpy and pandas in a pickle. For arrays numpy is the oracle; test_table reads real frames."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.pickles.dataframe import (
    NAMES,
    frame_columns,
    read_array,
    read_bytes,
    read_dtype,
    read_texts,
    read_values,
)
from lungseg.data.pickles.unpickler import PickledObject, RefusedError, unpickle


def read(value, protocol=5):
    data = pickle.dumps(value, protocol)
    return unpickle(io.BytesIO(data), NAMES, limit=len(data))


# Arrays

PROTOCOLS = st.integers(2, 5)
CODES = "? i1 u1 <i2 >i2 u2 i4 u4 i8 u8 f2 f4 >f4 f8 >f8 <U4 >U2".split()


@given(
    code=st.sampled_from(CODES),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    order=st.sampled_from(["C", "F"]),
    axes=st.permutations([0, 1, 2]),
    protocol=PROTOCOLS,
)
def test_an_array_of_numbers_or_text_is_what_numpy_pickled(code, shape, order, axes, protocol):
    numbers = np.arange(np.prod(shape)).reshape(shape)
    array = np.asarray(numbers.astype(code), order=order)
    array = array.transpose([axis for axis in axes if axis < array.ndim])  # neither C nor Fortran order
    ours = read_array(read(array, protocol))
    assert ours.dtype == array.dtype
    np.testing.assert_array_equal(ours, array)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=2), st.sampled_from(["C", "F"]), PROTOCOLS)
def test_an_array_of_objects_holds_them_in_their_positions(shape, order, protocol):
    array = np.empty(shape, object, order=order)
    for i, index in enumerate(np.ndindex(*shape)):
        array[index] = [i, [f"text {i}"], None][i % 3]  # a list is one object: numpy must not look into it
    ours = read_array(read(array, protocol))
    assert ours.tolist() == array.tolist() and ours.shape == array.shape


def test_a_large_array_is_a_view_of_the_bytes_that_were_read():
    pickled = read(np.zeros((300, 200)))
    array = read_array(pickled)
    assert np.shares_memory(array, np.frombuffer(pickled.args[0], np.uint8)) and not array.flags.writeable


def test_an_array_is_made_once_however_often_the_file_refers_to_it():
    shared = np.array(["a", [1]], dtype=object)
    first, second = read([shared, shared])
    assert read_array(first) is read_array(second)
    text = PickledObject("bytes", ("é" * 10, "latin-1"))
    assert read_bytes(text) == b"\xe9" * 10 and read_bytes(text) is read_bytes(text)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["2020-01-01"], "M8[D]"),
        np.array([1], "m8[s]"),
        np.array([1j]),
        np.array([b"bytes"]),
        np.zeros(1, np.longdouble),
        np.zeros(1, [("a", "i4")]),
        np.zeros(1, "V3"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_other_types_of_number_are_refused(array):
    with pytest.raises((RefusedError, ValueError, TypeError)) as refusal:
        read_array(read(array))
    assert "expected an array of bool, int, float, text or object" in str(refusal.value)


def test_the_type_of_an_array_is_never_built_from_a_free_text():
    for code in ["f8,f8", "O8\n", "U99999", "U0", "i16", "(1000,1000)f8", "object"]:
        dtype = PickledObject("dtype", (code, False, True))
        dtype.state = (3, "<", None, None, None, -1, -1, 0)
        with pytest.raises(RefusedError, match="got type"):
            read_dtype(dtype)


FLOATS = read(np.array(0.5)[None]).args[1]  # the pickled dtype, as numpy writes it


@pytest.mark.parametrize("shape", [(3,), (10**12,), (2, 2), (-1,), (1, 1, 1, 2)])
def test_an_array_whose_bytes_do_not_match_its_shape_is_refused(shape):
    with pytest.raises(RefusedError, match="does not match its shape"):
        read_array(PickledObject("buffer", (b"\0" * 16, FLOATS, shape, "C")))


@pytest.mark.parametrize("shape", [(-2, -1), (2.0,), 2, None, "2"])
def test_a_bad_shape_is_refused(shape):
    with pytest.raises((ValueError, TypeError)):
        read_array(PickledObject("buffer", (b"\0" * 16, FLOATS, shape, "C")))


def test_an_object_that_is_not_an_array_is_refused():
    with pytest.raises(RefusedError, match="expected an array, got a slice"):
        read_array(read(slice(1)))


# Frames


def frame(*blocks, names=("a", "b", "c")):
    """A DataFrame as the file has it; each block is (values, where its columns belong)."""
    index = PickledObject("index", (None, {"data": read(np.array(names, object)), "name": None}))
    blocks = tuple(PickledObject("block", (values, positions, 2)) for values, positions in blocks)
    pickled = PickledObject("frame", ())
    pickled.state = {"_mgr": PickledObject("manager", (blocks, [index, None]))}
    return pickled


NUMBERS, TEXTS = read(np.array([[1, 2], [3, 4]])), read(np.array([["x", "y"]], object))


def columns(pickled):
    return {name: cells.tolist() for name, cells in frame_columns(pickled).items()}


@pytest.mark.parametrize(
    "positions",
    [PickledObject("slice", (0, 3, 2)), PickledObject("slice", (0, 4, 2)), read(np.array([0, 2]))],
    ids=["slice", "longer slice", "array"],
)
def test_the_columns_of_a_block_go_where_it_says(positions):
    pickled = frame((NUMBERS, positions), (TEXTS, PickledObject("slice", (1, 2, 1))))
    assert columns(pickled) == {"a": [1, 2], "b": ["x", "y"], "c": [3, 4]}
    assert list(columns(pickled)) == ["a", "b", "c"]


@pytest.mark.parametrize("position", [0, 2, 3])
def test_a_frame_with_a_column_twice_or_missing_is_refused(position):
    positions = PickledObject("slice", (position, position + 1, 1))
    with pytest.raises((RefusedError, IndexError)):
        columns(frame((NUMBERS, PickledObject("slice", (0, 3, 2))), (TEXTS, positions)))


def test_more_positions_than_columns_are_refused_without_counting_them():
    with pytest.raises(ValueError):
        columns(frame((NUMBERS, PickledObject("slice", (0, 10**18, 1)))))


def test_a_block_with_a_column_that_belongs_nowhere_is_refused():
    with pytest.raises(ValueError):
        columns(frame((NUMBERS, PickledObject("slice", (0, 1, 1))), names=("a",)))


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(RefusedError, match="two columns have the same name"):
        columns(frame((NUMBERS, PickledObject("slice", (0, 2, 1))), names=("a", "a")))


def test_a_column_whose_name_is_not_text_is_refused():
    with pytest.raises(RefusedError, match="a column has no name"):
        columns(frame((NUMBERS, PickledObject("slice", (0, 2, 1))), names=("a", 1)))


# Columns of text


def wrapped_texts(values):
    pickled = PickledObject("texts", (None, 0, None))
    pickled.state = (PickledObject("class", ("python", float("nan"))), read(np.array(values, object)))
    return pickled


def test_the_texts_of_pandas_3_are_an_array_in_a_wrapper():
    assert read_texts(wrapped_texts(["LR2", "LR4A"])).tolist() == ["LR2", "LR4A"]
    assert read_values(wrapped_texts(["LR2"])).tolist() == ["LR2"]


def arrow_texts(texts, *, start=0, ends=None, kind="large_string", length=None):
    """Arrow's layout as pyarrow pickles it: bits, 64-bit ends, one run of UTF-8."""
    encoded = [(text or "").encode() for text in texts]
    if ends is None:
        ends = np.cumsum([0, *map(len, encoded)])
    bits = np.packbits(np.array([text is not None for text in texts], bool), bitorder="little").tobytes()
    buffers = [
        PickledObject("arrow buffer", (bits,)) if None in texts else None,
        PickledObject("arrow buffer", (np.asarray(ends, "<i8").tobytes(),)),
        PickledObject("arrow buffer", (b"".join(encoded),)),
    ]
    length = len(texts) - start if length is None else length
    array = (PickledObject("arrow type", (kind,)), length, texts.count(None), start, buffers, [], None)
    pickled = PickledObject("arrow texts", ())
    pickled.state = {"_pa_array": PickledObject("arrow array", (array,))}
    return pickled


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8"))), st.data())
def test_arrow_texts_are_cut_at_their_ends(texts, data):
    start = data.draw(st.integers(0, len(texts)))
    assert read_texts(arrow_texts(texts, start=start)).tolist() == texts[start:]


@pytest.mark.parametrize("ends", [[0, 2, 1], [-1, 1, 2], [0, 1], [0, 2**63 - 1, -5]])
def test_arrow_ends_that_go_back_are_refused_because_texts_could_be_repeated_without_end(ends):
    with pytest.raises(RefusedError, match="Arrow texts is damaged"):
        read_texts(arrow_texts(["a", "b"], ends=ends))


def test_another_arrow_layout_is_refused():
    with pytest.raises(RefusedError, match="not stored as large_string"):
        read_texts(arrow_texts(["a"], kind="string_view"))
