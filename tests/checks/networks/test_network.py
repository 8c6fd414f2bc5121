"""The network check accepts a small honest network and rejects the ways networks go wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.network import check_network, check_segmentation_network
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR


class Honest(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.head = nn.Conv2d(4, num_classes, 1)

    def forward(self, image):
        if image.shape[1] != self.in_channels:
            raise ValueError(f"got {image.shape[1]} channels, expected {self.in_channels}")
        return self.head(F.relu(self.conv(image)))


class NormalisesOverTheBatch(Honest):
    def forward(self, image):
        return super().forward(image - image.mean())


class DropsInEvaluation(Honest):
    def forward(self, image):
        return F.dropout(super().forward(image), 0.5, training=True)


class RemembersASmallImage(Honest):
    smallest = 1_000_000

    def forward(self, image):
        self.smallest = min(self.smallest, image.shape[-1])
        return super().forward(image) * self.smallest


class LosesAPixel(Honest):
    def forward(self, image):
        return super().forward(image)[..., : image.shape[-1] // 2 * 2]


class CarriesADeadParameter(Honest):
    def __init__(self, in_channels, num_classes):
        super().__init__(in_channels, num_classes)
        self.dead = nn.Linear(2, 2)


class CrashesOnWrongChannels(Honest):
    def forward(self, image):
        return self.head(F.relu(self.conv(image)))


def test_the_check_accepts_an_honest_network():
    check_segmentation_network(Honest)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (NormalisesOverTheBatch, "another image in the batch"),
        (DropsInEvaluation, "two calls in eval mode differ"),
        (RemembersASmallImage, "another size changed"),
        (LosesAPixel, "logits have shape"),
        (CarriesADeadParameter, "dead.weight, dead.bias"),
        (CrashesOnWrongChannels, "should be a ValueError, not"),
    ],
)
def test_the_check_rejects(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_segmentation_network(broken)


class NeverSeesTheImage(Honest):
    def forward(self, image):
        return super().forward(torch.zeros_like(image))


@pytest.mark.parametrize("network", [SwinUNet, UNETR, UNet])
def test_networks_of_ours_pass_as_a_students_would(network):
    check_network(network, overfit=False)


def test_a_network_without_small_sizes_is_built_as_it_is():
    check_network(Honest, overfit=False)


class DividesByTheBatch(Honest):
    def forward(self, image):
        return super().forward(image) / len(image)


class Detached(Honest):
    def forward(self, image):
        return super().forward(image).detach()


@pytest.mark.parametrize(
    ("broken", "slip"),
    [
        (DropsInEvaluation, "random in eval"),
        (RemembersASmallImage, "remembers"),
        (CarriesADeadParameter, "unused parameters"),
        (Detached, "unused parameters"),
        (DividesByTheBatch, "images mixed"),
    ],
)
def test_a_students_network_is_told_what_it_does(broken, slip):
    with pytest.raises(Wrong) as wrong:
        check_network(broken, overfit=False)
    assert wrong.value.slip == slip


def test_a_network_that_never_sees_the_image_is_found():
    with pytest.raises(Wrong, match="all logits are equal|cannot memorise|no gradient"):
        check_network(NeverSeesTheImage)
