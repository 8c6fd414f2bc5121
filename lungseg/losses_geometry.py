"""Losses that look at where the lesions are: how far a pixel is from the border, and how large its lesion is.

Both maps depend on the target alone. They are computed by scipy, on the CPU, for each batch anew, since augmentation
changes the targets: on a GPU the step waits for it. A soft target is cut at 1/2 first, because a border and a lesion
need a yes or no.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lungseg.losses import dice_loss, same_shape_in_float32

# ---- the border --------------------------------------------------------------------------------------------------


def boundary_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Each wrong pixel costs its distance to the border: a scalar >= 0, 0 for a perfect map, in pixels.

    Kervadec et al. 2019 (arXiv 1812.07032). With d the signed distance, the mean over all pixels of p * d outside the
    lesions and (1 - p) * -d inside. (They leave out the constant and so have p * d everywhere: the same gradient, and
    a negative value.) It is used added to a region loss (`dice_boundary_loss`), never alone: a target without a lesion
    has loss 0 whatever is predicted, and next to the border errors cost little.

    Args:
        logits: (B, K, *spatial), any floating dtype.
        target: same shape, values in [0, 1], any dtype; lesion is >= 1/2.

    Raises:
        ValueError: if the shapes differ or lack the channel axis.
    """
    logits, target = same_shape_in_float32("boundary_loss", logits, target)
    distance = signed_distance(target).to(logits)
    return ((logits.sigmoid() - (distance < 0).to(logits)) * distance).mean()


def dice_boundary_loss(
    logits: Tensor, target: Tensor, *, weight: float, batch: bool = False, smooth: float = 1.0
) -> Tensor:
    """`dice_loss` + weight * `boundary_loss`. The paper raises the weight by 0.01 with each epoch; here it is constant.

    Args:
        weight: >= 0. The boundary loss is in pixels: a third of the image's side or more for a map that is 1
            everywhere. So a weight that suits one image size is too large for another of twice the side.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"dice_boundary_loss: weight={weight} must be a number >= 0")
    return dice_loss(logits, target, batch=batch, smooth=smooth) + weight * boundary_loss(logits, target)


def signed_distance(target: Tensor) -> Tensor:
    """Distance of each pixel to the border of the lesions, in pixels, negative inside: (B, K, *spatial) float32.

    The border lies half-way between a lesion pixel and its neighbour, so the two have -1/2 and 1/2, and a lesion of a
    single pixel is rewarded too. (The authors' code has 0 and 1 there: half a pixel more everywhere.) A map without a
    lesion, or all lesion, has no border: its distances are 0.
    """
    return _each_map(target, _signed_distance)


def _signed_distance(lesion: NDArray[np.bool_]) -> NDArray:
    if lesion.all() or not lesion.any():
        return np.zeros(lesion.shape, np.float32)
    outside, inside = ndimage.distance_transform_edt(~lesion), ndimage.distance_transform_edt(lesion)
    return np.where(lesion, 0.5 - inside, outside - 0.5)


# ---- the size of the lesions -------------------------------------------------------------------------------------


def lesion_bce_loss(logits: Tensor, target: Tensor, *, size: float) -> Tensor:
    """Binary cross entropy in which each lesion weighs as much as any other, whatever its size: a scalar >= 0.

    The mean over all pixels of `lesion_weights` times the cross entropy. Shirokikh et al. 2020 (arXiv 2007.10033) weigh
    lesions so, with `size` the number of background pixels; ours is yours to choose, since theirs is a weight of
    hundreds for each pixel of a small lesion.

    Args:
        logits: (B, K, *spatial), any floating dtype.
        target: same shape, values in [0, 1], any dtype. Lesions are connected pixels >= 1/2; below, the weight is 1.
        size: > 0, the number of background pixels that a lesion weighs.

    Raises:
        ValueError: if the shapes differ or lack the channel axis, or size is not a positive number.
    """
    logits, target = same_shape_in_float32("lesion_bce_loss", logits, target)
    weights = lesion_weights(target, size=size).to(logits)
    return F.binary_cross_entropy_with_logits(logits, target, weight=weights)


def dice_lesion_bce_loss(
    logits: Tensor, target: Tensor, *, size: float, batch: bool = False, smooth: float = 1.0
) -> Tensor:
    """`dice_loss` + `lesion_bce_loss`: the first treats the images alike, the second the lesions within them."""
    return dice_loss(logits, target, batch=batch, smooth=smooth) + lesion_bce_loss(logits, target, size=size)


def lesion_weights(target: Tensor, *, size: float) -> Tensor:
    """`size` / n on each pixel of a lesion of n pixels, 1 on the background: (B, K, *spatial) float32.

    Pixels that touch, also at a corner, are one lesion. So the weights of each lesion sum to `size`.
    """
    if not 0 < size < math.inf:
        raise ValueError(f"lesion_weights: size={size} must be a positive number of pixels")

    def weights(lesion: NDArray[np.bool_]) -> NDArray:
        labels, _ = ndimage.label(lesion, structure=np.ones((3,) * lesion.ndim))  # 0 is background
        pixels = np.bincount(labels.ravel()).astype(np.float64)  # of each label
        return np.r_[1.0, size / pixels[1:]][labels]

    return _each_map(target, weights)


def _each_map(target: Tensor, function: Callable[[NDArray[np.bool_]], NDArray]) -> Tensor:
    """`function` of each map (*spatial) of a target (B, K, *spatial), as float32 on the device of the target."""
    lesions = target.detach().cpu().float().numpy() >= 0.5
    maps = [function(lesion) for lesion in lesions.reshape(-1, *lesions.shape[2:])]
    return torch.from_numpy(np.stack(maps).astype(np.float32)).reshape(target.shape).to(target.device)
