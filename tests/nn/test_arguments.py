"""Options and images that a network cannot work with are refused with the reason and the remedy."""

import numpy as np
import pytest
import torch

from lungseg.nn.arguments import (
    check_batch_norm,
    check_counts,
    check_image,
    check_mlp_ratio,
    check_rates,
    check_stages,
    is_count,
)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 8, 7), r"shape \(9, 8, 7\), but \(B, 2, H, W, D\)"),  # one channel would be a guess
        ((2, 9, 8, 7), r"\(B, 2, H, W, D\) .* image\[None\]"),
        ((1, 9, 8, 7, 2), r"\(B, 2, H, W, D\) .* image.movedim\(-1, 1\)"),
        ((1, 3, 9, 8, 7), r"\(B, 2, H, W, D\) .* in_channels=3"),
        ((1, 2, 9, 0, 7), r"\(B, 2, H, W, D\) with sides of at least 1"),
        ((1, 1, 2, 9, 8, 7), r"\(B, 2, H, W, D\) .* Reshape it."),
    ],
)
def test_a_volume_of_a_wrong_shape_is_refused_with_the_remedy(shape, message):
    with pytest.raises(ValueError, match="net: the image has .*" + message):
        check_image("net", torch.zeros(shape), 2, torch.float32, spatial_dims=3)


def test_options_that_can_be_meant_pass_and_the_first_that_cannot_is_named():
    check_counts("net", a=1, b=np.int64(7))
    check_stages("net", a=(1,), b=[2, 3])
    check_rates("net", a=0, b=0.999)
    with pytest.raises(ValueError, match="net: b must be an integer of at least 1, got 0.5"):
        check_counts("net", a=1, b=0.5, c=0)
    with pytest.raises(ValueError, match=r"net: b must name at least one stage, .* got \[\]. Give a sequence such as"):
        check_stages("net", a=(1,), b=[])
    with pytest.raises(ValueError, match=r"net: b must be a probability in \[0, 1\), got 1"):
        check_rates("net", a=0.5, b=1)


def test_batch_norm_needs_more_than_one_value_per_channel():
    with pytest.raises(ValueError, match="net: one image of 32 x 9 pixels .* at stride 32.*side above 32"):
        check_batch_norm("net", torch.zeros(1, 1, 32, 9), stride=32)
    check_batch_norm("net", torch.zeros(2, 1, 32, 9), stride=32)
    check_batch_norm("net", torch.zeros(1, 1, 33, 9), stride=32)


@pytest.mark.parametrize("value", [1, np.int64(3)])
def test_a_count_is_an_integer_of_at_least_1(value):
    assert is_count(value)


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", None, np.float32(2)])
def test_anything_else_is_not_a_count(value):
    assert not is_count(value)


def test_an_mlp_ratio_leaves_at_least_one_channel():
    check_mlp_ratio("net", 8, 1 / 8)
    for ratio in (1 / 9, float("inf"), float("nan"), "4", None):
        with pytest.raises(ValueError, match="net: mlp_ratio must be a number of at least 1/8, one channel, got "):
            check_mlp_ratio("net", 8, ratio)
