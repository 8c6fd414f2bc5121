"""The manifest: what it keeps, what it may leave out, and what is said of a bad one."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.data.manifest import (
    COLUMNS,
    ImageRecord,
    check_id,
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
    records = [ImageRecord(f"{g}_{n}", g, split_of[g], "solid", 0.7) for n, g in enumerate("aabbccdd")]
    (tmp_path / "images").mkdir()
    for record in records:
        (tmp_path / f"images/{record.id}.png").touch()
    write_manifest(tmp_path / "manifest.csv", records)
    return tmp_path


names = st.text(
    st.characters(whitelist_categories=("L", "N"), whitelist_characters=" ,;\"'-_."), min_size=1, max_size=12
)


@given(
    group=names.map(lambda text: text.strip() or "g"),
    label=names.map(str.strip),
    spacing=st.one_of(st.just(float("nan")), st.floats(0.25, 2.0).map(lambda v: round(v, 4))),
    window=st.tuples(st.integers(-1500, -500), st.integers(0, 3000)),
    source=st.just((0, 0)) | st.tuples(st.integers(1, 999), st.integers(1, 999)),
)
@settings(max_examples=40)
def test_the_manifest_keeps_every_field(tmp_path_factory, group, label, spacing, window, source):
    folder = tmp_path_factory.mktemp("kept")
    (folder / "images").mkdir()
    record = ImageRecord("s", group, "val", label, spacing, float(window[0]), float(window[1]), 8, *source)
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


HEADERS = ["id,group, split", "id,group,Split", "ID, Group , SPLIT", "id\tgroup\tsplit", "\ufeffid;Group;split "]


@pytest.mark.parametrize("name", ["manifest.csv", "Manifest.CSV"])
@pytest.mark.parametrize("header", HEADERS)
def test_a_split_is_not_lost_to_a_space_or_a_capital(small, header, name):
    expected = [(r.group, r.split) for r in read_manifest(small)]
    rows = [(r.id, f" {r.group} ", f" {r.split.upper()}") for r in read_manifest(small)]
    (small / "manifest.csv").unlink()
    comma = next(c for c in ";\t," if c in header)
    (small / name).write_text("\n".join([header, *(comma.join(row) for row in rows)]), encoding="utf-8")
    assert [(r.group, r.split) for r in read_manifest(small)] == expected


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "<NA>"])
def test_what_programs_write_for_a_missing_text_is_no_label_and_no_patient(small, missing):
    path = small / "manifest.csv"
    path.write_text(path.read_text().replace("solid", missing, 1))
    assert [r.label for r in read_manifest(small)] == ["", *["solid"] * 7]
    path.write_text(path.read_text().replace("a_0,a", f"a_0,{missing}", 1))
    with pytest.raises(ValueError, match="id 'a_0' has no group"):
        read_manifest(small)


@pytest.mark.parametrize("bits", ["8.0", "8", " 8. ", "8e0", ""])
def test_whole_bits_may_have_a_decimal_point(small, bits):
    path = small / "manifest.csv"
    path.write_text(path.read_text().replace(",8\n", f",{bits}\n", 1))
    assert repr(read_manifest(small)[0].bits) == "8"


BAD_IDS = ["../evil", "a/b", "a\\b", "", ".", "..", "a\0b", ".hidden", " a", "a ", "a\nb", "x" * 201]


@pytest.mark.parametrize("id_", BAD_IDS, ids=ascii)
def test_an_id_that_is_no_file_name_is_refused(id_):
    with pytest.raises(ValueError, match="is not a plain file name|is longer than 200 bytes"):
        check_id(id_, {})


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20))
def test_letters_and_digits_are_an_id_and_their_capitals_another_only_if_nothing_changes(id_):
    taken = {}
    check_id(id_, taken)
    check_id(id_, taken)  # the same one: `find_overlaps` reports it
    for other in {id_.upper(), id_.lower()} - {id_}:
        if other.casefold() == id_.casefold():
            with pytest.raises(ValueError, match="are one file name on Windows and macOS"):
                check_id(other, taken)


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
    with pytest.raises(ValueError, match="expected slices, got a folder of volumes. .* --spatial-dims 3"):
        read_manifest(small, "slices")


def test_what_is_no_folder_of_that_kind_is_called_what_it_is(small):
    with pytest.raises(ValueError, match="expected volumes, got a folder of slices. .* --spatial-dims 2"):
        read_manifest(small, "volumes")
    with pytest.raises(ValueError, match="nowhere does not exist.$"):
        read_manifest(small / "nowhere")
    with pytest.raises(ValueError, match="manifest.csv: expected a folder, got a file.$"):
        read_manifest(small / "manifest.csv", "slices")
    (small / "images").rename(small / "pictures")
    with pytest.raises(ValueError, match="holds no folder images/ .it holds pictures/.. Give a folder"):
        read_manifest(small, "slices")


@pytest.mark.parametrize("window", ["400,-1000", "400,400", "nan,400", "-1000,nan", "-inf,400", "-1000,inf"])
def test_an_impossible_hu_window_is_refused_with_its_line(small, window):
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a_0,a,train", "../a,a,train", "is not a plain file name"),
        ("a_0,a,train", "a_0,,train", "has no group"),
        ("a_0,a,train", "a_0,a,dev", "has the split 'dev'. Use one of train, val, test"),
        ("a_0,a,train", "a_0,a,test", "group 'a' is in test and in train"),
        ("a_0,a,train", "a_1,a,train", "id 'a_1' appears twice"),
        ("a_0,a,train,solid,0.7", "a_0,a,train,solid,wide", "spacing_mm 'wide', which is not a number"),
        ("400,8,,", "400,8,512,", "source_height 512 and source_width 0. Write both"),
        ("400,8,,", "400,8,-1,-1", "source_height -1 and source_width -1. Write both"),
        ("400,8,,", "400,8,wide,512", "source_height 'wide', which is not a whole number"),
        ("400,8,,", "400,8,512.5,512", "source_height '512.5', which is not a whole number"),
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


# ---- the order of slices ----------------------------------------------------------------------------------------


def write_table(folder, header, *rows):
    (folder / "images").mkdir(parents=True)
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


ORDERED = "id,group,split,series,slice_index"


def test_the_order_is_read_and_a_manifest_without_it_is_written_without_its_columns(tmp_path):
    records = read_manifest(write_table(tmp_path / "f", ORDERED, "a,p,train,s 1,0", "b,p,train,7,12", "c,q,val,,"))
    assert [(r.series, r.slice_index) for r in records] == [("s 1", 0), ("7", 12), ("", None)]
    write_manifest(tmp_path / "f/manifest.csv", records)
    assert read_manifest(tmp_path / "f") == records
    write_manifest(tmp_path / "f/manifest.csv", records[2:])
    assert "series" not in (tmp_path / "f/manifest.csv").read_text()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a,p,train,s,"], "line 2: id 'a' has series 's' and slice_index None. Write the scan and a number from 0"),
        (["a,p,train,,3"], "has series '' and slice_index 3"),
        (["a,p,train,s,-1"], "slice_index -1. Write the scan and a number from 0"),
        (["a,p,train,s,1.5"], "slice_index '1.5', which is not a whole number"),
        (["a,p,train,s,1", "b,p,train,s,1"], "'a' and 'b' are both slice_index 1 of series 's'"),
        (["a,p,train,s,1", "b,q,train,s,2"], "series 's' has the groups 'p' and 'q'. A scan is of one patient"),
    ],
)
def test_an_impossible_order_is_refused(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        read_manifest(write_table(tmp_path / "f", ORDERED, *rows))


def test_one_of_its_columns_alone_means_nothing_and_never_stands_in_for_the_patient(tmp_path):
    (record,) = read_manifest(write_table(tmp_path / "a", "id,group,split,slice_index,slice_id", "a,p,train,-5,x"))
    assert record.slice_index is None and record.series == ""
    with pytest.raises(ValueError, match="no column group, but series. Add group: the patient of each slice"):
        read_manifest(write_table(tmp_path / "b", "id,split,series", "a,train,s"))
