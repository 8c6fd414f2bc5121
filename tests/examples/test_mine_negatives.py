"""From a checkpoint and scans to a folder that training takes with --negatives."""

import csv
import shutil

import numpy as np
import pytest
import torch

from lungseg.checkpoint import InputSpec
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.slices import SliceDataset, SliceWriter, check_folder, read_slice
from lungseg.data.volumes import VolumeWriter
from lungseg.predictor import Predictor


class Bright(torch.nn.Module):
    """Lesion is what is brighter than the middle of the window."""

    def forward(self, image):
        return 20 * (image - 0.5)


@pytest.fixture(scope="module")
def mine_negatives(example):
    return example("mine_negatives")


@pytest.fixture
def bright(mine_negatives, monkeypatch):
    """In place of the network of a checkpoint, so that its mistakes are known."""
    network = Predictor(Bright(), InputSpec((32, 32), (1.0, 1.0), (-1000.0, 400.0), 0.7))
    monkeypatch.setattr(mine_negatives, "load_predictor", lambda *args, **kwargs: network)
    return mine_negatives.main


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two training scans and one of the test split: a lung in soft tissue, a lesion, and vessels that are none."""
    folder = tmp_path_factory.mktemp("data") / "scans"
    rows, cols = np.indices((96, 96)) - 48
    with VolumeWriter(folder) as out:
        for i, split in enumerate(("train", "train", "test")):
            rng = np.random.default_rng(i)
            hu = np.full((12, 96, 96), -1000.0)
            hu[:, np.hypot(rows, cols) < 44] = -360  # darker than the middle of the window
            hu[:, np.hypot(rows, cols) < 36] = -850
            target = np.zeros(hu.shape, np.uint8)
            target[4:7, 45:52, 30:37] = 1
            hu[target > 0] = 0
            for z in range(12):
                for row, col in rng.integers(20, 76, (3, 2)):
                    hu[z, row : row + 2, col : col + 2] = 50 * i
            hu = (hu + rng.normal(0, 10, hu.shape)).clip(-1000, 400).astype(np.int16)
            out.add(ImageRecord(f"scan{i}", f"patient{i}", split), hu, target, (2.5, 0.7, 0.7))
    return folder


def test_half_of_the_windows_are_false_positives_of_training_scans(bright, scans, tmp_path, capsys):
    out = tmp_path / "negatives"
    argv = ["any.pt", "--data", str(scans), "--size", "32", "--num", "12"]
    assert bright([*argv, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "holds 12 windows of 32 x 32 pixels, of 2 patients: 6 where the network is wrong" in said
    assert said.count("\n") == 1 and f"--negatives {out}" in said
    records = read_manifest(out)
    assert [r.label for r in records].count("false positive") == 6 and {r.split for r in records} == {"train"}
    assert {r.group for r in records} == {"patient0", "patient1"}  # never of the test split
    assert all(r.spacing_mm == pytest.approx(0.7) for r in records) and check_folder(out, negatives=True) == []
    for (image, target, _), record in zip(SliceDataset(out), records, strict=True):
        assert image.shape == (1, 32, 32) and not target.any()
        assert record.label != "false positive" or (image > 0.5).any()  # what the network calls lesion is in it
    again = tmp_path / "again"
    bright([*argv, "--out", str(again)])
    assert {p.name: p.read_bytes() for p in (out / "images").iterdir()} == {
        p.name: p.read_bytes() for p in (again / "images").iterdir()
    }
    assert bright([*argv, "--out", str(tmp_path / "other"), "--seed", "1"]) == 0
    assert {r.id for r in read_manifest(tmp_path / "other")} != {r.id for r in records}


@pytest.mark.parametrize(("share", "wrong"), [("0", 0), ("1", 8)])
def test_the_share_of_false_positives_is_what_was_asked_for(bright, scans, tmp_path, share, wrong):
    out = tmp_path / "out"
    argv = ["any.pt", "--data", str(scans), "--out", str(out), "--size", "32", "--num", "8", "--share-hard", share]
    assert bright(argv) == 0
    with open(out / "manifest.csv", newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert len(labels) == 8 and labels.count("false positive") == wrong


def test_in_the_lungs_no_mistake_in_the_wall_is_mined(bright, scans, tmp_path, capsys):
    walled = tmp_path / "walled"
    shutil.copytree(scans, walled)
    for path in (walled / "volumes").iterdir():
        with np.load(path) as held:
            arrays = dict(held)
        arrays["hu"][:, 46:50, 88:90] = 300  # a rib, in each slice
        np.savez(path, **arrays)
    argv = ["any.pt", "--data", str(walled), "--size", "16", "--num", "12"]
    rows = []
    for flags in ([], ["--lungs"]):
        out = tmp_path / f"out{len(flags)}"
        assert bright([*argv, *flags, "--out", str(out)]) == 0
        images = [read_slice(out, r)[0] for r in read_manifest(out) if r.label == "false positive"]
        rows.append(sum((image == 237).any() for image in images))  # 300 HU
    assert rows[0] > 0 == rows[1] and "anywhere in the lungs." in capsys.readouterr().out


def test_too_few_mistakes_are_said(bright, scans, tmp_path, capsys):
    argv = ["any.pt", "--data", str(scans), "--out", str(tmp_path / "out"), "--size", "64", "--num", "60"]
    assert bright(argv) == 0
    said = capsys.readouterr().out
    assert "There was room for " in said and "false positives far enough apart, not 30" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--size", "0"], "must be at least 1"),
        (["--share-hard", "1.5"], "--share-hard from 0 to 1"),
        (["--size", "128"], "does not fit into slices of 96 x 96. Choose a smaller --size."),
        (["--size", "96"], "no window of 96 x 96 pixels is without a lesion"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_leaves_nothing(bright, scans, tmp_path, capsys, flags, words):
    argv = ["any.pt", "--data", str(scans), "--out", str(tmp_path / "out"), "--num", "4", *flags]
    if "96" in flags:  # every slice holds a lesion in its middle
        whole = tmp_path / "whole"
        with VolumeWriter(whole) as out:
            target = np.zeros((2, 96, 96), np.uint8)
            target[:, 40:50, 40:50] = 1
            out.add(ImageRecord("s", "p", "train"), (500 * target.astype(np.int16) - 800), target, (2.5, 0.7, 0.7))
        argv[2] = str(whole)
    try:
        assert bright(argv) == 2
    except SystemExit as end:
        assert end.code == 2
    said = capsys.readouterr().err
    assert said.startswith("mine_negatives.py: ") and words in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_training_learns_from_negatives_and_resumes_with_them(discs, example, tmp_path, log_of, capsys):
    """Copies of the training discs without their masks: what was a lesion is none now."""
    negatives, train_unet = tmp_path / "negatives", example("train_unet")
    with SliceWriter(negatives) as out:
        for record in read_manifest(discs)[:4]:
            image, target = read_slice(discs, record)
            out.add(record, np.roll(image, 5, axis=0), 0 * target)
    tiny = ["--data", str(discs), "--img-size", "16", "--channels", "4", "8", "--batch-size", "4", "--epochs", "2"]
    joined = [*tiny, "--negatives", str(negatives)]
    dice = train_unet.main([*joined, "--out", str(tmp_path / "with")])
    assert isinstance(train_unet.main([*tiny, "--out", str(tmp_path / "without")]), float)
    assert log_of(tmp_path / "with")[1:] != log_of(tmp_path / "without")[1:]
    whole = torch.load(tmp_path / "with/last.pt", weights_only=True)["model"]
    (tmp_path / "with/last.prev.pt").replace(tmp_path / "with/last.pt")  # after the first epoch
    assert train_unet.main(["--out", str(tmp_path / "with"), "--resume"]) == dice
    after = torch.load(tmp_path / "with/last.pt", weights_only=True)["model"]
    assert all(torch.equal(whole[name], after[name]) for name in whole)
    capsys.readouterr()
    assert train_unet.main([*tiny, "--negatives", str(discs), "--out", str(tmp_path / "with"), "--resume"]) == 2
    assert "was started with negatives" in capsys.readouterr().err
    mask = next((negatives / "masks").iterdir())
    mask.write_bytes((discs / "masks" / mask.name).read_bytes())
    assert train_unet.main(["--out", str(tmp_path / "with"), "--resume"]) == 2
    assert "has changed since the run" in (said := capsys.readouterr().err) and "negatives 1/masks" in said
