"""The published table and others of its form: read as they are, or refused with the file, row and column."""

import gzip
import os
import pickle
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import lungseg.data.pickles.table
from lungseg.data.pickles.table import read_cell, read_table
from lungseg.data.pickles.unpickler import Name, PickledObject

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "tests/fixtures/lungrads"
WRITERS = sorted(FIXTURES.glob("*.pkl"))
SAMPLE = Path(os.environ.get("LUNGSEG_DATA", "nowhere"), "lung_cancer_sample.pkl.gz")


def table(rows=3, size=(4, 5)):
    """A good table; the tests break one thing in it."""
    ct = np.arange(rows * size[0] * size[1], dtype=float).reshape(rows, *size) - 1000
    return {
        "label1": [f"LR{i}" for i in range(rows)],
        "mask": [(image % 3 == 0).astype(np.int8) for image in ct],
        "hu_array": list(ct),
        "hu_array_old": list(ct - 24),
    }


def save(path, value, protocol=5):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def refusal(path, **options):
    """The sentence with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        read_table(path, **options)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ") and "\n" not in sentence and caught.value.__cause__ is None
    return sentence.removeprefix(f"{path}: ")


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name in theirs:
        assert len(ours[name]) == len(theirs[name])
        for cell, expected in zip(ours[name], theirs[name], strict=True):
            if isinstance(expected, np.ndarray):
                assert cell.dtype == expected.dtype
                np.testing.assert_array_equal(cell, expected)
            else:
                assert type(cell) is type(expected) and cell == expected


# The published format


@pytest.mark.parametrize("zipped", [False, True], ids=["pkl", "gz"])
@pytest.mark.parametrize("path", WRITERS, ids=lambda path: path.stem)
def test_a_dataframe_gives_its_true_columns(path, zipped, tmp_path):
    rows = [3, 1, 5] if "reordered" in path.stem else range(6)  # the rows that were taken, in that order
    with np.load(FIXTURES / "expected.npz") as truth:
        expected = {name: [truth[name][row] for row in rows] for name in truth.files}
    expected["label1"] = [str(label) for label in expected["label1"]]
    if zipped:
        plain, path = path, tmp_path / "no_matter_how_it_is_called"
        path.write_bytes(gzip.compress(plain.read_bytes()))
    assert_same(read_table(path), expected)


@pytest.mark.skipif(not SAMPLE.exists(), reason="LUNGSEG_DATA names no folder with the sample")
def test_the_sample_of_the_published_format_is_read():
    sample = read_table(SAMPLE, required=("label1", "mask", "hu_array", "hu_array_old"))
    assert list(sample) == ["label1", "mask", "hu_array", "hu_array_old"]
    assert all(type(label) is str for label in sample["label1"]) and len(sample["label1"]) == 4
    for mask, ct in zip(sample["mask"], sample["hu_array_old"], strict=True):
        assert mask.shape == ct.shape == (512, 512) and mask.dtype == np.int8 and ct.dtype == np.float64
        assert set(np.unique(mask)) == {0, 1} and ct.min() < -1000 < ct.max()


# Plain dicts and lists

LABELS = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text()


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 4))
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    lesion, dtype = draw(st.sampled_from([1, 255])), draw(st.sampled_from(["f8", "f4", "i2", ">i2", "i4"]))
    result = {
        "label1": draw(st.lists(LABELS, min_size=rows, max_size=rows)),
        "mask": [np.where(rng.random(size) < 0.5, lesion, 0).astype(np.int16) for _ in range(rows)],
        "hu_array": [rng.integers(-2048, 3000, size).astype(dtype) for _ in range(rows)],
    }
    order = draw(st.permutations(list(result)))
    return {name: result[name] for name in order}


quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(expected=tables(), protocol=st.integers(2, 5))
def test_a_dict_of_lists_comes_back_as_it_is(expected, protocol, tmp_path):
    assert_same(read_table(save(tmp_path / "t.pkl", expected, protocol)), expected)


@quick
@given(expected=tables(), protocol=st.integers(2, 5))
def test_a_list_of_dicts_comes_back_as_columns(expected, protocol, tmp_path):
    rows = [dict(zip(expected, cells, strict=True)) for cells in zip(*expected.values(), strict=True)]
    assert_same(read_table(save(tmp_path / "t.pkl", rows, protocol)), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_dict_of_arrays_comes_back_as_lists_of_its_rows(protocol, tmp_path):
    expected = table()
    arrays = {name: np.array(cells) for name, cells in expected.items()}
    arrays["spacing_mm"] = np.array([0.5, 0.7, 0.9])
    arrays["note"] = np.array(["a", None, "c"], object)
    ours = read_table(save(tmp_path / "t.pkl", arrays, protocol))
    assert_same(ours, expected | {"spacing_mm": [0.5, 0.7, 0.9], "note": ["a", None, "c"]})


def test_a_tuple_of_cells_is_as_good_as_a_list(tmp_path):
    columns = {name: tuple(cells) for name, cells in table().items()}
    assert_same(read_table(str(save(tmp_path / "t.pkl", columns))), table())


def test_numpy_scalars_in_cells_become_python_values(tmp_path):
    cells = [np.float32(0.5), np.int64(3), np.str_("text")]
    ours = read_table(save(tmp_path / "t.pkl", table() | {"extra": cells}))
    assert ours["extra"] == [0.5, 3, "text"] and [type(cell) for cell in ours["extra"]] == [float, int, str]


def test_an_image_is_a_read_only_view(tmp_path):
    path = save(tmp_path / "t.pkl", table())
    assert not read_table(path)["hu_array"][0].flags.writeable


# Refusals: missing or mismatched parts


@pytest.mark.parametrize("column", ["label1", "mask"])
def test_a_missing_column_is_named(column, tmp_path):
    broken = table()
    del broken[column]
    assert f"column '{column}' is missing; the table has '" in refusal(save(tmp_path / "t.pkl", broken))


@pytest.mark.parametrize("form", [dict, "rows"])
def test_names_of_columns_may_have_spaces_and_capitals(form, tmp_path):
    good = table()
    named = dict(zip([" Label1", "MASK ", "hu_array", "HU_Array_old "], good.values(), strict=True))
    rows = [dict(zip(named, cells, strict=True)) for cells in zip(*named.values(), strict=True)]
    read = read_table(save(tmp_path / "t.pkl", rows if form == "rows" else named), required=("mask", "hu_array_old"))
    assert list(read) == list(good) and read["label1"] == good["label1"]
    read = read_table(save(tmp_path / "t.pkl", {"HU": named["hu_array"], "n": [1, 2, 3]}), required=("hu",))
    assert list(read) == ["hu", "n"]
    with pytest.raises(ValueError, match="t.pkl: 'mask' and ' Mask' are the same name. Remove one"):
        read_table(save(tmp_path / "t.pkl", good | {" Mask": good["mask"]}))


def test_the_caller_says_which_columns_must_be_there(tmp_path):
    only = {name: cells for name, cells in table().items() if name in ("hu_array", "label1")}
    path = save(tmp_path / "t.pkl", only)
    assert list(read_table(path, required=["hu_array"])) == ["label1", "hu_array"]
    assert "column 'hu_array_old' is missing" in refusal(path, required=["hu_array_old"])


def test_a_table_without_ct_values_is_refused(tmp_path):
    without = {name: cells for name, cells in table().items() if not name.startswith("hu_array")}
    assert "no column holds CT values" in refusal(save(tmp_path / "t.pkl", without))


def broken_at_row_1(column, cell):
    broken = table()
    broken[column][1] = cell
    return broken


MASK, CT = np.zeros((4, 5), np.int8), np.zeros((4, 5))


def with_value(image, value):
    image = image.astype(np.result_type(image, np.min_scalar_type(value)))
    image[2, 3] = value
    return image


BAD_CELLS = [
    ("mask", np.zeros((4, 6), np.int8), "the image is 4 x 5 pixels, but that of 'mask' is 4 x 6"),
    ("hu_array_old", np.zeros((5, 4)), "the image is 5 x 4 pixels, but that of 'mask' is 4 x 5"),
    ("mask", with_value(MASK, 2), "expected a mask of 0 and 1, or of 0 and 255, got the values 0, 2"),
    ("mask", with_value(MASK, -1), "got the values -1, 0"),
    ("mask", np.array([[0, 1, 255, 0, 0]] * 4), "got the values 0, 1, 255"),
    ("mask", with_value(CT, 0.5), "got the values 0.0, 0.5"),
    ("mask", with_value(CT, np.nan), "got the values 0.0, nan"),
    ("hu_array", with_value(CT, np.nan), "1 of its values are NaN or infinite"),
    ("hu_array", with_value(CT, -np.inf), "1 of its values are NaN or infinite"),
    ("hu_array", CT[0], "got an array (5,)"),
    ("hu_array", CT[:, :, None], "got an array (4, 5, 1)"),
    ("hu_array", CT[:0], "got an array (0, 5)"),
    ("hu_array", CT.astype(object), "got an array (4, 5)"),
    ("hu_array", CT.astype(str), "got an array (4, 5)"),
    ("hu_array", CT.astype(complex), "expected an array of bool, int, float, text or object"),
    ("hu_array", CT.tolist(), "got a list"),
    ("hu_array", None, "expected an image, as in other rows"),
    ("label1", b"LR2", "got a bytes"),
    ("label1", ["LR2"], "got a list"),
    ("label1", {"a": 1}, "got a dict"),
    ("label1", slice(1), "expected an array, got a slice"),
]


@pytest.mark.parametrize("column, cell, sentence", BAD_CELLS)
def test_a_bad_cell_is_named_by_row_and_column(column, cell, sentence, tmp_path):
    got = refusal(save(tmp_path / "t.pkl", broken_at_row_1(column, cell)))
    other = "hu_array" if "image is 4 x 5" in sentence else column  # a wrong first image shows at the second
    assert got.startswith(f"row 1 (counted from 0), column '{other}': ") and sentence in got


def test_rows_may_differ_in_size_from_each_other(tmp_path):
    small, large = table(1, (2, 3)), table(1, (5, 4))
    mixed = {name: small[name] + large[name] for name in small}
    assert [image.shape for image in read_table(save(tmp_path / "t.pkl", mixed))["mask"]] == [(2, 3), (5, 4)]


def test_columns_of_different_length_are_refused(tmp_path):
    broken = table()
    broken["hu_array"].pop()
    path = save(tmp_path / "t.pkl", broken)
    assert "column 'hu_array' has 2 rows, but column 'label1' has 3" in refusal(path)


def test_a_row_with_other_columns_is_refused(tmp_path):
    rows = [{"label1": "a", "mask": MASK, "hu_array": CT}, {"label1": "b", "hu_array": CT}]
    path = save(tmp_path / "t.pkl", rows)
    assert "row 1 (counted from 0), column 'mask': the cell is missing" in refusal(path)


NOTHING = [[], {}, None, 3, "text", [1, 2], [{}], {"label1": "LR2"}, {"label1": None}, CT]


@pytest.mark.parametrize("nothing", NOTHING, ids=str)
def test_a_pickle_without_a_table_is_refused(nothing, tmp_path):
    assert refusal(save(tmp_path / "t.pkl", nothing))


def test_a_mask_that_is_not_an_image_is_refused(tmp_path):
    assert "column 'mask' holds no images" in refusal(save(tmp_path / "t.pkl", table() | {"mask": [0, 1, 0]}))


def test_a_missing_value_of_pandas_is_none_and_a_class_is_not_a_cell():
    assert read_cell(Name("missing"), 0, "label1") is None
    with pytest.raises(ValueError, match="row 0 .*got a Name"):
        read_cell(Name("class"), 0, "label1")


def test_too_little_memory_is_one_sentence(tmp_path, monkeypatch):
    def unpickle(*args, **options):
        raise MemoryError

    monkeypatch.setattr(lungseg.data.pickles.table, "unpickle", unpickle)
    assert "more memory than there is" in refusal(save(tmp_path / "t.pkl", table()))


def test_no_rows_are_refused(tmp_path):
    assert "no column holds CT values" in refusal(save(tmp_path / "t.pkl", {name: [] for name in table()}))


def test_a_column_name_that_is_not_text_is_refused(tmp_path):
    assert "of type int, but text" in refusal(save(tmp_path / "t.pkl", {3: [1]}))


@pytest.mark.parametrize(
    "many", [{c: ["x"] * 50 for c in "abcde"}, [dict.fromkeys("abcde")] * 50, {"a": np.zeros(300)}]
)
def test_a_table_of_too_many_cells_is_refused_before_they_are_read(many, tmp_path, monkeypatch):
    monkeypatch.setattr(lungseg.data.pickles.table, "MAX_CELLS", 200)
    assert "more than" in refusal(save(tmp_path / "t.pkl", many))


# Refusals: the file itself


@pytest.mark.parametrize("form", ["list", "array"])
def test_an_image_that_rows_share_is_checked_once(form, tmp_path, monkeypatch):
    seen = []
    look = lungseg.data.pickles.table.hu_problem
    monkeypatch.setattr(lungseg.data.pickles.table, "hu_problem", lambda image: seen.append(image) or look(image))
    ct, mask = np.arange(9.0).reshape(3, 3) - 1000, np.eye(3, dtype=np.int8)
    shared = {"mask": [mask] * 500, "hu_array": [ct] * 500}
    if form == "array":  # two columns are the same stack
        stack = np.stack([ct] * 4)
        shared = {"mask": np.stack([mask] * 4), "hu_array": stack, "hu_array_old": stack}
    read_table(save(tmp_path / "t.pkl", shared), required=("mask", "hu_array"))
    assert len(seen) == (1 if form == "list" else 4)


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "t.pkl")
    with pytest.raises(ValueError, match="t.pkl: the file cannot be read: it is a pipe"):
        read_table(tmp_path / "t.pkl")


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    assert "cannot be read: No such file" in refusal(tmp_path / "absent.pkl")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04", "not a pickle"),
        (gzip.compress(b"", mtime=0), "not a pickle"),
        (gzip.compress(b"id,label\n", mtime=0), "not a pickle"),
        (b"\x1f\x8b", "the gzip file is damaged or ends too early"),
        (gzip.compress(b"", mtime=0)[:10] + b"\xff" * 9, "the gzip file is damaged or ends too early"),
        (b"\x1f\x8b\x07" + bytes(20), "the gzip file is damaged or ends too early"),
    ],
)
def test_a_file_that_is_not_a_pickle_is_refused(content, sentence, tmp_path):
    path = tmp_path / "t.pkl"
    path.write_bytes(content)
    assert sentence in refusal(path)


@pytest.mark.parametrize("path", WRITERS[::3], ids=lambda path: path.stem)
def test_a_truncated_file_is_refused_wherever_it_ends(path, tmp_path):
    whole, cut = path.read_bytes(), tmp_path / "cut.pkl"
    for end in np.linspace(1, len(whole) - 1, 60, dtype=int):
        cut.write_bytes(whole[:end])
        assert re.search("ends too early|protocol none|not a pickle", refusal(cut))


@pytest.mark.parametrize("where", ["header", "data", "checksum"])
def test_a_truncated_or_edited_gzip_is_refused(where, tmp_path):
    whole = gzip.compress(pickle.dumps(table(20, (30, 30))), mtime=0)
    path = tmp_path / "t.pkl.gz"
    for end in (5, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert "the gzip file is damaged or ends too early" in refusal(path)
    position = {"header": 2, "data": len(whole) // 2, "checksum": len(whole) - 8}[where]
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
    assert refusal(path)


class Runs:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({self.target!r}).touch()",)


@pytest.mark.parametrize("where", ["cell", "column", "row", "whole", "array", "after"])
def test_a_program_hidden_in_a_table_is_named_and_does_not_run(where, tmp_path):
    program, data = Runs(tmp_path / "it_ran"), table()
    data["label1"][2] = program if where == "cell" else "LR2"
    data |= {"column": {"extra": program}, "array": {"extra": np.array([program] * 3)}}.get(where, {})
    path = tmp_path / "t.pkl"
    if where == "after":
        path.write_bytes(pickle.dumps(data) + pickle.dumps(program))
        assert "left over after the end" in refusal(path)
    else:
        value = {"row": [dict.fromkeys(data), program], "whole": program}.get(where, data)
        assert "the pickle names builtins.eval, which" in refusal(save(path, value))
    assert not (tmp_path / "it_ran").exists()


def test_an_object_scalar_is_refused_because_numpy_once_unpickled_it(tmp_path):
    dtype = PickledObject("dtype", ("O8", False, True))
    dtype.state = (3, "|", None, None, None, -1, -1, 63)
    with pytest.raises(ValueError, match="row 1 .*the cell is damaged"):
        read_cell(PickledObject("scalar", (dtype, pickle.dumps(Runs(tmp_path / "it_ran")))), 1, "label1")
    assert not (tmp_path / "it_ran").exists()


# Any bytes


@settings(quick, max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), flips=st.integers(1, 20), writer=st.sampled_from(WRITERS))
def test_a_file_with_flipped_bytes_is_read_or_refused(seed, flips, writer, tmp_path):
    data, rng = bytearray(writer.read_bytes()), np.random.default_rng(seed)
    # Most bytes are pixels, so half of the flips go before the first image and after the last.
    near = rng.choice(np.r_[2:700, len(data) - 700 : len(data)], flips)
    for position in np.where(rng.random(flips) < 0.5, near, rng.integers(0, len(data), flips)):
        data[position] = rng.integers(256)
    path = tmp_path / "flipped.pkl"
    path.write_bytes(data)
    try:
        read_table(path)
    except ValueError as error:
        assert str(error).isprintable()


# Memory


@pytest.mark.parametrize("form", ["list", "array", "gz", "protocol 4"])
def test_the_peak_memory_is_at_most_1_3_times_the_file(form, tmp_path):
    ct = [np.random.default_rng(i).integers(-1024, 400, (512, 512)).astype(float) for i in range(6)]
    mask = [(image > 300).astype(np.int8) for image in ct]
    old = [image - 24 for image in ct]
    data = {"label1": ["LR2"] * 6, "mask": mask, "hu_array": ct, "hu_array_old": old}
    if form == "array":
        data = {name: np.array(cells) for name, cells in data.items()}
    pickled = pickle.dumps(data, 4 if form == "protocol 4" else 5)
    size, path = len(pickled), tmp_path / "t.pkl"
    path.write_bytes(gzip.compress(pickled, 1) if form == "gz" else pickled)
    del data, ct, mask, old, pickled
    tracemalloc.start()
    try:
        read_table(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 26e6 and size < peak < 1.3 * size
