"""The sliding window: a network that was trained on crops, applied to a slice or volume of any size.

The positions of the window overlap. Near its border a window sees little of the surroundings, so its logits are
weighted by a Gaussian that is largest in the middle, as in nnU-Net (Isensee et al. 2021,
https://doi.org/10.1038/s41592-020-01008-z, "Inference"). The weights of all positions at one pixel sum to 1: where they
agree, nothing changes and no seam shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.data.neighbours import stack_indices

SIGMA = 1 / 8  # of the Gaussian, in sides of the window, as in nnU-Net; at the border, 4 sigma off, exp(-8) is left
SKIPPED = -200.0  # the logit of what was not looked at: its probability is 0 in float32

Place = tuple[int, tuple[slice, ...], tuple[Tensor, ...]]  # number of the image, box, weights along each side


@dataclass
class WindowCount:
    """How many sliding windows went through a network, and how many were skipped."""

    computed: int = 0
    skipped: int = 0


@torch.no_grad()
def sliding_window(
    model: nn.Module,
    image: Tensor,
    window_size: int | Sequence[int],
    *,
    overlap: float = 0.5,
    batch_size: int = 4,
    where: Tensor | None = None,
    count: WindowCount | None = None,
) -> Tensor:
    """Cut the image into overlapping windows, run the model on batches of them, and blend the logits.

    Gradients are off: keeping them for all windows would need the memory that the windows save. The model stays in the
    mode it is in; call `model.eval()` first. Memory: the logits of the whole image, and one batch of windows in the
    model.

    Args:
        model: (b, C, *window) -> logits (b, K, *window). Windows go to the device of its parameters.
        image: (B, C, H, W) or (B, C, D, H, W). The blending is done on its device, in float32 at least.
        window_size: sides of the window in pixels (voxels), or one number for all. A shorter side of the image is
            taken whole.
        overlap: smallest share of a side that neighbouring windows have in common, in [0, 1). With 0.5 each pixel is
            seen 4 times in a slice and 8 times in a volume.
        batch_size: windows in one call of the model. Windows of all images are put into one row and cut into batches,
            so only the last call has fewer.
        where: (B, *spatial) bool. Windows without a pixel that is True are not computed. All pixels of a window that
            was not computed have the logit SKIPPED, a probability of 0; at all others, which are in computed windows
            only, nothing changes.
        count: is told how many windows were computed and skipped.

    Returns:
        Logits (B, K, *spatial) on the device of the image. An image that is not larger than the window goes through the
        model unchanged: the result is `model(image)`, bit for bit.

    Raises:
        ValueError: if an argument is impossible, or the model's logits differ in size from its image; or if `where` is
            nowhere True: then nobody knows K.
    """
    window = check_arguments(image, window_size, overlap, batch_size)
    if where is not None and (where.shape != image.shape[:1] + image.shape[2:] or not where.any()):
        raise ValueError(
            f"sliding_window: where must be a mask (B, *spatial) of images {tuple(image.shape)}, True somewhere, "
            f"got {tuple(where.shape)}, True in {int(where.sum())} pixels."
        )
    device = next((p.device for p in model.parameters()), image.device)
    if where is None and window == image.shape[2:]:
        if count is not None:
            count.computed += len(image)
        return run_model(model, image.to(device)).to(image.device)  # (B, K, *spatial)
    grid = window_grid(image.shape[2:], window, overlap)
    everywhere = [(b, box, weights) for b in range(len(image)) for box, weights in grid]
    places, skipped = divide(everywhere, where)
    if count is not None:
        count.computed, count.skipped = count.computed + len(places), count.skipped + len(skipped)
    blended: Tensor | None = None
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        windows = torch.stack([image[b][:, *box] for b, box, _ in batch])  # (b, C, *window)
        logits = run_model(model, windows.to(device)).to(image.device)  # (b, K, *window)
        if blended is None:
            blended = logits.new_zeros(len(image), logits.shape[1], *image.shape[2:])  # (B, K, *spatial)
        for (b, box, weights), of_window in zip(batch, logits, strict=True):
            blended[b][:, *box] += outer_product([w.to(of_window) for w in weights]) * of_window  # (K, *window)
    assert blended is not None  # there is at least one window
    for b, box, _ in skipped:  # also where computed windows reach into it: `where` has no pixel there
        blended[b][:, *box] = SKIPPED
    return blended


class SlidingWindow(nn.Module):
    """`sliding_window` as a network: image (B, C, *spatial) of any size -> logits (B, K, *spatial).

    For `lungseg.training.evaluate` and other code that calls a network. Parameters and mode are those of the model.
    With a window of two sides, a volume (B, 1, D, H, W) is taken slice by slice: (B, K, D, H, W).

    Args:
        model, window_size, overlap, batch_size: as in `sliding_window`.
        neighbours: how many slices of a volume below and above each slice the model takes as channels.
    """

    def __init__(
        self,
        model: nn.Module,
        window_size: int | Sequence[int],
        *,
        overlap: float = 0.5,
        batch_size: int = 4,
        neighbours: int = 0,
    ):
        super().__init__()
        self.model, self.window_size, self.overlap, self.batch_size = model, window_size, overlap, batch_size
        self.neighbours = neighbours

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() == 5 and not isinstance(self.window_size, int) and len(self.window_size) == 2:
            return torch.stack([self._slice_by_slice(volume[0]) for volume in image])  # (B, K, D, H, W)
        return self._logits(image)

    def _logits(self, image: Tensor) -> Tensor:
        return sliding_window(self.model, image, self.window_size, overlap=self.overlap, batch_size=self.batch_size)

    def _slice_by_slice(self, volume: Tensor) -> Tensor:
        """(D, H, W) -> (K, D, H, W)."""
        channels = torch.from_numpy(stack_indices(len(volume), self.neighbours))  # (D, 2 neighbours + 1)
        parts = [self._logits(volume[part]) for part in channels.split(self.batch_size)]  # (b, K, H, W) each
        return torch.cat(parts).transpose(0, 1)


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, K, *spatial) of resampled images, back at the `size` of the images; unchanged if they have it.

    Logits cross 0 in a nearly straight line; probabilities jump there.
    """
    if logits.shape[2:] == torch.Size(size):
        return logits
    return F.interpolate(logits, tuple(size), mode="bilinear" if len(size) == 2 else "trilinear")


# ---- positions and weights of the windows -----------------------------------------------------------------


def window_grid(
    spatial: Sequence[int], window: Sequence[int], overlap: float
) -> list[tuple[tuple[slice, ...], tuple[Tensor, ...]]]:
    """For every window, row by row: its box in the image, and its weights along each side."""
    axes: list[list[tuple[slice, Tensor]]] = []
    for side, length in zip(spatial, window, strict=True):
        starts = window_starts(side, length, overlap)
        weights = blending_weights(side, length, starts)  # (n, length)
        axes.append([(slice(start, start + length), w) for start, w in zip(starts, weights, strict=True)])
    return [(tuple(box for box, _ in sides), tuple(w for _, w in sides)) for sides in product(*axes)]


def divide(places: list[Place], where: Tensor | None) -> tuple[list[Place], list[Place]]:
    """The windows that hold a pixel of `where` (B, *spatial), and the others. None is everywhere."""
    touched = [where is None or bool(where[b][box].any()) for b, box, _ in places]
    computed = [place for place, on in zip(places, touched, strict=True) if on]
    return computed, [place for place, on in zip(places, touched, strict=True) if not on]


def window_starts(side: int, window: int, overlap: float) -> list[int]:
    """Starts of the windows: as few as the overlap allows, the first at 0, the last flush with the end, evenly spread.

    So all of them overlap a little more than requested; otherwise the last two might overlap almost completely.
    """
    # The largest allowed, in pixels. The tiny term is for rounding errors: 20 * (1 - 0.9) is a little less than 2.
    step = max(1, math.floor(window * (1 - overlap) + 1e-9))
    gaps = -(-(side - window) // step)  # rounded up
    return [i * (side - window) // gaps for i in range(gaps + 1)] if gaps else [0]


def blending_weights(side: int, window: int, starts: Sequence[int]) -> Tensor:
    """(n, window) float64: Gaussian weights, divided by their sum over all windows at each pixel of the side.

    A Gaussian in several dimensions is the product of one along each side, and the windows are on a grid. So the sums
    are products too, and dividing along each side is enough: no map of summed weights is needed.
    """
    middle = (window - 1) / 2
    bell = torch.exp(-0.5 * ((torch.arange(window, dtype=torch.float64) - middle) / (SIGMA * window)) ** 2)  # (window,)
    total = torch.zeros(side, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += bell
    return torch.stack([bell / total[start : start + window] for start in starts])  # (n, window)


def outer_product(vectors: Sequence[Tensor]) -> Tensor:
    """(h,), (w,), ... -> (h, w, ...): the product of one entry of each."""
    return reduce(lambda map_, vector: map_[..., None] * vector, vectors)


# ---- checks -----------------------------------------------------------------------------------------------------


def check_arguments(
    image: Tensor, window_size: int | Sequence[int], overlap: float, batch_size: int
) -> tuple[int, ...]:
    """The sides of the window, none longer than those of the image; or a ValueError."""
    if image.dim() not in (4, 5) or min(image.shape) < 1:
        raise ValueError(
            f"sliding_window: the image has shape {tuple(image.shape)}, but (B, C, H, W) or (B, C, D, H, W) with sides "
            f"of at least 1 was expected. Add the missing axes with image[None]."
        )
    spatial = image.shape[2:]
    sides = (window_size,) * len(spatial) if isinstance(window_size, int) else tuple(window_size)
    if len(sides) != len(spatial) or min(sides) < 1:
        raise ValueError(
            f"sliding_window: window_size={window_size} must be one number of at least 1, or one for each of the "
            f"{len(spatial)} sides of the image."
        )
    if not 0 <= overlap < 1:
        raise ValueError(f"sliding_window: overlap={overlap} must be in [0, 1): the share of a side, usually 0.5.")
    if batch_size < 1:
        raise ValueError(
            f"sliding_window: batch_size={batch_size} must be at least 1: the windows in one call of the model."
        )
    return tuple(min(w, n) for w, n in zip(sides, spatial, strict=True))


def run_model(model: nn.Module, windows: Tensor) -> Tensor:
    """(b, C, *window) -> (b, K, *window), in float32 at least: sums of bfloat16 would lose digits."""
    logits = model(windows)
    if logits.shape[:1] + logits.shape[2:] != windows.shape[:1] + windows.shape[2:]:
        raise ValueError(
            f"sliding_window: the model returned logits {tuple(logits.shape)} for windows {tuple(windows.shape)}. "
            f"It must keep their number and size."
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
