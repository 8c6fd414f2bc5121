"""From pickled tables to a folder: what a user types, what stands there afterwards, and what is refused."""

import importlib.util
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

from lungseg.data.classes import read_classes
from lungseg.data.ct import HU_WINDOW, hu_to_grey
from lungseg.data.manifest import read_manifest
from lungseg.data.scans import read_scans
from lungseg.data.slices import SliceDataset, check_folder, read_slice
from lungseg.draw import class_colour
from lungseg.predictor import Predictor
from lungseg.training.data import slice_sets
from lungseg.training.recipe import TrainingRecipe

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples/prepare_data.py"
SAMPLE = Path(os.environ.get("LUNGSEG_DATA", "nowhere"), "lung_cancer_sample.pkl.gz")

spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
prepare_data = importlib.util.module_from_spec(spec)
sys.modules["prepare_data"] = prepare_data  # dataclasses look their module up
spec.loader.exec_module(prepare_data)
main = prepare_data.main


def make_table(patients, slices=2, size=128):
    """Slices as the published tables have them. A patient is a random texture, its slices differ by noise."""
    hu, mask = [], []
    for p in patients:
        rng = np.random.default_rng([11, p])
        texture = gaussian_filter(rng.standard_normal((size, size)), 1.5)
        texture = 600 * texture / texture.std() - 700
        for s in range(slices):
            hu.append(np.round(texture + 60 * rng.standard_normal((size, size))))
            hu[-1][:, :8] = -2048  # outside the scanner's circle
            mask.append(np.zeros((size, size), np.int8))
            mask[-1][40 : 60 + s, 40 : 60 + p] = 1
    hu = np.stack(hu)
    return {
        "label1": [("LR2", "LR4B")[i % 2] for i in range(len(hu))],
        "mask": np.stack(mask),
        "hu_array": np.where(hu < -300, 0.0, hu),  # stands in for the thresholded column
        "hu_array_old": hu,
    }


def save(table, path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(table))
    return str(path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def train_pickle(shared):
    return save(make_table(range(8)), shared / "train.pkl")


@pytest.fixture(scope="module")
def prepared(shared, train_pickle):
    assert main([train_pickle, "--out", str(shared / "out"), "--size", "64", "--augment", "15"]) == 0
    return shared / "out"


# ---- what stands there -------------------------------------------------------------------------------------


def test_the_folder_is_sound_and_can_be_trained_on(prepared):
    assert check_folder(prepared) == []
    assert (prepared / "contact_sheet.png").stat().st_size > 5000
    for split in ("train", "val", "test"):
        image, target, _ = SliceDataset(prepared, split)[0]
        assert image.shape == target.shape == (1, 64, 64) and image.max() > 0.5


def test_slices_keep_their_order_their_labels_and_their_lesions(prepared):
    table = make_table(range(8))
    records = [r for r in read_manifest(prepared) if "aug" not in r.id]
    assert [r.label for r in records] == table["label1"]
    for record, hu, mask in zip(records, table["hu_array_old"], table["mask"], strict=True):
        image, target = read_slice(prepared, record)
        halves = np.clip(hu, -1000, 400).reshape(64, 2, 64, 2).mean((1, 3))
        difference = abs(image.astype(float) - hu_to_grey(halves)).mean()
        assert difference < 10  # not 0, for bilinear shrinking looks a bit further; another patient gives 80
        assert np.array_equal(target, mask.reshape(64, 2, 64, 2).mean((1, 3)) >= 0.5)


def test_slices_of_one_patient_are_one_group_and_no_group_is_split(prepared):
    records = [r for r in read_manifest(prepared) if "aug" not in r.id]
    assert all(a.group == b.group for a, b in zip(records[::2], records[1::2], strict=True))
    assert len({r.group for r in records}) == 8


def test_augmented_copies_come_from_training_slices_and_stay_with_them(prepared):
    records = read_manifest(prepared)
    by_id = {r.id: r for r in records}
    copies = [r for r in records if "aug" in r.id]
    assert sum(r.split == "train" for r in records) == 15 and copies
    per_slice = {r.id: 0 for r in records if r.split == "train" and r not in copies}
    for copy in copies:
        source, number = copy.id.split("_aug")
        per_slice[source] += 1
        assert int(number) == per_slice[source]
    assert max(per_slice.values()) - min(per_slice.values()) <= 1
    for copy in copies:
        source = by_id[copy.id.split("_aug")[0]]
        assert copy.split == source.split == "train" and copy.group == source.group
        assert not np.array_equal(read_slice(prepared, copy)[0], read_slice(prepared, source)[0])


def test_the_summary_counts(prepared):
    summary = (prepared / "summary.txt").read_text()
    assert "16 slices read" in summary and "empty masks: 0" in summary and "lesion pixels" in summary
    assert all(word in summary for word in ("LR2", "LR4B", "hu_array_old", "groups of similar slices"))


def test_the_same_seed_gives_the_same_files(prepared, train_pickle, tmp_path):
    assert main([train_pickle, "--out", str(tmp_path / "f"), "--size", "64", "--augment", "15"]) == 0
    for path in prepared.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "f" / path.relative_to(prepared)).read_bytes()


def test_run_again_it_says_what_stands_there_and_changes_nothing(prepared, train_pickle, capsys):
    before = {p: p.stat().st_mtime_ns for p in prepared.rglob("*")}
    assert main([train_pickle, "--out", str(prepared), "--size", "32"]) == 0
    told = capsys.readouterr().out
    assert "exists already and was left as it is" in told and "16 slices read" in told and "64 x 64" in told
    assert {p: p.stat().st_mtime_ns for p in prepared.rglob("*")} == before


def test_sixteen_bits_and_the_other_column(train_pickle, tmp_path):
    arguments = [
        train_pickle,
        "--out",
        str(tmp_path / "f"),
        "--bits",
        "16",
        "--size",
        "64",
        "--column",
        "hu_array",
    ]
    assert main([*arguments, "--augment", "13"]) == 0
    image, _ = read_slice(tmp_path / "f", read_manifest(tmp_path / "f")[0])
    assert image.dtype == np.uint16 and image[0, 0] > 40_000  # air outside the body has become water
    assert check_folder(tmp_path / "f") == []


# ---- two tables --------------------------------------------------------------------------------------------


def test_a_table_for_testing_is_the_test_set_less_the_patients_it_shares(train_pickle, tmp_path, capsys):
    test = save(make_table([3, 20]), tmp_path / "test.pkl")  # patient 3 is in the training table too
    assert main([train_pickle, "--test", test, "--out", str(tmp_path / "f"), "--size", "64"]) == 0
    assert "Leakage: 2 of 4 test slices" in capsys.readouterr().out
    split_of = {r.id: r.split for r in read_manifest(tmp_path / "f")}
    assert split_of["test0000"] == split_of["test0001"] == split_of["row0006"] != "test"
    assert split_of["test0002"] == split_of["test0003"] == "test"
    assert {s for id_, s in split_of.items() if id_.startswith("row")} == {"train", "val"}


def test_several_tables_are_one(tmp_path):
    paths = [save(make_table([p, p + 1]), tmp_path / f"{p}.pkl") for p in (0, 5)]
    assert main([*paths, "--out", str(tmp_path / "f"), "--size", "32"]) == 0
    assert [r.id for r in read_manifest(tmp_path / "f")] == [f"row{i:04d}" for i in range(8)]


def test_a_patient_who_is_named_in_both_tables_leaves_the_test_set(tmp_path, capsys):
    """Their slices do not look alike here."""
    paths = []
    for name, patients in (("train", (0, 1, 2, 3)), ("test", (20, 21))):
        named = [f"p{p}" for p in patients for _ in range(2)]
        table = make_table(patients) | {"PatientID": named if name == "train" else ["p1", "p1", "p9", "p9"]}
        paths.append(save(table, tmp_path / f"{name}.pkl"))
    assert main([paths[0], "--test", paths[1], "--out", str(tmp_path / "f"), "--size", "32"]) == 0
    assert "Leakage: 2 of 4 test slices" in capsys.readouterr().out
    records = read_manifest(tmp_path / "f")
    assert [r.group for r in records if r.split == "test"] == ["p9", "p9"]
    check_no_patient_is_split(records)


# ---- what a table says of its slices -----------------------------------------------------------------------


def check_no_patient_is_split(records):
    assert len({(r.group, r.split) for r in records}) == len({r.group for r in records})


def prepare(table, tmp_path, *options):
    """Exit code of a run on one table, and its records if there are any."""
    code = main([save(table, tmp_path / "t.pkl"), "--out", str(tmp_path / "f"), "--size", "32", *options])
    return code, read_manifest(tmp_path / "f") if code == 0 else []


PATIENTS = ["a", "b", "a", "c", "c", "b", "a", "c", "d", "d", "b", "d"]  # unlike the textures of the slices


@pytest.mark.parametrize("name", ["patient", "Patient ID", "series_uid"])
def test_the_patients_of_a_table_are_its_groups(name, tmp_path, capsys):
    code, records = prepare(make_table(range(6)) | {name: PATIENTS}, tmp_path)
    assert code == 0 and [r.group for r in records] == PATIENTS
    check_no_patient_is_split(records)
    told = capsys.readouterr().out
    assert f"4 patients, from its column {name!r}." in told and "patients: 4, the largest with 3 slices" in told
    assert "pairs of patients look alike: a and b, " in told  # they share textures


def test_another_column_or_none_can_be_asked_for(tmp_path, capsys):
    table = make_table(range(6)) | {"patient": PATIENTS, "Ward": ["x"] * 6 + ["y"] * 6}
    assert {r.group for r in prepare(table, tmp_path / "1", "--group", "ward")[1]} == {"x", "y"}
    assert "2 patients, from its column 'Ward'" in capsys.readouterr().out
    groups = [r.group for r in prepare(table, tmp_path / "2", "--group", "none")[1]]
    assert groups == [f"cluster{i // 2:04d}" for i in range(12)] and "from its column" not in capsys.readouterr().out
    for wrong in ("doctor", "hu_array"):
        assert prepare(table, tmp_path / wrong, "--group", wrong)[0] == 2
        assert f"t.pkl has no column {wrong!r} of text or numbers for --group (its columns: " in capsys.readouterr().err


def test_a_slice_without_a_patient_goes_where_its_like_goes(tmp_path, capsys):
    """Slices 2k and 2k + 1 are alike. One has a name: both belong to it. Neither has one: a group of their own."""
    cells = [7.0, None, float("nan"), 8.0, "", "nan", 7.0, 7.0]
    code, records = prepare(make_table(range(4)) | {"patient": cells}, tmp_path)
    assert code == 0 and [r.group for r in records] == ["7", "7", "8", "8", "cluster0002", "cluster0002", "7", "7"]
    assert (
        "2 patients, from its column 'patient'; 4 rows name no patient and are grouped by similarity"
        in capsys.readouterr().out
    )


def test_a_column_that_only_numbers_the_rows_names_no_patients(tmp_path, capsys):
    table = make_table(range(3)) | {"series": list(range(6))}
    assert len({r.group for r in prepare(table, tmp_path / "1")[1]}) == 3
    assert "column 'series' has a different value in every row, so it was not used for groups (--group series" in (
        capsys.readouterr().out
    )
    assert len({r.group for r in prepare(table, tmp_path / "2", "--group", "series")[1]}) == 6


def test_the_order_of_a_table_goes_into_the_manifest(tmp_path, capsys):
    table = make_table(range(4), slices=3)
    order = [2, 0, 1] * 4
    table |= {"patient": [f"p{i // 3}" for i in range(12)], "series": ["1"] * 12, "z": order}  # each has a scan "1"
    _, records = prepare(table, tmp_path, "--series", "series", "--slice-index", "z")
    assert [(r.series, r.slice_index) for r in records] == [(f"p{i // 3} 1", order[i]) for i in range(12)]
    assert "the order of the slices from its columns 'series' and 'z'" in capsys.readouterr().out
    data = SliceDataset(tmp_path / "f", "train", neighbours=1)
    lowest, middle = (next(k for k, r in enumerate(data.records) if r.slice_index == i) for i in (0, 1))
    assert (data[lowest][0][2] == data[middle][0][1]).all() and (data[lowest][0][0] == data[lowest][0][1]).all()
    (tmp_path / "turned").mkdir()
    _, turned = prepare(table, tmp_path / "turned", "--series", "series", "--slice-index", "z", "--from-head")
    assert [r.slice_index for r in turned] == [2 - i for i in order]


def test_columns_of_our_names_are_the_order_unless_told_otherwise(tmp_path, capsys):
    table = make_table(range(4)) | {"Series": [f"s{i // 2}" for i in range(8)], "slice_index": [4.0, 5.0] * 4}
    assert [(r.series, r.slice_index) for r in prepare(table, tmp_path)[1]][:2] == [("s0", 4), ("s0", 5)]
    for name, options in [("a", ["--slice-index", "none"]), ("b", ["--series", "none"])]:
        (tmp_path / name).mkdir()
        assert all(r.series == "" for r in prepare(table, tmp_path / name, *options)[1])


@pytest.mark.parametrize(
    ("column", "options", "sentence"),
    [
        ([0, 0] * 4, [], "are both slice 0 of the scan 's0'. Give each slice its number, or leave the order out"),
        ([0.5, 1] * 4, [], "row 0, column 'slice_index': expected the number of the slice, a whole number from 0, got"),
        ([-1, 1] * 4, [], "a whole number from 0, got '-1'"),
        ([0, 1] * 4, ["--series", "series"], "--series and --slice-index say the order of slices only together"),
        (
            [0, 1] * 4,
            ["--series", "series", "--slice-index", "zz"],
            "has no column 'zz' of text or numbers for --slice",
        ),
    ],
)
def test_an_order_that_cannot_be_is_refused(column, options, sentence, tmp_path, capsys):
    table = make_table(range(4), size=64) | {"series": [f"s{i // 2}" for i in range(8)], "slice_index": column}
    assert main([save(table, tmp_path / "t.pkl"), "--out", str(tmp_path / "f"), *options]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "f").exists()


def test_mirrored_and_turned_copies_stay_with_their_slice(tmp_path):
    table = make_table(range(4), slices=1)
    for name in ("mask", "hu_array", "hu_array_old"):
        copies = [table[name][0][:, ::-1], np.rot90(table[name][1]), table[name][2].T]
        table[name] = np.concatenate([table[name], copies])
    table["label1"] = ["LR2"] * 7
    groups = [r.group for r in prepare(table, tmp_path)[1]]
    assert groups == [f"cluster{k:04d}" for k in (0, 1, 2, 3, 0, 1, 2)]


@pytest.mark.parametrize(
    ("column", "options", "expected"),
    [
        ({}, ["--spacing-mm", "0.7"], [2.8] * 4),
        ({}, [], [np.nan] * 4),
        ({"Pixel Spacing": [0.7, "0.5\\0.5", None, 1]}, [], [2.8, 2.0, np.nan, 4.0]),
        ({"pixel_spacing": [0.7] * 4, "mm": [0.5] * 4}, ["--spacing-mm", "MM"], [2.0] * 4),
        ({"spacing_mm": [0.7] * 4}, ["--spacing-mm", "1"], [4.0] * 4),
        ({"spacing_mm": [0.7] * 4}, ["--spacing-mm", "none"], [np.nan] * 4),
    ],
)
def test_the_manifest_has_the_pixels_of_the_files_in_mm(column, options, expected, tmp_path, capsys):
    code, records = prepare(make_table(range(2)) | column, tmp_path, *options)  # 128 pixels become 32
    assert code == 0 and np.allclose([r.spacing_mm for r in records], expected, equal_nan=True)
    assert {r.source_size for r in records} == {(128, 128)}
    told = capsys.readouterr().out
    assert ("mm per pixel unknown" in told) == bool(np.isnan(expected).all())
    assert ("mm per pixel from its column" in told) == bool(column and options[-1:] not in (["none"], ["1"]))


@pytest.mark.parametrize("words", ["0", "-1", "nan", "inf", "width"])
def test_an_impossible_pixel_size_is_refused(words, tmp_path, capsys):
    assert prepare(make_table(range(2)), tmp_path, "--spacing-mm", words)[0] == 2
    error = capsys.readouterr().err
    assert error.startswith("prepare_data.py: ") and "--spacing-mm" in error and error.count("\n") == 1


def test_a_missing_label_is_none_and_zero_is_one(tmp_path):
    labels = [float("nan"), None, "nan", 0, 4.0, "LR2"]
    _, records = prepare(make_table(range(3)) | {"label1": labels}, tmp_path)
    assert [r.label for r in records] == ["", "", "", "0", "4", "LR2"]


def test_rows_of_several_sizes_are_each_resized_and_know_their_size(tmp_path, capsys):
    rows = []
    for side, table in ((128, make_table(range(2))), (96, make_table([5], size=96))):
        rows += [{name: cells[i] for name, cells in table.items()} for i in range(len(table["mask"]))]
        assert len(rows[-1]["mask"]) == side
    rows.append({name: cell if name == "label1" else cell[:, :60] for name, cell in rows[-1].items()})
    code, records = prepare(rows, tmp_path, "--spacing-mm", "0.7")
    assert code == 0 and [r.source_size for r in records] == [(128, 128)] * 4 + [(96, 96)] * 2 + [(96, 60)]
    assert [r.spacing_mm for r in records] == pytest.approx([2.8] * 4 + [2.1] * 2 + [np.nan], nan_ok=True)
    assert [r.group for r in records[:6]] == [f"cluster000{i // 2}" for i in range(6)]
    assert "4 of 128 x 128, 2 of 96 x 96, 1 of 96 x 60 pixels) were each resized to 32 x 32." in capsys.readouterr().out


# ---- the network sees the same, whichever it is given ------------------------------------------------------


class Watch(nn.Module):
    """Notes what it is shown."""

    def forward(self, image):
        self.seen = image.clone()
        return image


@pytest.mark.parametrize("sides", [[128], [128, 96], [(128, 100)]], ids=["one size", "two sizes", "oblong"])
@pytest.mark.parametrize("img_size", [32, 24])
def test_a_row_of_the_table_looks_like_the_slice_that_was_made_of_it(sides, img_size, tmp_path):
    rows = []
    for k, side in enumerate(sides):
        height, width = side if isinstance(side, tuple) else (side, side)
        table = make_table(range(3 * k, 3 * k + 3), size=128)
        for i in range(6):
            images = {name: table[name][i][:height, :width] for name in ("mask", "hu_array_old")}
            rows.append({"label1": "LR2", "patient": f"p{3 * k + i // 2}", **images})
    code, records = prepare(rows, tmp_path, "--fractions", "0.6", "0.4", "0")
    assert code == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # slices of several sizes
        _, input_ = slice_sets(tmp_path / "f", TrainingRecipe(img_size=img_size, augment="none"), seed=0)
    predictor = Predictor(Watch(), input_)
    trained_on = SliceDataset(tmp_path / "f", size=img_size)
    grids = read_scans(tmp_path / "t.pkl", HU_WINDOW), read_scans(tmp_path / "f", HU_WINDOW)
    for scans in grids:
        for number, scan in enumerate(scans):
            grey = predictor.grey(scan.hu)
            scale, said = predictor.scale_for(grey.shape, scan.spacing_mm, scan.source_size)
            predictor.probs(grey, scale)
            assert said is None and predictor.network.seen.shape == (1, 1, img_size, img_size)
            assert (predictor.network.seen[0] - trained_on[number][0]).abs().max() <= 1.01 / 255  # rounded twice
        assert number == len(records) - 1


# ---- small and odd tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("patients", "splits"), [([0], ["train"]), ([0, 2], ["train", "val"])])
def test_few_patients_fill_fewer_splits_and_a_sentence_says_so(tmp_path, capsys, patients, splits):
    assert main([save(make_table(patients), tmp_path / "t.pkl"), "--out", str(tmp_path / "f"), "--size", "32"]) == 0
    assert f"Only {len(patients)} group(s) of slices: enough for {' and '.join(splits)}" in capsys.readouterr().out
    assert sorted({r.split for r in read_manifest(tmp_path / "f")}) == splits


def test_empty_and_vanished_lesions_are_counted(tmp_path, capsys):
    table = make_table(range(3), slices=1)
    table["mask"][0] = 0
    table["mask"][1] = 0
    table["mask"][1, 40, 40] = 1  # one pixel in sixteen
    assert main([save(table, tmp_path / "t.pkl"), "--out", str(tmp_path / "f"), "--size", "32"]) == 0
    assert "empty masks: 2, 1 of them lost by shrinking" in capsys.readouterr().out


@pytest.mark.skipif(not SAMPLE.is_file(), reason="LUNGSEG_DATA names no folder with the sample")
def test_the_published_format_gives_a_folder_that_training_accepts(tmp_path):
    assert main([str(SAMPLE), "--out", str(tmp_path / "f")]) == 0
    assert check_folder(tmp_path / "f") == []
    records = read_manifest(tmp_path / "f")
    assert len(records) == 4 and len({r.group for r in records}) == 2  # two patients, two slices of each
    assert SliceDataset(tmp_path / "f", "train")[0][1].sum() > 0


# ---- pictures ----------------------------------------------------------------------------------------------


@pytest.fixture
def download(tmp_path):
    """A folder as one finds it: JPEGs in colour, masks in PNG, one of them without an image, and rubbish."""
    folder = tmp_path / "download"
    for name in ("images/a", "masks"):
        (folder / name).mkdir(parents=True)
    table = make_table(range(4))
    for i, (hu, mask) in enumerate(zip(table["hu_array_old"], table["mask"], strict=True)):
        grey = Image.fromarray(hu_to_grey(hu))
        grey.convert("RGB").save(folder / f"images/a/pat{i // 2}_s{i}.{('jpg', 'JPG')[i % 2]}", quality=95)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"masks/pat{i // 2}_s{i}_mask.png")
    Image.new("L", (9, 9)).save(folder / "masks/pat9_s0_mask.png")
    (folder / "images/a/.DS_Store").write_bytes(b"x")
    (folder / "readme.txt").write_text("hello")
    return folder


PATTERNS = ["--images", "images/a/*.jpg", "--masks", "masks/*_mask.png"]


def test_pictures_become_a_folder_that_can_be_trained_on(download, tmp_path, capsys):
    assert main([str(download), *PATTERNS, "--out", str(tmp_path / "f"), "--size", "64", "--augment", "9"]) == 0
    assert check_folder(tmp_path / "f") == [] and (tmp_path / "f/contact_sheet.png").stat().st_size > 5000
    records = [r for r in read_manifest(tmp_path / "f") if "aug" not in r.id]
    assert [r.id for r in records] == [f"pat{i // 2}_s{i}" for i in range(8)]
    assert [r.group for r in records] == [f"cluster000{i // 2}" for i in range(8)]  # by similarity
    assert {r.source_size for r in records} == {(128, 128)} and {(r.hu_low, r.hu_high) for r in records} == {HU_WINDOW}
    for record, hu, mask in zip(
        records, make_table(range(4))["hu_array_old"], make_table(range(4))["mask"], strict=True
    ):
        image, target = read_slice(tmp_path / "f", record)
        expected = hu_to_grey(np.clip(hu, *HU_WINDOW).reshape(64, 2, 64, 2).mean((1, 3)))
        assert abs(image.astype(float) - expected).mean() < 12  # another patient gives 80
        assert np.array_equal(target, mask.reshape(64, 2, 64, 2).mean((1, 3)) >= 0.5)
    told = capsys.readouterr().out
    assert "files without a partner, left out: 1 (masks/pat9_s0_mask.png)." in told
    assert "The HU of black and white are unknown: the manifest says -1000 and 400, which is a guess" in told
    assert "images/a/*.jpg and masks/*_mask.png" in told and "coloured" not in told


def test_patients_pixels_and_window_of_pictures_can_be_stated(download, tmp_path, capsys):
    options = ["--patient-from", r"/(pat\d)_", "--spacing-mm", "0.7", "--hu-window", "-1350", "150"]
    assert main([str(download), *PATTERNS, *options, "--out", str(tmp_path / "f"), "--size", "64"]) == 0
    records = read_manifest(tmp_path / "f")
    assert [r.group for r in records] == [f"pat{i // 2}" for i in range(8)]
    assert {(r.spacing_mm, r.hu_low, r.hu_high) for r in records} == {(1.4, -1350.0, 150.0)}
    assert "are unknown" not in capsys.readouterr().out


def test_pictures_say_their_order_by_their_names(download, tmp_path, capsys):
    options = ["--order-from", r"/(pat\d)_s(\d+)", "--size", "32", "--augment", "9"]
    assert main([str(download), *PATTERNS, *options, "--out", str(tmp_path / "f")]) == 0
    records = read_manifest(tmp_path / "f")
    expected = [(f"pat{i // 2}", f"pat{i // 2}", i) for i in range(8)]  # the scan is the patient as well
    assert [(r.group, r.series, r.slice_index) for r in records if "aug" not in r.id] == expected
    copies = [r for r in records if "aug" in r.id]  # each is turned by itself
    assert copies and {(r.series, r.slice_index) for r in copies} == {("", None)}
    assert "8 slices name no patient: their scan decides the group" in capsys.readouterr().out
    assert SliceDataset(tmp_path / "f", neighbours=1)[0][0].shape == (3, 32, 32)


def test_a_folder_for_testing_and_names_that_stand_in_both(download, tmp_path):
    test = tmp_path / "test"
    for name in ("images/a", "masks"):
        (test / name).mkdir(parents=True)
    Image.fromarray(hu_to_grey(make_table([20])["hu_array_old"][0])).save(test / "images/a/pat0_s0.jpg")
    Image.new("L", (128, 128)).save(test / "masks/pat0_s0_mask.png")
    assert main([str(download), *PATTERNS, "--test", str(test), "--out", str(tmp_path / "f"), "--size", "64"]) == 0
    split_of = {r.id: r.split for r in read_manifest(tmp_path / "f")}
    assert split_of["pat0_s0_2"] == "test" and list(split_of.values()).count("test") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "is a folder. Say which files are what: --images"),
        (PATTERNS[:2], "is a folder. Say which files are what: --images"),
        (["--patient-from", "(a)"], "are for folders of pictures, with --images and --masks"),
        ([*PATTERNS, "--group", "patient"], "pictures have no columns: use --patient-from"),
        ([*PATTERNS, "--spacing-mm", "mm"], "pictures have no columns"),
        ([*PATTERNS, "--slice-index", "z"], "--order-from for --series and --slice-index"),
        (["--order-from", "(a)(b)"], "are for folders of pictures, with --images and --masks"),
        ([*PATTERNS, "--order-from", "(x)"], "--order-from (x): expected two groups, got 1"),
        ([*PATTERNS, "--order-from", "(x"], "--order-from (x is not a regular expression"),
        ([*PATTERNS, "--order-from", r"(pat\d)_(s\d)"], "finds no scan and whole number in images/a/pat0_s0.jpg"),
        ([*PATTERNS, "--from-head"], "--from-head is about the numbers of slices, and no slice has one"),
        ([*PATTERNS, "--classes"], "pictures have none. Masks that hold class numbers become a folder with lungseg"),
        ([*PATTERNS, "--spacing-mm", "0"], "--spacing-mm must be a number above 0"),
        ([*PATTERNS, "--hu-window", "400", "-1000"], "--hu-window must be two numbers, the lower one first"),
        ([*PATTERNS, "--hu-window", "nan", "400"], "--hu-window must be two numbers, the lower one first"),
        ([*PATTERNS, "--patient-from", "(x"], "is not a regular expression"),
        ([*PATTERNS, "--patient-from", "pat"], "has no group"),
        ([*PATTERNS, "--patient-from", r"/(pat[12])_"], "finds no patient in images/a/pat0_s0.jpg"),
        (["--images", "pictures/*.jpg", *PATTERNS[2:]], "matches --images pictures/*.jpg (it holds"),
    ],
)
def test_what_cannot_be_meant_of_pictures_is_refused(options, sentence, download, tmp_path, capsys):
    assert main([str(download), "--out", str(tmp_path / "f"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("prepare_data.py: ") and captured.err.count("\n") == 1
    assert sentence in captured.err and [p.name for p in tmp_path.iterdir()] == ["download"]


def test_what_is_not_said_is_as_the_help_and_the_pages_say():
    assert vars(prepare_data.parse_arguments(["t.pkl", "--out", "f"])) == {
        "sources": ["t.pkl"], "out": "f", "test": None, "size": 256, "bits": 8, "spacing_mm": None,
        "fractions": [0.7, 0.15, 0.15], "threshold": 0.4, "augment": 0, "seed": 0, "column": "hu_array_old",
        "group": None, "classes": False, "images": None, "masks": None, "patient_from": None, "hu_window": None,
        "from_head": False, "series": None, "slice_index": None, "order_from": None,
    }  # fmt: skip


def test_patterns_of_pictures_do_not_fit_a_table(train_pickle, tmp_path, capsys):
    assert main([train_pickle, *PATTERNS, "--out", str(tmp_path / "f")]) == 2
    assert "are for a folder of pictures, and" in capsys.readouterr().err


# ---- refusals ----------------------------------------------------------------------------------------------


def changed(column, row, change):
    table = make_table([0], size=32)
    table[column] = [np.array(cell) for cell in table[column]]
    table[column][row] = change(table[column][row])
    return table


BAD = {
    "no column": (
        lambda: {k: v for k, v in make_table([0], size=32).items() if k != "hu_array_old"},
        [],
        "hu_array_old",
    ),
    "nan": (lambda: changed("hu_array_old", 1, lambda hu: np.where(hu > 0, np.nan, hu)), [], "row 1"),
    "shapes": (lambda: changed("mask", 1, lambda mask: mask[:-1]), [], "row 1"),
    "mask values": (lambda: changed("mask", 0, lambda mask: mask + 3), [], "row 0"),
    "text column": (lambda: make_table([0], size=32), ["--column", "label1"], "label1|row 0"),
    "mask column": (lambda: make_table([0], size=32), ["--column", "mask"], "--column mask is the lesion"),
    "no rows": (lambda: {k: [] for k in make_table([0], size=32)}, [], "row|CT values"),
    "size": (lambda: make_table([0], size=32), ["--size", "0"], "--size must be at least 1"),
    "augment": (lambda: make_table([0], size=32), ["--augment", "-1"], "--augment and --seed at least 0"),
    "seed": (lambda: make_table([0], size=32), ["--seed", "-1"], "--augment and --seed at least 0"),
    "fraction nan": (lambda: make_table([0], size=32), ["--fractions", "nan", "0.5", "0.5"], "sum to 1"),
    "threshold": (lambda: make_table([0], size=32), ["--threshold", "7"], "between 0 and 1"),
    "no training": (
        lambda: make_table([0, 2], size=32),
        ["--fractions", "0", "0.5", "0.5", "--augment", "9"],
        "leaves none for training",
    ),
    "fractions": (lambda: make_table([0, 2, 4], size=64), ["--fractions", "1", "1", "1"], "sum to 1"),
    "code": (lambda: subprocess.Popen, [], "subprocess"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_sentence_and_nothing_half_written(tmp_path, capsys, name):
    make, options, sentence = BAD[name]
    path = save(make(), tmp_path / "t.pkl")
    assert main([path, "--out", str(tmp_path / "deep/f"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("prepare_data.py: ") and captured.err.count("\n") == 1
    assert re.search(sentence, captured.err), captured.err
    assert [p.name for p in tmp_path.rglob("*") if p.name != "deep"] == ["t.pkl"]


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "none.pkl"), "--out", str(tmp_path / "f")]) == 2
    assert "none.pkl" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_refused(tmp_path, train_pickle, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").write_text("dear reader")
    assert main([train_pickle, "--out", str(tmp_path / "thesis")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*")] == ["thesis", "chapter1.txt"]


@pytest.mark.parametrize("function", ["read_table_slices", "link_similar_slices", "split_by_group", "draw_sheet"])
def test_ctrl_c_at_any_stage_leaves_no_folder(tmp_path, train_pickle, monkeypatch, capsys, function):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_data, function, interrupt)
    assert main([train_pickle, "--out", str(tmp_path / "f")]) == 130
    assert "was not written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_is_for_people(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("SOURCE", "--images", "--augment", "patient", "3400", "hu_array_old"))


def test_the_script_runs_as_a_script_and_is_quiet_where_nobody_watches(train_pickle, tmp_path):
    command = [sys.executable, str(SCRIPT), train_pickle, "--out", str(tmp_path / "f"), "--size", "32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and "is ready" in done.stdout


# ---- lesion classes ----------------------------------------------------------------------------------------


def lung_rads(patients=range(12)):
    """A table as Lung-RADS users have it: a category for each row, and rows without a nodule."""
    table = make_table(patients)
    n = len(table["label1"])
    table["label1"] = [("LR4B", "LR2", "LR3", "LR4A")[(i // 2) % 4] for i in range(n)]
    table["mask"][:2], table["label1"][:2] = 0, ["none", None]
    return table


def test_labels_of_a_table_become_lesion_classes(tmp_path):
    table = lung_rads()
    source, out = save(table, tmp_path / "t.pkl"), tmp_path / "out"
    assert main([source, "--out", str(out), "--size", "64", "--classes", "--augment", "30"]) == 0
    assert read_classes(out) == ("LR2", "LR3", "LR4A", "LR4B") and check_folder(out) == []
    for record in read_manifest(out):
        _, target = read_slice(out, record, read_classes(out))
        number = {"LR2": 1, "LR3": 2, "LR4A": 3, "LR4B": 4}.get(record.label)
        assert set(np.unique(target)) == ({0} if number is None else {0, number})
    binary = tmp_path / "binary"
    assert main([source, "--out", str(binary), "--size", "64", "--augment", "30"]) == 0
    for record in read_manifest(binary):  # where lesion is, and all else, does not depend on classes
        here, there = read_slice(binary, record), read_slice(out, record, read_classes(out))
        assert np.array_equal(here[0], there[0]) and np.array_equal(here[1], there[1] > 0)
    summaries = [(folder / "summary.txt").read_text() for folder in (out, binary)]
    assert [line for line in summaries[0].splitlines() if "lesion pixels" in line] == [
        line for line in summaries[1].splitlines() if "lesion pixels" in line
    ]
    with Image.open(out / "contact_sheet.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(2**24)}
    assert {class_colour(k) for k in (1, 2, 3, 4)} <= colours


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "2 of 24 slices with a lesion have no label (row0000, row0001), so their class is not known. Fill in"),
        ("none", "2 of 24 slices with a lesion have no label"),
        ("lr2", "label1 does not name classes, in order: line 2 is 'lr2', and so is line 1"),
    ],
)
def test_labels_that_name_no_class_are_refused(tmp_path, capsys, label, message):
    table = lung_rads()
    table["mask"][:2, 50:60, 50:60] = 1
    table["label1"][:2] = [label, label]
    source = save(table, tmp_path / "t.pkl")
    assert main([source, "--out", str(tmp_path / "out"), "--size", "64", "--classes"]) == 2
    told = capsys.readouterr().err
    assert message in told and "\n" not in told.strip() and not (tmp_path / "out").exists()


def test_a_class_that_no_training_slice_holds_is_told_beforehand(tmp_path, capsys):
    table = lung_rads(range(4))
    flags = ["--size", "64", "--classes", "--fractions", "0.5", "0.25", "0.25"]
    assert main([save(table, tmp_path / "t.pkl"), "--out", str(tmp_path / "out"), *flags]) == 0
    assert re.search("No training slice holds LR.*, so training will refuse this folder", capsys.readouterr().out)


def test_pictures_have_no_labels_to_make_classes_of(tmp_path, capsys):
    flags = ["--images", "*.png", "--masks", "*_m.png", "--classes"]
    assert main([str(tmp_path), "--out", str(tmp_path / "out"), *flags]) == 2
    assert "--classes takes the classes from the labels of a table" in capsys.readouterr().err


def test_a_lone_picture_is_answered_with_the_flags_for_pictures(tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.PNG")
    assert main([str(tmp_path / "a.PNG"), "--out", str(tmp_path / "out")]) == 2
    assert "a.PNG is a picture. Give its folder, and --images and --masks" in capsys.readouterr().err


def test_an_unknown_flag_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["a.pkl", "--out", "x", "--colour", "red"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
