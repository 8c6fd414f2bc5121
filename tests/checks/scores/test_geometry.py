"""The checks of distances and weights accept ours and the published form; mutants_data.py holds the wrong ones."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from lungseg.checks.lessons import Wrong
from lungseg.checks.scores.geometry import check_boundary_loss, check_lesion_weights
from lungseg.losses_geometry import boundary_loss, lesion_weights


def published(logits, target):
    """Sound: the border on the outermost lesion pixels, and no constant."""
    distance = np.zeros(target.shape)
    for place in np.ndindex(*target.shape[:2]):
        lesion = target[place].numpy() > 0
        if lesion.any() and not lesion.all():
            inside, outside = (ndimage.distance_transform_edt(m) for m in (lesion, ~lesion))
            distance[place] = outside - (inside - 1) * lesion
    return torch.einsum("bkhw,bkhw->bk", logits.sigmoid().double(), torch.from_numpy(distance)).mean() / lesion.size


def test_ours_and_the_published_form_pass():
    check_boundary_loss(boundary_loss)
    check_boundary_loss(published)
    check_lesion_weights(lesion_weights)


def test_a_gradient_of_nothing_is_refused():
    with pytest.raises(Wrong, match="the gradient is"):
        check_boundary_loss(lambda x, g: boundary_loss(x.detach(), g) + 0 * x.sum())


def middle(logits, target):
    places = torch.stack(torch.meshgrid(*map(torch.arange, target.shape[2:]), indexing="ij")).double()
    loss = []
    for x, lesion in zip(logits.flatten(0, 1), target.flatten(0, 1), strict=True):
        centre = places[:, lesion > 0].mean(1) if lesion.any() else places.new_zeros(2)
        distance = (places - centre[:, None, None]).norm(dim=0)
        loss.append((x.sigmoid() * distance).mean())
    return torch.stack(loss).mean()


def test_the_distance_to_the_middle_is_named():
    with pytest.raises(Wrong) as answer:
        check_boundary_loss(middle)
    assert answer.value.slip == "distance to the middle"
