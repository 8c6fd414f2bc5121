"""Every network computes where its weights and its images are: nothing is made elsewhere and mixed in.

A CUDA GPU would stop at such a tensor, but few of those who change a network have one at hand. torch's meta device
computes shapes only and needs no GPU; here each operation of a pass on it, forward and backward, is looked at.
"""

import pytest
import torch
from tiny_networks import NETWORKS, inputs_of, on, outputs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lungseg import losses
from lungseg.inference import SlidingWindow
from lungseg.nn.biomedclip import clip_input
from lungseg.nn.sam import logits_to_original, places_to_frame, sam_input
from lungseg.training.ema import WeightAverage
from lungseg.tta import AverageOverVariations


class OnlyOn(TorchDispatchMode):
    """Inside, the first operation that makes a tensor on another device is an error."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != self.device:
                raise AssertionError(f"{function} made a tensor {tuple(tensor.shape)} on {tensor.device}")
        return made


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pass_makes_nothing_on_another_device(name):
    network, arguments = NETWORKS[name]().train().to("meta"), on("meta", inputs_of(name))
    with OnlyOn("meta"):
        outputs(network, arguments).square().mean().backward()
        with torch.no_grad():
            result = outputs(network.eval(), arguments)
    assert result.is_meta and all(p.grad is None or p.grad.is_meta for p in network.parameters())


class Careless(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.arange(3)


def test_a_tensor_that_is_made_on_the_cpu_is_found():
    with OnlyOn("meta"), pytest.raises(AssertionError, match=r"arange.* made a tensor \(3,\) on cpu"):
        Careless(3, 3, device="meta")(torch.zeros(2, 3, device="meta"))


def test_what_is_computed_around_the_networks_makes_nothing_elsewhere_either():
    image, target = torch.zeros(2, 2, 3, 1, 17, 20, device="meta").unbind()
    logits, boxes = torch.zeros(3, 1, 17, 20, device="meta", requires_grad=True), torch.zeros(3, 4, device="meta")
    model = nn.Conv2d(1, 1, 3, padding=1, device="meta")
    average = WeightAverage(model, 0.9)
    with OnlyOn("meta"):
        loss = losses.dice_bce_loss(logits, target[0], pos_weight=2.0) + losses.dice_focal_loss(
            logits, target[0], gamma=2.0, alpha=0.3
        )
        loss += losses.focal_tversky_loss(logits, target[0], alpha=0.3, beta=0.7, gamma=1.3)
        loss.backward()
        AverageOverVariations(model, "turns")(image[0])
        average.update()
        sam_input(torch.zeros(1, 3, 20, 30, dtype=torch.uint8, device="meta"), 16)
        places_to_frame(boxes, (17, 20), (16, 16))
        logits_to_original(logits, (17, 20), 32)
        clip_input(image[0])
    assert SlidingWindow(model, 8)(image[0]).is_meta  # its weights are made once, on the CPU
