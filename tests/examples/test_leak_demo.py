"""The demonstration of leakage: who is on which side, and a network that only remembers is found out."""

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset, SliceWriter

TINY = ["--steps", "2", "--channels", "2", "4", "--copies", "2", "--img-size", "16"]


@pytest.fixture(scope="module")
def demo(example):
    return example("leak_demo")


def write_patients(path, *, splits=("train",) * 12 + ("val",) * 3 + ("test",) * 6, lesions=lambda split: True):
    """Three slices to a patient, alike but for a little noise: a dark or bright square on the patient's own pattern."""
    with SliceWriter(path) as out:
        for p, split in enumerate(splits):
            rng = np.random.default_rng(p)
            pattern = rng.integers(0, 250, (16, 16))
            target = np.zeros((16, 16), np.uint8)
            row, column = rng.integers(0, 10, 2)
            target[row : row + 6, column : column + 6] = lesions(split)
            for s in range(3):
                image = (pattern + rng.integers(0, 3, (16, 16))).astype(np.uint8)
                out.add(ImageRecord(f"{p:02d}_{s}", f"p{p:02d}", split), image, target)
    return path


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("leak") / "patients")


class Memory(nn.Module):
    """Answers with the target of the most similar image it was given: it remembers, and has learned nothing."""

    def __init__(self, samples):
        super().__init__()
        self.known = [samples[k] for k in range(len(samples))]

    def forward(self, image):
        nearest = min(self.known, key=lambda sample: (sample[0] - image[0]).square().sum())
        return 2 * nearest[1][None] - 1


# ---- who is on which side ---------------------------------------------------------------------------------------

cohorts = st.lists(st.integers(1, 6), min_size=4, max_size=9).map(  # slices of each patient
    lambda sizes: [f"p{p}" for p, size in enumerate(sizes) for _ in range(size)]
)


@given(groups=cohorts, copies=st.integers(2, 5), seed=st.integers(0, 99))
def test_the_procedures_differ_only_in_who_is_where(demo, groups, copies, seed):
    sides = {procedure: demo.divide(procedure, groups, copies, seed) for procedure in demo.PROCEDURES}
    sizes = {(len(training), len(test)) for training, test in sides.values()}
    assert len(sizes) == 1
    for training, test in sides.values():
        assert len({*training, *test}) == len(training) + len(test)  # no sample twice, none on both sides
        assert all(0 <= i < len(groups) and 0 <= copy < copies for i, copy in training + test)
    for procedure, (training, test) in sides.items():
        if procedure != demo.LEAKY:
            assert not {i for i, _ in training} & {i for i, _ in test} and {copy for _, copy in test} == {0}
            assert set(Counter(i for i, _ in training).values()) == {copies}
    training, test = sides[demo.BY_PATIENT]
    assert not {groups[i] for i, _ in training} & {groups[i] for i, _ in test}


@given(groups=cohorts, seed=st.integers(0, 99))
def test_equal_seeds_divide_equally(demo, groups, seed):
    for procedure in demo.PROCEDURES:
        assert demo.divide(procedure, groups, 3, seed) == demo.divide(procedure, groups, 3, seed)


@pytest.mark.parametrize("seed", range(5))
def test_patients_and_slices_cross_where_samples_are_divided(demo, seed):
    groups = [f"p{i // 6}" for i in range(60)]
    for procedure, crossing in ((demo.LEAKY, 0.9), (demo.BY_SLICE, 0.9), (demo.BY_PATIENT, 0.0)):
        training, test = demo.divide(procedure, groups, 5, seed)
        of_training = {groups[i] for i, _ in training}
        shared = np.mean([groups[i] in of_training for i, _ in test])
        assert shared == 0 if crossing == 0 else shared > crossing
    training, test = demo.divide(demo.LEAKY, groups, 5, seed)
    assert {i for i, _ in training} & {i for i, _ in test}  # and even copies of one slice


def test_never_seen_patients_are_on_neither_side_and_seeds_draw_other_patients(demo, patients):
    data = SliceDataset(patients)
    drawn = [{data.records[i].group for i in demo.draw_patients(data, 5, seed)} for seed in range(3)]
    assert len(set.union(*drawn)) == 15  # all of them, five for each seed
    never_seen = {record.group for record in data.records if record.split == "test"}
    assert not never_seen & set.union(*drawn)
    assert len(demo.draw_patients(data, 1000, 0)) == 45


def test_a_copy_stays_the_same_and_copy_0_is_the_slice(demo, patients):
    data = SliceDataset(patients)
    samples = demo.Samples(data, [(4, 0), (4, 1), (4, 2), (4, 1)], seed=3)
    assert torch.equal(samples[0][0], data[4][0]) and torch.equal(samples[0][1], data[4][1])
    assert all(torch.equal(a, b) for a, b in zip(samples[1][:2], samples[3][:2], strict=True))
    assert not torch.equal(samples[1][0], samples[2][0]) and not torch.equal(samples[1][0], samples[0][0])
    assert {x.dtype for k in range(3) for x in samples[k][:2]} == {torch.float32}


# ---- what it reports --------------------------------------------------------------------------------------------


def test_a_network_that_only_remembers_is_found_out(demo, patients, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "train", lambda samples, *_: Memory(samples))
    monkeypatch.setattr(demo, "AUGMENT", lambda image, target, rng: (image, target))
    argv = ["--data", str(patients), "--out", str(tmp_path / "out"), "--patients", "15", "--seeds", "0", "1"]
    gaps = demo.main(argv)
    rows = read_rows(tmp_path / "out")
    whole = {row["procedure"]: row for row in rows if row["seed"] == "all"}
    for leaking in (demo.LEAKY, demo.BY_SLICE):
        assert float(whole[leaking]["reported"]) > 0.9 and float(whole[leaking]["unseen"]) < 0.5
        assert float(whole[leaking]["shared"]) > 0.8  # by chance all three slices of a patient may be for the test
        assert gaps[leaking] > float(whole[leaking]["gap_low"]) > 0.3
    assert float(whole[demo.BY_PATIENT]["reported"]) < 0.5 and abs(gaps[demo.BY_PATIENT]) < 0.25
    assert whole[demo.BY_PATIENT]["shared"] == "0"
    assert [row["seed"] for row in rows] == ["all"] * 3 + ["0"] * 3 + ["1"] * 3
    for row in rows:
        assert float(row["reported"]) - float(row["unseen"]) == pytest.approx(float(row["gap"]), abs=2e-5)
    for name, row in whole.items():  # all seeds together have equally many never-seen slices of each
        each = [float(r["unseen"]) for r in rows if r["procedure"] == name and r["seed"] != "all"]
        assert np.mean(each) == pytest.approx(float(row["unseen"]), rel=1e-4)


def read_rows(out):
    with open(out / "leak_demo.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_equal_seeds_give_equal_results(demo, patients, tmp_path):
    runs = [tmp_path / "one", tmp_path / "two"]
    for out in runs:
        argv = ["--data", str(patients), "--out", str(out), "--patients", "6", "--seeds", "3"]
        assert demo.main([*argv, *TINY]).keys() == set(demo.PROCEDURES)
    assert read_rows(runs[0]) == read_rows(runs[1])
    assert {path.name for path in runs[0].iterdir()} == {"leak_demo.md", "leak_demo.csv", "leak_demo.png"}
    text = (runs[0] / "leak_demo.md").read_text()
    assert "Three ways to split patients, seeds 3" in text and "18 slices of 6 never-seen patients" in text


def test_without_data_phantoms_are_drawn(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "UNSEEN_PHANTOMS", 2)
    demo.main(["--out", str(tmp_path / "out"), "--patients", "4", "--slices", "2", "--seeds", "0", *TINY])
    records = SliceDataset(tmp_path / "out/phantoms").records
    assert Counter(record.split for record in records) == {"train": 8, "test": 4}


# ---- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds", "1", "1"], "different numbers"),
        (["--patients", "3"], "at least 4 patients"),
        (["--copies", "1"], "2 copies"),
        (["--steps", "0"], "must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(demo, flags, words, capsys):
    with pytest.raises(SystemExit) as end:
        demo.main(flags)
    assert end.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"splits": ("train",) * 6}, "has no slice in the split 'test'"),
        ({"splits": ("train",) * 3 + ("test",) * 2}, "has 3 patients outside its test split"),
        ({"lesions": lambda split: split != "test"}, "No test slice"),
    ],
)
def test_a_folder_that_cannot_show_it_is_refused_and_nothing_is_written(demo, tmp_path, capsys, about, words):
    data = write_patients(tmp_path / "data", **about)
    assert demo.main(["--data", str(data), "--out", str(tmp_path / "out"), *TINY]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_with_results_is_not_written_over(demo, patients, tmp_path, capsys):
    (tmp_path / "results.txt").touch()
    assert demo.main(["--data", str(patients), "--out", str(tmp_path), *TINY]) == 2
    assert "Choose another folder with --out" in capsys.readouterr().err
