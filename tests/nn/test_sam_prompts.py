"""Prompts as tokens: equal to the published code, and each property of coordinates on its own."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from sam_fixtures import assert_near, departure, filled, prompt_of, recorded

from lungseg.nn.sam_prompts import FourierPositions, PromptEncoder

CASES = ("box", "boxes", "points", "points_and_boxes", "mask", "box_and_mask", "none")
XY = st.tuples(*[st.floats(0, 31, width=32)] * 2)


@pytest.fixture(scope="module")
def saved():
    return recorded("tiny_sam")


@pytest.fixture
def encoder(saved):
    return filled(saved)[0].prompt_encoder


def small_encoder():
    return PromptEncoder(8, img_size=32, patch_size=8, mask_channels=8)


# Parity


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_every_recorded_prompt(saved, encoder, name):
    case = saved["prompts"][name]
    sparse, dense = encoder(*prompt_of(case))
    assert_near(sparse, case["sparse"], "sparse")
    assert_near(dense, case["dense"], "dense")


def test_positions_of_the_embedding(saved, encoder):
    assert_near(encoder.dense_pe(), saved["image_pe"])


def rows_first(codes):
    return lambda self, pixels, frame: codes(self, pixels.flip(-1), frame)


def without_half_a_pixel(codes):
    return lambda self, pixels, frame: codes(self, pixels - 0.5, frame)


@pytest.mark.parametrize("name", ["box", "points"])
@pytest.mark.parametrize("mutant", [rows_first, without_half_a_pixel])
@torch.no_grad()
def test_other_coordinates_are_told_from_the_published_ones(saved, encoder, monkeypatch, name, mutant):
    """Boxes as (y0, x0, y1, x1) above all: our arrays are counted in that order, so it is the usual mistake."""
    monkeypatch.setattr(PromptEncoder, "_codes", mutant(PromptEncoder._codes))
    case = saved["prompts"][name]
    assert departure(encoder(*prompt_of(case))[0], case["sparse"]) > 1e-2


@torch.no_grad()
def test_cosines_before_sines_and_a_padding_point_with_a_position_are_told(saved, encoder, monkeypatch):
    points, box = (saved["prompts"][name] for name in ("points", "box"))
    with monkeypatch.context() as patch:
        forward = FourierPositions.forward
        patch.setattr(FourierPositions, "forward", lambda self, places: forward(self, places).roll(8, -1))
        assert departure(encoder(*prompt_of(box))[0], box["sparse"]) > 1e-2
    where = torch.where
    monkeypatch.setattr(torch, "where", lambda mask, a, b: b + a if a is encoder.not_a_point else where(mask, a, b))
    assert departure(encoder(*prompt_of(points))[0], points["sparse"]) > 1e-2


# The rules


@settings(max_examples=15)
@given(boxes=st.lists(st.tuples(XY, XY), min_size=1, max_size=3))
@torch.no_grad()
def test_a_box_is_two_corners_in_pixel_middles(boxes):
    encoder = small_encoder()
    corners = torch.tensor(boxes)  # (P, 2, 2)
    sparse, dense = encoder(boxes=corners.flatten(1))
    for prompt, pair in zip(sparse, corners, strict=True):
        for token, (x, y), kind in zip(prompt, pair, (encoder.top_left, encoder.bottom_right), strict=True):
            share = torch.stack([(x + 0.5) / 32, (y + 0.5) / 32])
            phase = 2 * math.pi * ((2 * share - 1) @ encoder.positions.frequencies)
            torch.testing.assert_close(token, torch.cat([phase.sin(), phase.cos()]) + kind[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(dense, encoder.no_mask[..., None, None].expand(len(boxes), 8, 4, 4))


@torch.no_grad()
def test_order_and_number_of_the_tokens():
    """Points, then corners; points alone are followed by one padding point, wherever a box would be."""
    encoder = small_encoder()
    points, labels, boxes = torch.rand(2, 3, 2) * 31, torch.tensor([[1, 0, -1], [0, 1, 1]]), torch.rand(2, 4) * 31
    alone, _ = encoder(points, labels)
    corners, _ = encoder(boxes=boxes)
    both, _ = encoder(points, labels, boxes)
    assert torch.equal(both, torch.cat([alone[:, :3], corners], dim=1))
    assert alone.shape == (2, 4, 8) and torch.equal(alone[:, 3], encoder.not_a_point.expand(2, -1))
    assert torch.equal(alone[0, 2], encoder.not_a_point[0])  # a point with label -1 has no position either
    moved, _ = encoder(points + 5, labels)
    assert torch.equal(moved[0, 2], alone[0, 2]) and (moved[0, :2] != alone[0, :2]).any()
    assert encoder()[0].shape == (1, 0, 8) and encoder()[1].shape == (1, 8, 4, 4)


@torch.no_grad()
def test_a_pixel_in_the_middle_of_a_patch_has_the_position_of_its_token():
    encoder = PromptEncoder(8, img_size=12, patch_size=3, mask_channels=8)  # the middle of a patch of 3 is a pixel
    pe = encoder.dense_pe((12, 6))
    assert pe.shape == (1, 8, 4, 2)
    row, column = 2, 1
    point = torch.tensor([[[3.0 * column + 1, 3.0 * row + 1]]])
    sparse, _ = encoder(point, torch.ones(1, 1), size=(12, 6))
    torch.testing.assert_close(sparse[0, 0] - encoder.foreground_point[0], pe[0, :, row, column], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_frame_that_is_not_whole_patches_is_measured_as_the_image_encoder_pads_it():
    encoder, boxes = small_encoder(), torch.tensor([[1.0, 2.0, 9.0, 8.0]])
    sparse, dense = encoder(boxes=boxes, size=(13, 30))
    assert torch.equal(sparse, encoder(boxes=boxes, size=(16, 32))[0]) and dense.shape == (1, 8, 2, 4)


@torch.no_grad()
def test_a_mask_is_read_at_four_times_the_grid():
    encoder = small_encoder()
    mask = torch.zeros(1, 1, 16, 16)
    changed = mask.clone()
    changed[0, 0, 4:8, 12:] = 3  # the square of the token in row 1, column 3
    moved = (encoder(masks=mask)[1] != encoder(masks=changed)[1]).any(1)[0]
    assert moved.nonzero().tolist() == [[1, 3]]


def test_the_frequencies_belong_to_the_checkpoint_and_are_not_trained():
    encoder = PromptEncoder()
    assert "positions.frequencies" in encoder.state_dict()
    assert sum(p.numel() for p in encoder.parameters()) == 6220
    assert encoder.positions.frequencies.std() == pytest.approx(1, abs=0.15)


# What is refused


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"boxes": torch.zeros(4)}, r"boxes have shape \(4,\), but \(4, 4\)"),
        ({"boxes": torch.zeros(2, 5)}, r"boxes have shape \(2, 5\), but \(2, 4\)"),
        ({"points": torch.zeros(1, 2, 2)}, "points and labels belong together"),
        ({"points": torch.zeros(1, 2, 2), "labels": torch.zeros(1, 3)}, r"points have shape \(1, 2, 2\)"),
        ({"points": torch.zeros(2, 2), "labels": torch.zeros(2)}, "points have shape"),
        ({"boxes": torch.zeros(2, 4), "masks": torch.zeros(1, 1, 16, 16)}, "masks have shape"),
        ({"masks": torch.zeros(1, 1, 32, 32)}, r"masks have shape \(1, 1, 32, 32\), but \(1, 1, 16, 16\)"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(prompt, words):
    with pytest.raises(ValueError, match=f"PromptEncoder: {words}"):
        small_encoder()(**prompt)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 7}, "dim must be a multiple of 2"),
        ({"dim": 0}, "dim must be an integer of at least 1"),
        ({"mask_channels": 10}, "mask_channels must be 8 or a larger multiple of 4, got 10"),
        ({"mask_channels": 4}, "mask_channels must be 8"),
        ({"img_size": 0}, "img_size must be"),
        ({"patch_size": 1.5}, "patch_size must be"),
    ],
)
def test_what_cannot_be_built_is_refused(options, words):
    with pytest.raises(ValueError, match=f"PromptEncoder: .*{words}"):
        PromptEncoder(**options)
