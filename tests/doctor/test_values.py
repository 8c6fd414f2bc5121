"""Images and targets broken on purpose: each fault is named."""

import pytest
import torch
from disc_batches import disc_batch

from lungseg.doctor.finding import FAULT, OK, WARNING
from lungseg.doctor.values import image_finding, prevalence_finding, target_finding, token_finding

IMAGES, TARGETS = disc_batch()
NAN = torch.where(TARGETS > 0, torch.nan, IMAGES)


@pytest.mark.parametrize(
    ("images", "verdict", "words"),
    [
        (IMAGES, OK, ""),
        (255 * IMAGES, FAULT, "8-bit picture"),
        (1400 * IMAGES - 1000, FAULT, "Hounsfield units"),
        (60000 * IMAGES, FAULT, "16-bit picture"),
        (IMAGES - IMAGES.mean(), WARNING, "standardised"),
        (100 * IMAGES - 50, FAULT, "not one scale"),
        (IMAGES / 255, FAULT, "divided by 255 twice"),
        (torch.full_like(IMAGES, 0.3), FAULT, "blank images"),
        (torch.cat([IMAGES, torch.zeros(2, 1, 32, 32)]), WARNING, "without a body"),
        (IMAGES[:1].repeat(4, 1, 1, 1), FAULT, "same image every time"),
        (NAN, FAULT, "NaN"),
    ],
)
def test_the_range_of_images(images, verdict, words):
    found = image_finding(images)
    assert found.verdict == verdict and words in found.cause
    assert bool(found.cure) == (verdict != OK)


@pytest.mark.parametrize(
    ("targets", "verdict", "words"),
    [
        (TARGETS, OK, ""),
        (255 * TARGETS, FAULT, "lesion is 255"),
        (3 * TARGETS, FAULT, "labels of several classes"),
        (-TARGETS, FAULT, "labels of several classes"),
        (TARGETS * torch.nan, FAULT, "NaN"),
        (0.5 * TARGETS, FAULT, "interpolation"),
        (TARGETS / 255, FAULT, "divided by 255 twice"),
        (1 - TARGETS, FAULT, "inverted"),
        (0 * TARGETS, FAULT, "lesions were lost"),
    ],
)
def test_the_values_of_masks(targets, verdict, words):
    found = target_finding(targets)
    assert found.verdict == verdict and words in found.cause
    assert bool(found.cure) == (verdict != OK)


def test_the_prevalence_is_counted_and_judged():
    targets = torch.zeros(20, 1, 10, 10)
    targets[0, 0, :2, :5] = 1
    found = prevalence_finding(targets)
    assert found.measured == "0.500% of the pixels are lesion; 95% of 20 images have none"
    assert found.verdict == WARNING and "nearly all images are empty" in found.cause
    rare = torch.zeros(2, 1, 64, 64)
    rare[:, 0, 0, 0] = 1
    assert "cross entropy alone" in prevalence_finding(rare).cause
    assert prevalence_finding(TARGETS).verdict == OK


def test_lesions_are_measured_in_tokens():
    targets = torch.zeros(3, 1, 32, 32)
    targets[0, 0, :2, :4] = 1  # 8 pixels: half a token of 4 x 4
    targets[1, 0, 8:10, 8:12] = targets[1, 0, 20:22, 8:12] = 1  # two lesions
    for patch_size, verdict in ((None, OK), (2, OK), (4, WARNING), (16, WARNING)):
        found = token_finding(targets, patch_size)
        assert found.verdict == verdict
        assert "3 lesions, median 8 pixels" in found.measured and "0.5 tokens of 4^2" in found.measured
    assert found.measured.startswith("100% of the lesions are smaller than one token of 16^2 pixels")
    assert token_finding(0 * targets).verdict == WARNING


def test_a_volume_has_tokens_with_three_sides():
    targets = torch.zeros(1, 1, 8, 8, 8)
    targets[0, 0, :4, :4, :4] = 1
    assert "1 tokens of 4^3" in token_finding(targets, 4).measured
