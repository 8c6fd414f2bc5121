"""From pickled tables to a folder: what a user types, what stands there afterwards, and what is refused."""

import importlib.util
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lungseg.data.ct import hu_to_grey
from lungseg.data.folder import SliceDataset, check_folder, read_slice
from lungseg.data.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples/prepare_data.py"
SAMPLE = Path(os.environ.get("LUNGSEG_DATA", "nowhere"), "lung_cancer_sample.pkl.gz")

spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
prepare_data = importlib.util.module_from_spec(spec)
sys.modules["prepare_data"] = prepare_data  # dataclasses look their module up
spec.loader.exec_module(prepare_data)
main = prepare_data.main


def table_of(patients, slices=2, size=128):
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
    path.write_bytes(pickle.dumps(table))
    return str(path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def train_pickle(shared):
    return save(table_of(range(8)), shared / "train.pkl")


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
    table = table_of(range(8))
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
    assert all(word in summary for word in ("LR2", "LR4B", "hu_array_old", "groups of like slices"))


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
    test = save(table_of([3, 20]), tmp_path / "test.pkl")  # patient 3 is in the training table too
    assert main([train_pickle, "--test", test, "--out", str(tmp_path / "f"), "--size", "64"]) == 0
    assert "Leakage: 2 of 4 test slices" in capsys.readouterr().out
    split_of = {r.id: r.split for r in read_manifest(tmp_path / "f")}
    assert split_of["test0000"] == split_of["test0001"] == split_of["row0006"] != "test"
    assert split_of["test0002"] == split_of["test0003"] == "test"
    assert {s for id_, s in split_of.items() if id_.startswith("row")} == {"train", "val"}


def test_several_tables_are_one(tmp_path):
    paths = [save(table_of([p, p + 1]), tmp_path / f"{p}.pkl") for p in (0, 5)]
    assert main([*paths, "--out", str(tmp_path / "f"), "--size", "32"]) == 0
    assert [r.id for r in read_manifest(tmp_path / "f")] == [f"row{i:04d}" for i in range(8)]


# ---- small and odd tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("patients", "splits"), [([0], ["train"]), ([0, 2], ["train", "val"])])
def test_few_patients_fill_fewer_splits_and_a_sentence_says_so(tmp_path, capsys, patients, splits):
    assert (
        main([save(table_of(patients), tmp_path / "t.pkl"), "--out", str(tmp_path / "f"), "--size", "32"])
        == 0
    )
    assert (
        f"Only {len(patients)} group(s) of slices: enough for {' and '.join(splits)}"
        in capsys.readouterr().out
    )
    assert sorted({r.split for r in read_manifest(tmp_path / "f")}) == splits


def test_empty_and_vanished_lesions_are_counted(tmp_path, capsys):
    table = table_of(range(3), slices=1)
    table["mask"][0] = 0
    table["mask"][1] = 0
    table["mask"][1, 40, 40] = 1  # one pixel in sixteen
    assert main([save(table, tmp_path / "t.pkl"), "--out", str(tmp_path / "f"), "--size", "32"]) == 0
    assert "empty masks: 2, 1 of them by shrinking" in capsys.readouterr().out


@pytest.mark.skipif(not SAMPLE.is_file(), reason="LUNGSEG_DATA names no folder with the sample")
def test_the_published_format_gives_a_folder_that_training_accepts(tmp_path):
    assert main([str(SAMPLE), "--out", str(tmp_path / "f")]) == 0
    assert check_folder(tmp_path / "f") == []
    records = read_manifest(tmp_path / "f")
    assert len(records) == 4 and len({r.group for r in records}) == 2  # two patients, two slices of each
    assert SliceDataset(tmp_path / "f", "train")[0][1].sum() > 0


# ---- refusals ----------------------------------------------------------------------------------------------


def changed(column, row, change):
    table = table_of([0], size=32)
    table[column] = [np.array(cell) for cell in table[column]]
    table[column][row] = change(table[column][row])
    return table


BAD = {
    "no column": (
        lambda: {k: v for k, v in table_of([0], size=32).items() if k != "hu_array_old"},
        [],
        "hu_array_old",
    ),
    "nan": (lambda: changed("hu_array_old", 1, lambda hu: np.where(hu > 0, np.nan, hu)), [], "row 1"),
    "shapes": (lambda: changed("mask", 1, lambda mask: mask[:-1]), [], "row 1"),
    "mask values": (lambda: changed("mask", 0, lambda mask: mask + 3), [], "row 0"),
    "text column": (lambda: table_of([0], size=32), ["--column", "label1"], "label1|row 0"),
    "mask column": (lambda: table_of([0], size=32), ["--column", "mask"], "--column mask is the lesion"),
    "no rows": (lambda: {k: [] for k in table_of([0], size=32)}, [], "row|CT values"),
    "size": (lambda: table_of([0], size=32), ["--size", "0"], "--size must be at least 1"),
    "augment": (lambda: table_of([0], size=32), ["--augment", "-1"], "--augment and --seed at least 0"),
    "seed": (lambda: table_of([0], size=32), ["--seed", "-1"], "--augment and --seed at least 0"),
    "fraction nan": (lambda: table_of([0], size=32), ["--fractions", "nan", "0.5", "0.5"], "sum to 1"),
    "threshold": (lambda: table_of([0], size=32), ["--threshold", "7"], "between 0 and 1"),
    "no training": (
        lambda: table_of([0, 2], size=32),
        ["--fractions", "0", "0.5", "0.5", "--augment", "9"],
        "leaves none for training",
    ),
    "fractions": (lambda: table_of([0, 2, 4], size=64), ["--fractions", "1", "1", "1"], "sum to 1"),
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


@pytest.mark.parametrize("function", ["fine_structure", "split_by_group", "draw_sheet"])
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
    assert all(word in told for word in ("PICKLE", "--augment", "patient", "3400", "hu_array_old"))


def test_the_script_runs_as_a_script_and_is_quiet_where_nobody_watches(train_pickle, tmp_path):
    command = [sys.executable, str(SCRIPT), train_pickle, "--out", str(tmp_path / "f"), "--size", "32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and "is ready" in done.stdout
