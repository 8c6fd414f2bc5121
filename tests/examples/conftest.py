"""What the tests of the training scripts share: the scripts, and tiny data."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lungseg.checkpoint import load_checkpoint
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_example(name):
    """The module of examples/<name>.py, which is no package."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def example():
    return load_example


@pytest.fixture(scope="session")
def discs(tmp_path_factory):
    """A folder of slices of 32 x 32: bright discs on noise, one slice to a patient."""
    folder = tmp_path_factory.mktemp("data") / "discs"
    y, x = np.mgrid[:32, :32]
    with SliceWriter(folder) as out:
        for i, split in enumerate(("train",) * 9 + ("val",) * 3 + ("test",) * 3):
            rng = np.random.default_rng(i)
            row, col = rng.integers(8, 24, 2)
            target = ((y - row) ** 2 + (x - col) ** 2 < 40).astype(np.uint8)
            image = np.clip(60 + 120 * target + rng.normal(0, 15, (32, 32)), 0, 255).astype(np.uint8)
            out.add(ImageRecord(f"slice{i:02d}", f"patient{i:02d}", split, spacing_mm=0.7), image, target)
    return folder


@pytest.fixture(scope="session")
def log_of():
    """The lines of a run's log, without what the clock says."""

    def read(out):
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    return read


@pytest.fixture(autouse=True, scope="module")
def _jagged_charts():
    """Smooth lines are a fifth of the time of so short a training; here it is enough that charts are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lungseg.charts.ZOOM", 1)
        yield


@pytest.fixture
def epochs_of(log_of, monkeypatch):
    """Train; return what the log says of the epochs. What follows them takes as long, and is left out."""

    def run(main, *argv, out):
        with monkeypatch.context() as patch:
            patch.setattr("lungseg.training.run.Run.end", lambda run, test, model: test.scores["dice"])
            assert isinstance(main([*argv, "--out", str(out)]), float)
        return [line for line in log_of(out) if "epoch" in line]

    return run


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory):
    """A folder of slices of 32 x 32 with two lesion classes: a bright disc, and in most slices a dark square too."""
    folder = tmp_path_factory.mktemp("data") / "classes"
    y, x = np.mgrid[:32, :32]
    with SliceWriter(folder, classes=("solid", "cyst")) as out:
        for i, split in enumerate(("train",) * 9 + ("val",) * 3 + ("test",) * 3):
            rng = np.random.default_rng(i)
            row, col = rng.integers(8, 24, 2)
            target = ((y - row) ** 2 + (x - col) ** 2 < 40).astype(np.uint8)
            if i % 4:
                target[2:7, 2 + i : 9 + i] = 2
            image = 100 + 120 * (target == 1) - 90 * (target == 2) + rng.normal(0, 5, (32, 32))
            image = np.clip(image, 0, 255).astype(np.uint8)
            out.add(ImageRecord(f"slice{i:02d}", f"patient{i:02d}", split, spacing_mm=0.7), image, target)
    return folder


@pytest.fixture
def learns_two_classes(two_classes, tmp_path, log_of):
    """Fail unless a training script takes the number of classes from its data, and scores each."""

    def check(main, *flags):
        out = tmp_path / "classes"
        dice = main(["--data", str(two_classes), "--out", str(out), *flags])
        best, last = load_checkpoint(out / "best.pt"), log_of(out)[-1]["best epoch"]
        assert best["network"]["arguments"]["num_classes"] == 2 and best["input"]["classes"] == ["solid", "cyst"]
        assert best["model"]["head.bias"].shape == (2,)
        assert dice == last["dice"] == (last["dice of solid"] + last["dice of cyst"]) / 2
        assert "dice of cyst" in log_of(out)[1]["val"] and (out / "predictions.png").is_file()

    return check


@pytest.fixture(scope="session")
def starts_from():
    """Train for an epoch that learns nothing from another run's best weights; return what it ended with."""

    def check(main, argv, best, out):
        still = ["--epochs", "1", "--lr", "1e-12", "--weight-decay", "0", "--warmup-epochs", "0"]
        assert isinstance(main([*argv, *still, "--weights", str(best), "--out", str(out)]), float)
        before, after = (load_checkpoint(path)["model"] for path in (best, out / "last.pt"))
        assert before.keys() == after.keys()
        for name in before:
            if "running" not in name and "num_batches" not in name:  # batch norms count on
                assert torch.allclose(before[name], after[name], atol=1e-6), name  # the head's bias too: no prior
        return after

    return check
