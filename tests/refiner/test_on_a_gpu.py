"""The refiner on a GPU: the CPU's refined map, and stages that are stopped and resumed."""

import numpy as np
import pytest
import torch
from torch import nn

from lungseg.predictor import load_predictor
from lungseg.refiner.stages import Stages

pytestmark = pytest.mark.gpu


def test_the_refined_map_is_that_of_the_cpu(checkpoint, device):
    grey = np.random.default_rng(0).random((24, 20), np.float32)
    here, there = (load_predictor(checkpoint, place) for place in ("cpu", device))
    assert next(there.refiner.parameters()).device.type == device.type
    np.testing.assert_allclose(there.probs(grey), here.probs(grey), atol=1e-3)
    boxes = [(2, 3, 9, 11), (5, 5, 15, 14)]
    for found, expected in zip(there.look_at_boxes(grey, boxes), here.look_at_boxes(grey, boxes), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_stage_that_is_stopped_continues_where_it_was(tmp_path, device):
    """With the same draws of dropout; the digits of so small a network are the same on a GPU too, but for the last."""
    stop, ends = [5], []

    def build():
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def loss_of(model, step, rng):
        if name == "stopped" and step in stop:
            raise InterruptedError(stop.pop())
        return model(torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32)).to(device)).square().mean()

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        stages = Stages(tmp_path / name, device=device, save_every=2)
        if name == "stopped":
            with pytest.raises(InterruptedError):
                stages.train("a", build, loss_of, steps=8, lr=0.01)
            assert stages.partial("a").exists()
        ends.append(stages.train("a", build, loss_of, steps=8, lr=0.01))
    assert next(ends[0].parameters()).device.type == device.type
    for one, other in zip(*(model.parameters() for model in ends), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
