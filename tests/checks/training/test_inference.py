"""The check of the sliding window accepts ours and one that pads and works window by window."""

import pytest
import torch
import torch.nn.functional as F

from lungseg.checks.training.inference import check_sliding_window
from lungseg.inference import sliding_window


def pads_and_weighs(model, image, window_size, overlap=0.5):
    """Sound: a small image is padded at the bottom and right; the weights are largest in the middle of a window."""
    B, _, H, W = image.shape
    image = F.pad(image, (0, max(window_size - W, 0), 0, max(window_size - H, 0)))
    tops, lefts = (
        sorted({*range(0, n - window_size, 1 + int(overlap < 0.5)), n - window_size}) for n in image.shape[2:]
    )
    ramp = torch.arange(1.0, window_size + 1)
    weight = torch.minimum(ramp, ramp.flip(0))
    weight = weight[:, None] * weight
    total, sums = torch.zeros(B, 2, *image.shape[2:]), torch.zeros(image.shape[2:])
    for top in tops:
        for left in lefts:
            box = slice(top, top + window_size), slice(left, left + window_size)
            for b in range(B):
                total[b][:, *box] += weight * model(image[b : b + 1, :, *box])[0]
            sums[box] += weight
    return (total / sums)[:, :, :H, :W]


@pytest.mark.parametrize("sound", [sliding_window, pads_and_weighs])
def test_the_check_accepts(sound):
    check_sliding_window(sound)
