"""Training losses from logits: cross entropy per pixel, Dice and Tversky per lesion map, and their sums.

All take logits and a target of exactly the same shape (B, K, *spatial), for slices and volumes alike, with 0 for
background and 1 for lesion. K = 1 is lesion or not; more channels are lesion classes, or any maps, and may overlap. The
loss is the mean over the channels, so a rare class weighs as much as a common one.

A target may be soft, a share from 0 to 1, such as that of the readers who outlined the pixel. Only the cross entropy is
then smallest where the probability equals the share; the other losses push probabilities beyond it (docs/losses.md).
Values of the target are not tested here: that would make a GPU wait for the answer at every step.

`lungseg.losses_geometry` has the losses that look at where the lesions are and how large.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

STEEP = 1e-4  # below this 1 - TI, the focal Tversky loss is a straight line: its power would have an infinite slope


# ---- per pixel ---------------------------------------------------------------------------------------------------


def bce_loss(logits: Tensor, target: Tensor, *, pos_weight: float = 1.0) -> Tensor:
    """Binary cross entropy, averaged over all pixels: a scalar >= 0.

    This is `F.binary_cross_entropy_with_logits`, which never takes the logarithm of a probability that was
    rounded to 0: it computes -log(sigmoid(x)) as log(1 + exp(-x)).

    Args:
        logits: (B, K, *spatial), any floating dtype.
        target: same shape, values in [0, 1], any dtype.
        pos_weight: > 0, the cost of a lesion pixel in units of a background pixel. The mean stays that over all
            pixels, so the loss grows with it. The best probability of a pixel that is lesion with the share g becomes
            w g / (w g + 1 - g): with a weight of 3, a threshold of 1/2 cuts at a share of 1/4.

    Raises:
        ValueError: if the shapes differ or lack the channel axis, or pos_weight is not a positive number.
    """
    logits, target = same_shape_in_float32("bce_loss", logits, target)
    if pos_weight == 1:
        return F.binary_cross_entropy_with_logits(logits, target)
    if not 0 < pos_weight < math.inf:
        raise ValueError(f"bce_loss: pos_weight={pos_weight} must be a positive number; 1 weighs all pixels alike")
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=logits.new_tensor(pos_weight))


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float, alpha: float | None = None) -> Tensor:
    """Cross entropy in which a pixel that is already right costs less: a scalar >= 0, the mean over all pixels.

    Lin et al. 2017 (arXiv 1708.02002), equations 4 and 5. With q the probability of the right answer (p on a lesion,
    1 - p on the background), a pixel costs -(1 - q)^gamma log q, so one that is 99 % right costs 10,000 times less at
    gamma = 2. (Detectors divide the sum by the number of objects; an image may have none, so ours is a mean.)

    Args:
        logits: (B, K, *spatial), any floating dtype.
        target: same shape, values in [0, 1], any dtype. A soft target is the mean of what the readers would cost: g
            times the loss of a lesion plus 1 - g times that of the background.
        gamma: >= 0; 0 is `bce_loss`, 2 is that of the paper.
        alpha: in [0, 1], factor on lesion pixels; those of the background get 1 - alpha. None: 1 on both. The paper's
            0.25 weighs lesions *less*: at gamma 2 the easy background already costs next to nothing.

    Raises:
        ValueError: if the shapes differ or lack the channel axis, or for impossible numbers.
    """
    if not 0 <= gamma < math.inf or not (alpha is None or 0 <= alpha <= 1):
        raise ValueError(f"focal_loss: expected gamma >= 0 and alpha in [0, 1] or None, got {gamma} and {alpha}")
    logits, target = same_shape_in_float32("focal_loss", logits, target)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)  # of lesion, of background
    # exp(gamma * log) and not a power of 1 - p: that would have an infinite slope at 0 for gamma < 1.
    on_lesion = -(gamma * log_not_p).exp() * log_p
    on_background = -(gamma * log_p).exp() * log_not_p
    if alpha is not None:
        on_lesion, on_background = alpha * on_lesion, (1 - alpha) * on_background
    return (target * on_lesion + (1 - target) * on_background).mean()


# ---- per map -----------------------------------------------------------------------------------------------------


def dice_loss(
    logits: Tensor, target: Tensor, *, batch: bool = False, smooth: float = 1.0, squared: bool = False
) -> Tensor:
    """One minus the soft Dice coefficient: 0 for a perfect map, close to 1 for a useless one.

    V-Net (Milletari et al. 2016, arXiv 1606.04797), section 3, but with plain sums in the denominator where
    V-Net has squares, unless `squared`, and with a smoothing term. For one map of probabilities p and one target g:

        loss = 1 - (2 * sum(p * g) + smooth) / (sum(p) + sum(g) + smooth)

    Args:
        logits: (B, K, *spatial), any floating dtype.
        target: same shape, values in [0, 1], any dtype.
        batch: False computes the Dice of each image and channel, then their mean; so the loss of a batch is the
            mean over its images, and gradient accumulation or several processes change nothing. True pools
            the pixels of all images into one Dice per channel, so that images without a lesion share the Dice of
            the others.
        smooth: in pixels, > 0. An image without a lesion has loss sum(p) / (sum(p) + smooth). With a tiny
            `smooth` this is 1 with no gradient until almost nothing is predicted; 1 pixel gives it a gradient.
        squared: sum(p^2) + sum(g^2) in the denominator, as V-Net and MedSAM (Ma et al. 2024) have it. A map of 0 and 1
            costs the same; probabilities in between cost less.

    Returns:
        Scalar in [0, 1]; float32, or float64 for float64 logits.

    Raises:
        ValueError: if the shapes differ or lack the channel axis, or smooth is not positive.
    """
    if not smooth > 0:
        raise ValueError(f"dice_loss: smooth={smooth} would give 0/0 on an empty image; give a number of pixels > 0")
    logits, target = same_shape_in_float32("dice_loss", logits, target)
    probs, target = logits.sigmoid().flatten(2), target.flatten(2)  # (B, K, pixels)
    summed = (0, 2) if batch else 2
    overlap = (probs * target).sum(summed)  # (K,) if batch, else (B, K)
    if squared:
        sizes = probs.square().sum(summed) + target.square().sum(summed)
    else:
        sizes = probs.sum(summed) + target.sum(summed)  # likewise
    return 1 - ((2 * overlap + smooth) / (sizes + smooth)).mean()


def tversky_loss(
    logits: Tensor, target: Tensor, *, alpha: float, beta: float, batch: bool = False, smooth: float = 1.0
) -> Tensor:
    """One minus the Tversky index: a Dice in which false positives and false negatives have weights of their own.

    Salehi et al. 2017 (arXiv 1706.05721). For one map of probabilities p and one target g:

        TP = sum(p g), FP = sum(p (1 - g)), FN = sum((1 - p) g)
        loss = 1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth)

    alpha = beta = 1/2 is `dice_loss` with twice the smooth, alpha = beta = 1 is one minus the soft IoU.

    Args:
        logits, target, batch, smooth: as for `dice_loss`.
        alpha: >= 0, weight of false positives. (Abraham and Khan call this one beta, and the next alpha.)
        beta: >= 0, weight of false negatives, that is of missed lesion; 0.7 with alpha = 0.3 finds more at the price of
            more false positives.

    Returns:
        Scalar in [0, 1]; float32, or float64 for float64 logits.

    Raises:
        ValueError: if the shapes differ or lack the channel axis, or for impossible numbers.
    """
    return missed_share("tversky_loss", logits, target, alpha, beta, batch, smooth).mean()


def focal_tversky_loss(
    logits: Tensor, target: Tensor, *, alpha: float, beta: float, gamma: float, batch: bool = False, smooth: float = 1.0
) -> Tensor:
    """(1 - TI)^(1/gamma) of each map, then the mean; TI is the Tversky index.

    Abraham and Khan 2019 (arXiv 1810.07842). With gamma > 1 a map that is nearly right keeps a steep slope
    (it is the bad maps that count less, so "focal" means the opposite of what it means in `focal_loss`).

    Args:
        logits, target, alpha, beta, batch, smooth: as for `tversky_loss`.
        gamma: > 0; the paper recommends 4/3. Most code, the authors' own
            too, has (1 - TI)^gamma instead: its 0.75 is 4/3 here.

    The power has an infinite slope at 0, a perfect map. So below 1 - TI = STEEP the loss is the straight line to 0.

    Raises:
        ValueError: as `tversky_loss`, or if gamma is not positive.
    """
    if not 0 < gamma < math.inf:
        raise ValueError(f"focal_tversky_loss: gamma={gamma} must be a positive number; 1 is the Tversky loss")
    missed = missed_share("focal_tversky_loss", logits, target, alpha, beta, batch, smooth)
    curve = missed.clamp(min=STEEP) ** (1 / gamma)  # clamp: where() also multiplies the slope not chosen, by 0
    line = missed * STEEP ** (1 / gamma - 1)
    return torch.where(missed < STEEP, line, curve).mean()


def missed_share(
    name: str, logits: Tensor, target: Tensor, alpha: float, beta: float, batch: bool, smooth: float
) -> Tensor:
    """One minus the Tversky index of each map: (B, K), or (K,) for a pooled batch.

    It is computed as (alpha FP + beta FN) / (TP + alpha FP + beta FN + smooth), which is the same, and never below 0:
    a difference 1 - TI may be, by rounding, and its power is then NaN.
    """
    if not smooth > 0:
        raise ValueError(f"{name}: smooth={smooth} would give 0/0 on an empty image; give a number of pixels > 0")
    if not (0 <= alpha < math.inf and 0 <= beta < math.inf and alpha + beta > 0):
        raise ValueError(f"{name}: expected two weights >= 0, not both 0, got alpha={alpha} and beta={beta}")
    logits, target = same_shape_in_float32(name, logits, target)
    probs, target = logits.sigmoid().flatten(2), target.flatten(2)  # (B, K, pixels)
    summed = (0, 2) if batch else 2
    overlap = (probs * target).sum(summed)  # TP: (K,) if batch, else (B, K)
    errors = (alpha * probs * (1 - target) + beta * (1 - probs) * target).sum(summed)  # alpha FP + beta FN, likewise
    return errors / (overlap + errors + smooth)


# ---- sums --------------------------------------------------------------------------------------------------------


def dice_bce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    batch: bool = False,
    smooth: float = 1.0,
    pos_weight: float = 1.0,
    squared: bool = False,
) -> Tensor:
    """`dice_loss` + `bce_loss`: small lesions weigh as much as large ones, and every pixel has a gradient.

    Arguments and errors are those of the two. nnU-Net (Isensee et al. 2021) also adds the two, with a Dice that is
    pooled over the batch. MedSAM's loss (Ma et al. 2024) is this one with squared=True and smooth=1e-5.
    """
    region = dice_loss(logits, target, batch=batch, smooth=smooth, squared=squared)
    return region + bce_loss(logits, target, pos_weight=pos_weight)


def dice_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float,
    alpha: float | None = None,
    batch: bool = False,
    smooth: float = 1.0,
) -> Tensor:
    """`dice_loss` + `focal_loss`; arguments and errors are those of the two."""
    return dice_loss(logits, target, batch=batch, smooth=smooth) + focal_loss(logits, target, gamma=gamma, alpha=alpha)


def same_shape_in_float32(name: str, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
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
