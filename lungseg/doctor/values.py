"""Findings about the values of images and targets, as they enter a network: ranges, lesions, tokens per lesion."""

import numpy as np
import torch
from torch import Tensor

from lungseg.doctor.finding import FAULT, OK, WARNING, Finding
from lungseg.evaluation.lesions import connected_components

FLAT = 0.01  # standard deviation of the grey values in an image that shows nothing
MOST_LESION = 0.5  # share of lesion pixels above which a mask is taken for inverted, as in lungseg.data.plausible
MOST_EMPTY = 0.9  # share of images without a lesion


def image_finding(images: Tensor) -> Finding:
    """Grey values (n, C, *spatial): finite, in [0, 1], not constant, not the same picture again and again."""
    low, high = images.min().item(), images.max().item()
    measured = f"from {low:.3g} to {high:.3g}, mean {images.mean().item():.3g}"
    flat = (images.flatten(1).std(1) < FLAT).float().mean().item()  # share of the images
    if not images.isfinite().all():
        return Finding(
            "image values", FAULT, measured, "NaN or infinity, often a division by 0 when an image is normalised", RANGE
        )
    if low < 0 or high > 1:
        return Finding("image values", *out_of_range(low, high, measured))
    if flat > 0.5:
        measured = f"{flat:.0%} of the images are nearly constant ({measured})"
        cause = "blank images, a wrong HU window, or integers divided by 255 twice"
        return Finding("image values", FAULT, measured, cause, RANGE)
    if len(images) > 1 and bool((images == images[:1]).all()):
        cause = "the loader returns the same image every time"
        return Finding("image values", FAULT, measured, cause, "Read the image that belongs to the index.")
    if flat > 0:
        cause = "slices without a body, or damaged files"
        return Finding("image values", WARNING, f"{flat:.0%} nearly constant ({measured})", cause, "Look at them.")
    return Finding("image values", OK, measured)


RANGE = "Clip HU to one window and scale it to [0, 1] (lungseg.data.ct.hu_to_unit)."


def out_of_range(low: float, high: float, measured: str) -> tuple[str, str, str, str]:
    """Verdict, numbers, cause and cure of images beyond [0, 1]."""
    if low < -200:
        return FAULT, measured, "these look like Hounsfield units", RANGE
    if low >= 0 and high <= 255:
        return FAULT, measured, "these look like the levels of an 8-bit picture", "Divide the images by 255."
    if low >= 0:
        return FAULT, measured, "stored values or a 16-bit picture", RANGE
    if low >= -20 and high <= 20:  # standardised: may be intended
        cause = "the images were standardised (mean 0); networks of lungseg are trained on [0, 1]"
        return WARNING, measured, cause, "Treat images in the same way in training and in prediction."
    return FAULT, measured, "negative and large values: not one scale of grey", RANGE


def target_finding(targets: Tensor) -> Finding:
    """Values (n, K, *spatial): 0 and 1 alone, and neither nothing nor nearly everything."""
    values = targets.unique()
    shown = ", ".join(f"{v:g}" for v in values[:5].tolist()) + (", ..." if len(values) > 5 else "")
    share = (targets > 0.5).float().mean().item()
    measured = f"values {shown}; {share:.2%} of the pixels are lesion"
    name, to_binary = "mask values", "Use target = (mask > 0).float()."
    if values.tolist() == [0, 255] or values.tolist() == [255]:
        return Finding(name, FAULT, measured, "masks as they are in a PNG: lesion is 255", "Divide the masks by 255.")
    if not ((values >= 0) & (values <= 1)).all():  # NaN fails both
        return Finding(name, FAULT, measured, "labels of several classes or readers, or NaN", to_binary)
    if ((values > 0) & (values < 1)).any():
        cause = "masks that were resized or rotated with interpolation, or divided by 255 twice"
        return Finding(name, FAULT, measured, cause, "Resample masks by nearest neighbour, then binarise them.")
    if share == 0:
        cause = "lesions were lost: empty masks, a wrong label, or small lesions that vanished when resized"
        return Finding(name, FAULT, measured, cause, "Check the export of the masks; use larger images.")
    if share > MOST_LESION:
        cause = "the masks look inverted"
        return Finding(name, FAULT, measured, cause, "0 is background, 1 is lesion: use 1 - mask.")
    return Finding(name, OK, measured)


def prevalence_finding(targets: Tensor) -> Finding:
    """Share of lesion pixels, and of images without any."""
    lesion = targets.flatten(1) > 0.5  # (n, pixels)
    share, empty = lesion.float().mean().item(), 1 - lesion.any(1).float().mean().item()
    measured = f"{share:.3%} of the pixels are lesion; {empty:.0%} of {len(targets)} images have none"
    if empty > MOST_EMPTY:
        return Finding(
            "prevalence",
            WARNING,
            measured,
            "nearly all images are empty, so predicting nothing is nearly right",
            "Show images with lesions more often in training; report empty images on their own.",
        )
    if share < 0.001:
        return Finding(
            "prevalence",
            WARNING,
            measured,
            "with so few lesion pixels cross entropy alone barely penalises predicting nothing",
            "Use dice_bce_loss, larger images, or crops around lesions.",
        )
    return Finding("prevalence", OK, measured)


def token_finding(targets: Tensor, patch_size: int | None = None) -> Finding:
    """Area of the lesions in tokens of 4 x 4 and of 16 x 16 pixels, and in those of the network.

    Args:
        targets: (n, K, *spatial).
        patch_size: side of a token of the network in pixels; None if it has no tokens.
    """
    dims, areas = targets.ndim - 2, list[int]()
    for target in (targets > 0.5).any(dim=1).numpy():  # (*spatial), of any class
        components, _ = connected_components(target)
        areas += np.bincount(components.ravel())[1:].tolist()  # component 0 is background
    if not areas:
        return Finding("tokens per lesion", WARNING, "no lesion", "see mask values", "")
    area = torch.tensor(areas, dtype=torch.float64)
    sides = sorted({4, 16, *([patch_size] if patch_size else [])})
    medians = ", ".join(f"{area.median().item() / s**dims:.2g} tokens of {s}^{dims}" for s in sides)
    measured = f"{len(areas)} lesions, median {area.median().item():.0f} pixels = {medians}"
    below = (area < patch_size**dims).double().mean().item() if patch_size else 0.0
    if below > 0.5:
        return Finding(
            "tokens per lesion",
            WARNING,
            f"{below:.0%} of the lesions are smaller than one token of {patch_size}^{dims} pixels; {measured}",
            "a token is one vector: what is smaller is hardly seen and cannot be outlined",
            "Use a smaller patch_size, larger images, or a network without tokens (U-Net).",
        )
    return Finding("tokens per lesion", OK, measured)
