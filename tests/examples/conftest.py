"""What the tests of the training scripts share: the scripts, and tiny data."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lungseg.checkpoint import load_checkpoint
from lungseg.data.folder import FolderWriter
from lungseg.data.manifest import SliceRecord

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
    with FolderWriter(folder) as out:
        for i, split in enumerate(("train",) * 9 + ("val",) * 3 + ("test",) * 3):
            rng = np.random.default_rng(i)
            row, col = rng.integers(8, 24, 2)
            target = ((y - row) ** 2 + (x - col) ** 2 < 40).astype(np.uint8)
            image = np.clip(60 + 120 * target + rng.normal(0, 15, (32, 32)), 0, 255).astype(np.uint8)
            out.add(SliceRecord(f"slice{i:02d}", f"patient{i:02d}", split, spacing_mm=0.7), image, target)
    return folder


@pytest.fixture(scope="session")
def log_of():
    """The lines of a run's log, without what the clock says."""

    def read(out):
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    return read


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
