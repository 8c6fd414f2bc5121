"""The loss of a recipe: each name is its function, each number is used, and no number is ignored in silence."""

from dataclasses import fields, replace
from functools import partial
from typing import get_args, get_type_hints

import pytest
import torch

from lungseg import losses, losses_geometry
from lungseg.training.loss import NUMBERS, make_loss
from lungseg.training.recipe import TrainingRecipe, from_older_version

OTHER = {
    "pos_weight": 3.0, "tversky_beta": 0.9, "tversky_gamma": 2.0, "focal_gamma": 1.0, "focal_alpha": 0.3,
    "boundary_weight": 0.5, "lesion_size": 5.0,
}  # fmt: skip
WANTED = {  # by hand, with the numbers of OTHER
    "bce": partial(losses.bce_loss, pos_weight=3.0),
    "dice": losses.dice_loss,
    "dice_bce": partial(losses.dice_bce_loss, pos_weight=3.0),
    "tversky": partial(losses.tversky_loss, alpha=0.1, beta=0.9),
    "focal_tversky": partial(losses.focal_tversky_loss, alpha=0.1, beta=0.9, gamma=2.0),
    "focal": partial(losses.focal_loss, gamma=1.0, alpha=0.3),
    "dice_focal": partial(losses.dice_focal_loss, gamma=1.0, alpha=0.3),
    "dice_boundary": partial(losses_geometry.dice_boundary_loss, weight=0.5),
    "dice_lesion_bce": partial(losses_geometry.dice_lesion_bce_loss, size=5.0),
}


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    target = torch.zeros(2, 1, 8, 8)
    target[0, 0, 1:4, 2:6] = 1
    return torch.randn(2, 1, 8, 8), target


def test_every_choice_of_the_recipe_is_a_loss_and_every_number_belongs_to_one():
    assert set(get_args(get_type_hints(TrainingRecipe)["loss"])) == NUMBERS.keys() == WANTED.keys()
    assert {name for names in NUMBERS.values() for name in names} == OTHER.keys()
    assert OTHER.keys() <= {f.name for f in fields(TrainingRecipe)}


@pytest.mark.parametrize("loss", NUMBERS)
def test_a_choice_is_its_function_and_each_of_its_numbers_changes_it(loss, batch):
    plain = TrainingRecipe(loss=loss)
    mine = replace(plain, **{name: OTHER[name] for name in NUMBERS[loss]})
    assert torch.equal(make_loss(mine)(*batch), WANTED[loss](*batch))
    for name in NUMBERS[loss]:
        start = replace(plain, focal_alpha=0.5) if name == "focal_alpha" else plain
        changed = replace(start, **{name: OTHER[name]})
        assert make_loss(changed)(*batch) != make_loss(start)(*batch)


@pytest.mark.parametrize("loss", NUMBERS)
def test_a_number_that_the_loss_does_not_use_is_refused(loss):
    for name in OTHER.keys() - set(NUMBERS[loss]):
        flag = "--" + name.replace("_", "-")
        with pytest.raises(ValueError, match=f"{flag} {OTHER[name]} does nothing with --loss {loss}") as error:
            TrainingRecipe(loss=loss, **{name: OTHER[name]})
        assert all(f" {choice}" in str(error.value) for choice, names in NUMBERS.items() if name in names)
        assert "\n" not in str(error.value)


def test_the_defaults_compute_what_they_did_before_there_were_numbers(batch):
    """So that a run of an older version goes on as it began."""
    for loss, function in (("bce", losses.bce_loss), ("dice", losses.dice_loss), ("dice_bce", losses.dice_bce_loss)):
        old = {"loss": loss, "img_size": 32}
        recipe = TrainingRecipe(**from_older_version(old, TrainingRecipe))
        assert recipe == TrainingRecipe(**old) and torch.equal(make_loss(recipe)(*batch), function(*batch))
