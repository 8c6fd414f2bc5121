"""Masks that were moved away from their images are found, and where to."""

import pytest
import torch
from disc_batches import disc_batch
from hypothesis import given, settings, strategies as st

from lungseg.doctor.finding import OK, WARNING
from lungseg.doctor.fit import ORIENTATIONS, best_place, fit_finding, with_lesions

IMAGES, TARGETS = disc_batch(count=40, size=48)
SHIFT = st.integers(-8, 8)


def test_masks_in_their_place_are_fine():
    found = fit_finding(IMAGES, TARGETS)
    assert found.verdict == OK
    contrast = float(found.measured.split("+")[1].split(" ")[0])
    assert contrast == pytest.approx(0.4, abs=0.02)  # as it was drawn


def test_the_contrast_is_that_of_a_loop():
    images, kernels = with_lesions(IMAGES, TARGETS)
    for i in (0, 7):
        lesion = TARGETS[i, 0] > 0
        rows, cols = lesion.nonzero().T
        ring = torch.zeros_like(lesion)
        for r, c in zip(rows.tolist(), cols.tolist(), strict=True):
            ring[max(r - 3, 0) : r + 4, max(c - 3, 0) : c + 4] = True
        expected = IMAGES[i, 0][lesion].mean() - IMAGES[i, 0][ring & ~lesion].mean()
        torch.testing.assert_close((images[i] * kernels[i]).sum(), expected)


@settings(max_examples=15)
@given(SHIFT, SHIFT)
def test_a_shift_of_all_masks_is_found_in_pixels(rows, columns):
    moved = TARGETS.roll((rows, columns), (-2, -1))
    name, shift, _ = best_place(*with_lesions(IMAGES, moved))
    assert name in ("as they are", "rotated by 180 degrees", *ORIENTATIONS)  # a disc looks the same in all of them
    if name == "as they are":
        assert shift == (-rows, -columns)
    found = fit_finding(IMAGES, moved)
    assert (found.verdict == WARNING) == (max(abs(rows), abs(columns)) >= 2)


@pytest.mark.parametrize("name", [n for n in ORIENTATIONS if n != "as they are"])
def test_turned_masks_are_found_and_named(name):
    turned = ORIENTATIONS[name](TARGETS)
    found = fit_finding(IMAGES, turned)
    undo = {"rotated by 90 degrees": "rotated by 270 degrees", "rotated by 270 degrees": "rotated by 90 degrees"}
    assert found.verdict == WARNING and f"taken {undo.get(name, name)}" in found.measured


def test_masks_of_other_images_and_inverted_images_are_warned_about():
    found = fit_finding(IMAGES, TARGETS.roll(1, 0))
    assert found.verdict == WARNING and "masks of other images" in found.cause
    found = fit_finding(1 - IMAGES, TARGETS)
    assert found.verdict == WARNING and "inverted" in found.cause


def test_few_images_and_no_lesions_are_not_judged():
    assert "not examined: 3 images" in fit_finding(IMAGES[:3], TARGETS[:3]).measured
    assert fit_finding(IMAGES, 0 * TARGETS).verdict == OK


def test_a_volume_is_judged_by_its_slice_with_the_most_lesion():
    volumes = torch.stack([0 * IMAGES, IMAGES, 0 * IMAGES], dim=2)  # (n, 1, 3, H, W)
    targets = torch.stack([0 * TARGETS, TARGETS, 0 * TARGETS], dim=2)
    assert fit_finding(volumes, targets) == fit_finding(IMAGES, TARGETS)
