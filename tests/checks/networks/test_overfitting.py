"""The checks of learning one batch by heart."""

import pytest
import torch
from torch import nn

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.overfitting import check_overfit, check_overfits_one_batch


class Blind(nn.Module):
    """Never sees the image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image):
        return self.conv(torch.zeros_like(image))


def test_the_check_of_learning_by_heart_accepts_a_network_that_can():
    wide = [nn.Conv2d(1, 16, 5, padding=2), nn.GELU(), nn.Conv2d(16, 16, 5, padding=2), nn.GELU()]
    network = nn.Sequential(*wide, nn.Conv2d(16, 1, 5, padding=2))
    check_overfits_one_batch(network, lr=1e-2, steps=150)


def test_the_check_of_learning_by_heart_rejects_a_network_that_cannot():
    with pytest.raises(AssertionError, match="after 40 steps on one batch the Dice"):
        check_overfits_one_batch(Blind(), lr=1e-2, steps=40)


def test_overfit_judges_the_network_that_is_returned():
    wide = [nn.Conv2d(1, 16, 5, padding=2), nn.GELU(), nn.Conv2d(16, 16, 5, padding=2), nn.GELU()]

    def overfit(image, target, steps=150):
        torch.manual_seed(0)
        network = nn.Sequential(*wide, nn.Conv2d(16, 1, 5, padding=2))
        check_overfits_one_batch(network, lr=1e-2, steps=steps)
        return network

    check_overfit(overfit)
    with pytest.raises(Wrong, match="the Dice on the batch is"):
        check_overfit(lambda image, target: Blind())
    with pytest.raises(Wrong, match="expected the trained network"):
        check_overfit(lambda image, target: 0.99)
