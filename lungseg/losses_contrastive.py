"""Losses for pairs of an image and a sentence: the right partner should be more similar than all others of the batch.

Both are computed in float32 at least: exp(100), a cosine of 1 at CLIP's lowest temperature, is beyond float16.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(logits: Tensor) -> Tensor:
    """Cross entropy of each image over the sentences of the batch and of each sentence over the images, averaged.

    CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020), Figure 3; a scalar >= 0.

    Args:
        logits: (B, B), image i with sentence j, cosine / temperature; pairs are on the diagonal. Any floating dtype.

    Several pairs may have the same sentence. Their columns are alike, so an image is never pulled away from its own
    sentence; only the lowest value that the loss can reach is then above 0.

    Raises:
        ValueError: if the logits are not square.
    """
    if logits.dim() != 2 or logits.shape[0] != logits.shape[1] or not len(logits):
        raise ValueError(
            f"clip_loss: expected logits (B, B), one row per image and one column per sentence, got "
            f"{tuple(logits.shape)}. Give as many sentences as images, pair by pair."
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    partner = torch.arange(len(logits), device=logits.device)  # of row i and of column i
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2


def dhn_nce_loss(
    image_features: Tensor, text_features: Tensor, *, temperature: float, image_beta: float, text_beta: float
) -> Tensor:
    """Decoupled hard-negative noise contrastive estimation: a scalar, the mean over the pairs.

    MedCLIP-SAM (Koleilat et al. 2024, https://arxiv.org/abs/2403.20253), equations 1 to 5. With s_ij the cosine of
    image i and sentence j divided by the temperature, image i costs

        -s_ii + log sum_{j != i} w_ij exp(s_ij),   w_ij = (B - 1) exp(b s_ij) / sum_{k != i} exp(b s_ik)

    and each sentence likewise over the images. Decoupled: the pair itself is not in the sum, unlike in `clip_loss`.
    Hard: the more similar a wrong partner, the larger its weight; b = 0 weighs all alike.

    This is the loss as the paper writes it. The published file (loss/hnl.py) computes another one: it takes the
    logarithm of each negative instead of summing them, keeps the diagonal as exp(0) = 1, and averages all B x B
    entries.

    Args:
        image_features, text_features: (B, E), pair by pair, B >= 2; normalised here.
        temperature: > 0; the paper has 0.6.
        image_beta, text_beta: b for images over sentences and for sentences over images, >= 0; the paper has 0.15.

    Raises:
        ValueError: if the shapes are not two equal (B, E) with B >= 2, or for impossible numbers.
    """
    if image_features.dim() != 2 or image_features.shape != text_features.shape or len(image_features) < 2:
        raise ValueError(
            f"dhn_nce_loss: expected image and text features of one shape (B, E) with B >= 2, got "
            f"{tuple(image_features.shape)} and {tuple(text_features.shape)}. A single pair has no negatives."
        )
    if not 0 < temperature < math.inf or not (0 <= image_beta < math.inf and 0 <= text_beta < math.inf):
        raise ValueError(
            f"dhn_nce_loss: expected temperature > 0 and betas >= 0, got {temperature}, {image_beta} and {text_beta}"
        )
    dtype = torch.promote_types(image_features.dtype, torch.float32)
    images, texts = (F.normalize(x.to(dtype), dim=-1) for x in (image_features, text_features))
    s = images @ texts.T / temperature  # (B, B)
    return (decoupled_cost(s, image_beta) + decoupled_cost(s.T, text_beta)).mean()


def decoupled_cost(s: Tensor, beta: float) -> Tensor:
    """The cost of each row of s (B, B) in the formula of `dhn_nce_loss`: (B,).

    The weighted sum is (B - 1) sum exp((1 + b) s) / sum exp(b s): a difference of two logarithms of sums, which torch
    computes without overflow.
    """
    itself = torch.eye(len(s), dtype=torch.bool, device=s.device)
    negatives = s.masked_fill(itself, -torch.inf)  # (B, B)
    weighted = ((1 + beta) * negatives).logsumexp(dim=1) - log_sum_of_weights(negatives, beta)
    return -s.diagonal() + math.log(len(s) - 1) + weighted


def log_sum_of_weights(negatives: Tensor, beta: float) -> Tensor:
    """log sum exp(b s) over the negatives of each row, (B,); for b = 0 each of the B - 1 counts 1 (0 * -inf is NaN)."""
    if beta == 0:
        return negatives.new_full((len(negatives),), math.log(len(negatives) - 1))
    return (beta * negatives).logsumexp(dim=1)
