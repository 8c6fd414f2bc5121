"""The manifest: what it keeps, what it may leave out, and what is said of a bad one."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungseg.data.manifest import (
    COLUMNS,
    SliceRecord,
    describe_folder,
    parse_manifest,
    read_manifest,
    read_split,
    write_manifest,
)


@pytest.fixture
def small(tmp_path):
    """A folder of eight slices of four groups. Their pictures are not looked at here, so they are empty files."""
    split_of = {"a": "train", "b": "train", "c": "val", "d": "test"}
    records = [SliceRecord(f"{g}_{n}", g, split_of[g], "solid", 0.7) for n, g in enumerate("aabbccdd")]
    (tmp_path / "images").mkdir()
    for record in records:
        (tmp_path / f"images/{record.id}.png").touch()
    write_manifest(tmp_path / "manifest.csv", records)
    return tmp_path


names = st.text(
    st.characters(whitelist_categories=("L", "N"), whitelist_characters=" ,;\"'-_."), min_size=1, max_size=12
)


@given(
    group=names,
    label=names.map(str.strip),
    spacing=st.one_of(st.just(float("nan")), st.floats(0.25, 2.0).map(lambda v: round(v, 4))),
    window=st.tuples(st.integers(-1500, -500), st.integers(0, 3000)),
    source=st.just((0, 0)) | st.tuples(st.integers(1, 999), st.integers(1, 999)),
)
@settings(max_examples=40)
def test_the_manifest_keeps_every_field(tmp_path_factory, group, label, spacing, window, source):
    folder = tmp_path_factory.mktemp("kept")
    (folder / "images").mkdir()
    record = SliceRecord("s", group, "val", label, spacing, float(window[0]), float(window[1]), 8, *source)
    write_manifest(folder / "manifest.csv", [record])
    (back,) = read_manifest(folder)
    assert repr(back) == repr(record)  # repr, because nan != nan
    assert back.source_size == (source if source[0] else None)


def test_a_hand_made_manifest_may_leave_columns_out_and_have_others(small):
    rows = list(csv.DictReader((small / "manifest.csv").read_text().splitlines()))
    with open(small / "manifest.csv", "w", encoding="utf-8-sig") as file:  # as spreadsheets save it
        file.write("id,colour,split,group,spacing_mm\n")
        file.writelines(f"{r['id']},red,{r['split']},{r['group']},\n" for r in rows)
    record = read_manifest(small)[0]
    assert (record.label, record.bits, record.hu_low, record.hu_high) == ("", 8, -1000, 400)
    assert np.isnan(record.spacing_mm)
    assert parse_manifest(small)[1] == []


def test_without_a_manifest_each_image_is_its_own_group_and_a_warning_says_so(small):
    (small / "manifest.csv").unlink()
    with pytest.warns(UserWarning, match="leakage between training and test cannot be ruled out"):
        records = read_manifest(small)
    with pytest.warns(UserWarning):
        assert read_manifest(small) == records
    assert {r.split for r in records} == {"train", "val", "test"} and len({r.group for r in records}) == 8
    with pytest.warns(UserWarning):
        assert parse_manifest(small)[1] == []


def test_two_images_without_a_manifest_are_training_and_validation(small):
    (small / "manifest.csv").unlink()
    for id_ in ("a_1", "b_2", "b_3", "c_4", "c_5", "d_6"):
        (small / f"images/{id_}.png").unlink()
    with pytest.warns(UserWarning):
        assert sorted(r.split for r in read_manifest(small)) == ["train", "val"]


def test_the_manifest_has_the_columns_of_the_format():
    assert COLUMNS[:5] == ["id", "group", "split", "label", "spacing_mm"]


def test_a_folder_is_described_in_one_line(small):
    words = "holds 8 slices: 4 train (of 2 groups), 2 val (of 1 groups), 2 test (of 1 groups)"
    assert describe_folder(small) == f"{small} {words}"


def test_a_split_is_some_of_the_rows_and_an_unknown_one_names_those_there_are(small):
    assert [r.id for r in read_split(small, "val", "slices")] == ["c_4", "c_5"]
    assert read_split(small, None, "slices") == read_manifest(small)
    with pytest.raises(ValueError, match="has no slice in the split 'valid' .it has 4 train, 2 val, 2 test"):
        read_split(small, "valid", "slices")


def test_volumes_have_the_same_manifest(small):
    (small / "images").rename(small / "volumes")
    assert describe_folder(small).startswith(f"{small} holds 8 volumes: 4 train")
    assert read_split(small, "val", "volumes") == read_split(small, "val", None)
    with pytest.raises(ValueError, match="is a folder of volumes, and slices are wanted. .* --spatial-dims 3"):
        read_manifest(small, "slices")


def test_what_is_no_folder_of_that_kind_is_called_what_it_is(small):
    with pytest.raises(ValueError, match="is a folder of slices, and volumes are wanted. .* --spatial-dims 2"):
        read_manifest(small, "volumes")
    with pytest.raises(ValueError, match="nowhere does not exist.$"):
        read_manifest(small / "nowhere")
    with pytest.raises(ValueError, match="manifest.csv is a file, a folder is wanted.$"):
        read_manifest(small / "manifest.csv", "slices")
    (small / "images").rename(small / "pictures")
    with pytest.raises(ValueError, match="holds no folder images/. Give a folder"):
        read_manifest(small, "slices")


@pytest.mark.parametrize("window", ["400,-1000", "400,400", "nan,400", "-1000,nan", "-inf,400", "-1000,inf"])
def test_a_window_that_is_none_is_refused_with_its_line(small, window):
    path = small / "manifest.csv"
    path.write_text(path.read_text().replace("0.7,-1000,400", f"0.7,{window}", 1))
    with pytest.raises(ValueError, match=r"manifest.csv, line 2: id 'a_0' has hu_low .* and hu_high .*lower one first"):
        read_manifest(small)


@pytest.mark.parametrize(("spacing", "good"), [("0", 0), ("-1", 0), ("inf", 0), ("-inf", 0), ("nan", 1), ("", 1)])
def test_a_pixel_has_a_size_or_it_is_unknown(small, spacing, good):
    path = small / "manifest.csv"
    path.write_text(path.read_text().replace(",0.7,", f",{spacing},", 1))
    if good:
        assert np.isnan(read_manifest(small)[0].spacing_mm)
        return
    with pytest.raises(ValueError, match="manifest.csv, line 2: id 'a_0' has spacing_mm .*, or leave it empty"):
        read_manifest(small)


def test_without_a_manifest_the_files_and_folders_are_the_volumes(tmp_path):
    (tmp_path / "volumes/1.2.840").mkdir(parents=True)
    for name in ("a.npz", "b.npz", ".c.npz.partial-7", ".d.npz", "notes.txt"):
        (tmp_path / f"volumes/{name}").touch()
    with pytest.warns(UserWarning, match="which volumes belong to one patient"):
        assert [r.id for r in read_manifest(tmp_path)] == ["1.2.840", "a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a_0,a,train", "../a,a,train", "is not a plain file name"),
        ("a_0,a,train", "a_0,,train", "has no group"),
        ("a_0,a,train", "a_0,a,dev", "has the split 'dev'. Use one of train, val, test"),
        ("a_0,a,train", "a_0,a,test", "group 'a' is in test and in train"),
        ("a_0,a,train", "a_1,a,train", "id 'a_1' stands twice"),
        ("a_0,a,train,solid,0.7", "a_0,a,train,solid,wide", "spacing_mm 'wide', which is not a number"),
        ("400,8,,", "400,8,512,", "source_height 512 and source_width 0. Write both"),
        ("400,8,,", "400,8,-1,-1", "source_height -1 and source_width -1. Write both"),
        ("400,8,,", "400,8,wide,512", "source_height 'wide', which is not a number"),
        ("id,group", "name,group", "has no column id"),
    ],
)
def test_a_bad_row_is_named_with_its_line(small, old, new, message):
    path = small / "manifest.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    _, problems = parse_manifest(small)
    assert len(problems) == 1 and message in problems[0] and str(path) in problems[0]
    with pytest.raises(ValueError, match="manifest.csv"):
        read_manifest(small)
