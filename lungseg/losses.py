"""Training losses: cross entropy per pixel, Dice per lesion map, and their sum.

All three take logits and a target of exactly the same shape (B, K, *spatial), for slices and volumes alike, with 0 for
background and 1 for lesion. K = 1 is lesion or not; more channels are lesion classes, or any maps, and may overlap. The
loss is the mean over the channels, so a rare class weighs as much as a common one.

The values of the target are not tested here: that would make a GPU wait for the answer at every step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, averaged over all pixels: a scalar >= 0.

    This is `F.binary_cross_entropy_with_logits`, which never takes the logarithm of a probability that was
    rounded to 0: it computes -log(sigmoid(x)) as log(1 + exp(-x)).

    Args:
        logits: (B, K, *spatial), any floating dtype.
        target: same shape, values in {0, 1}, any dtype.

    Raises:
        ValueError: if the shapes differ or lack the channel axis.
    """
    logits, target = _same_shape_in_float32("bce_loss", logits, target)
    return F.binary_cross_entropy_with_logits(logits, target)


def dice_loss(logits: Tensor, target: Tensor, *, batch: bool = False, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice coefficient: 0 for a perfect map, close to 1 for a useless one.

    V-Net (Milletari et al. 2016, arXiv 1606.04797), section 3, but with plain sums in the denominator where
    V-Net has squares, and with a smoothing term. For one map of probabilities p and one target g:

        loss = 1 - (2 * sum(p * g) + smooth) / (sum(p) + sum(g) + smooth)

    Args:
        logits: (B, K, *spatial), any floating dtype.
        target: same shape, values in {0, 1}, any dtype.
        batch: False computes the Dice of each image and channel, then their mean; so the loss of a batch is the
            mean over its images, and gradient accumulation or several processes change nothing. True pools
            the pixels of all images into one Dice per channel, so that images without a lesion share the Dice of
            the others.
        smooth: in pixels, > 0. An image without a lesion has loss sum(p) / (sum(p) + smooth). With a tiny
            `smooth` this is 1 with no gradient until almost nothing is predicted; 1 pixel gives it a gradient.

    Returns:
        Scalar in [0, 1]; float32, or float64 for float64 logits.

    Raises:
        ValueError: if the shapes differ or lack the channel axis, or smooth is not positive.
    """
    if not smooth > 0:
        raise ValueError(f"dice_loss: smooth={smooth} would give 0/0 on an empty image; give a number of pixels > 0")
    logits, target = _same_shape_in_float32("dice_loss", logits, target)
    probs, target = logits.sigmoid().flatten(2), target.flatten(2)  # (B, K, pixels)
    summed = (0, 2) if batch else 2
    overlap = (probs * target).sum(summed)  # (K,) if batch, else (B, K)
    sizes = probs.sum(summed) + target.sum(summed)  # likewise
    return 1 - ((2 * overlap + smooth) / (sizes + smooth)).mean()


def dice_bce_loss(logits: Tensor, target: Tensor, *, batch: bool = False, smooth: float = 1.0) -> Tensor:
    """`dice_loss` + `bce_loss`: small lesions weigh as much as large ones, and every pixel has a gradient.

    Arguments and errors are those of the two. nnU-Net (Isensee et al. 2021) also adds the two, with a Dice that is
    pooled over the batch.
    """
    return dice_loss(logits, target, batch=batch, smooth=smooth) + bce_loss(logits, target)


def _same_shape_in_float32(name: str, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse shapes that would broadcast silently; convert half precision to float32 for the sums over pixels.

    float16 ends at 65504, less than the 65536 pixels of a 256 x 256 slice; bfloat16 counts by ones up to 256.
    """
    if logits.shape != target.shape or logits.ndim < 3:
        raise ValueError(
            f"{name}: logits are {tuple(logits.shape)} and target is {tuple(target.shape)}, but both must be "
            f"(B, K, *spatial); target.unsqueeze(1) adds a missing channel axis"
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), target.to(dtype)
