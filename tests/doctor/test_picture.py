"""The picture shows what enters the network."""

import numpy as np
import pytest
import torch
from disc_batches import disc_batch
from torch import nn

from lungseg.doctor.picture import COLUMNS, ROWS, SIDE, input_sheet
from lungseg.draw import PRED, TARGET

IMAGES, TARGETS = disc_batch(3)


def has_colour(picture, colour):
    return bool((np.asarray(picture) == colour).all(-1).any())


def test_targets_are_green_and_predictions_orange_where_there_is_a_network():
    picture = input_sheet(IMAGES, TARGETS)
    assert has_colour(picture, TARGET) and not has_colour(picture, PRED)
    network = nn.Conv2d(1, 1, 1).train()
    nn.init.constant_(network.weight, 10.0)
    nn.init.constant_(network.bias, -4.0)
    picture = input_sheet(IMAGES, TARGETS, network)
    assert has_colour(picture, TARGET) and has_colour(picture, PRED) and network.training


@pytest.mark.parametrize(("given", "drawn"), [(0, 0), (0.5, 128), (1, 255), (255, 255), (-1, 0)])
def test_grey_values_are_drawn_as_they_are_given(given, drawn):
    picture = input_sheet(torch.full((1, 1, 8, 8), float(given)), torch.zeros(1, 1, 8, 8))
    assert (np.asarray(picture)[50, 50] == drawn).all()


@pytest.mark.parametrize("count", [1, COLUMNS + 1, COLUMNS * ROWS + 5])
def test_no_more_images_than_have_room_are_shown(count):
    picture = input_sheet(torch.rand(count, 1, 16, 16), torch.zeros(count, 1, 16, 16))
    assert picture.width <= COLUMNS * (SIDE + 20) and picture.height <= ROWS * (SIDE + 100)


def test_a_volume_is_shown_by_its_slice_with_most_lesion():
    volume = torch.stack([0 * IMAGES, IMAGES], dim=2)
    flat = input_sheet(IMAGES, TARGETS)
    assert input_sheet(volume, torch.stack([0 * TARGETS, TARGETS], dim=2)).tobytes() == flat.tobytes()
