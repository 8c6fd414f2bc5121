"""The loss of a recipe: a function of logits and target, with the recipe's numbers filled in."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from lungseg.losses import (
    bce_loss,
    dice_bce_loss,
    dice_focal_loss,
    dice_loss,
    focal_loss,
    focal_tversky_loss,
    tversky_loss,
)
from lungseg.losses_geometry import dice_boundary_loss, dice_lesion_bce_loss

if TYPE_CHECKING:  # the recipe asks here which numbers its loss has
    from lungseg.training.recipe import TrainingRecipe

NUMBERS = {  # --loss -> the fields of the recipe that it uses; all other numbers of losses must stay as they are
    "bce": ("pos_weight",),
    "dice": (),
    "dice_bce": ("pos_weight",),
    "tversky": ("tversky_beta",),
    "focal_tversky": ("tversky_beta", "tversky_gamma"),
    "focal": ("focal_gamma", "focal_alpha"),
    "dice_focal": ("focal_gamma", "focal_alpha"),
    "dice_boundary": ("boundary_weight",),
    "dice_lesion_bce": ("lesion_size",),
}


def make_loss(recipe: "TrainingRecipe") -> Callable[[Tensor, Tensor], Tensor]:
    """The function that `recipe.loss` names: (logits, target), both (B, K, *spatial), to a scalar."""
    r, alpha = recipe, 1 - recipe.tversky_beta  # the two weights of Tversky add up to 1, as in Salehi et al.
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "bce": partial(bce_loss, pos_weight=r.pos_weight),
        "dice": dice_loss,
        "dice_bce": partial(dice_bce_loss, pos_weight=r.pos_weight),
        "tversky": partial(tversky_loss, alpha=alpha, beta=r.tversky_beta),
        "focal_tversky": partial(focal_tversky_loss, alpha=alpha, beta=r.tversky_beta, gamma=r.tversky_gamma),
        "focal": partial(focal_loss, gamma=r.focal_gamma, alpha=r.focal_alpha),
        "dice_focal": partial(dice_focal_loss, gamma=r.focal_gamma, alpha=r.focal_alpha),
        "dice_boundary": partial(dice_boundary_loss, weight=r.boundary_weight),
        "dice_lesion_bce": partial(dice_lesion_bce_loss, size=r.lesion_size),
    }
    return losses[recipe.loss]


def refuse_unused_numbers(recipe: "TrainingRecipe") -> None:
    """Raise a ValueError if a number was changed that the loss of the recipe does not use: it would do nothing."""
    for name in sorted({name for names in NUMBERS.values() for name in names} - set(NUMBERS[recipe.loss])):
        value, default = getattr(recipe, name), type(recipe).__dataclass_fields__[name].default
        if value != default:
            users = " or ".join(loss for loss, names in NUMBERS.items() if name in names)
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} {value} does nothing with --loss {recipe.loss}. Leave it out, or choose --loss {users}."
            )
