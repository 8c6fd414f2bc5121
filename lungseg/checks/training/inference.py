"""Check of any sliding window: what is blended, from networks whose answer is known at every pixel.

Channels 0, 1 and 2 of the image hold the row, the column and the number of the image, so that a network in the
student's hands can see where each window was cut.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, close, first_difference, row
from lungseg.checks.lessons import Lesson, Wrong

SLIDING = Lesson(
    "sliding_window",
    "sliding_window(model, image (B, C, H, W), window_size, overlap=0.5) -> logits (B, K, H, W); model: (b, C, h, w) "
    "-> (b, K, h, w)",
    "windows of one size cover every pixel; where they overlap, their logits are averaged with weights that sum to 1, "
    "so that a network which looks at one pixel at a time gives the same as on the whole image.",
    "docs/prediction.md",
    {
        "last rows or columns not covered": "the windows stop before the end of the image: move the last one back, "
        "flush with the border.",
        "cut off at the border": "windows at the border are smaller than window_size, which many networks refuse, and "
        "which were not trained for: move the last one back, flush with the border.",
        "overlaps summed": "where windows overlap, their logits are added: divide by the sum of the weights.",
        "divided by the number of windows": "the sum is divided by the number of all windows, not of those at the "
        "pixel.",
        "divided twice": "divided by the number of windows at the pixel, although they were averaged already.",
        "last window wins": "where windows overlap, one of them overwrites the others: a seam shows at its border. "
        "Average them.",
        "rows and columns exchanged": "what was cut at (row, column) is put back at (column, row).",
        "only the first image": "only the first image of the batch is predicted.",
        "divided by the number of images": "the sum is divided by the number of images too: the weights at a pixel "
        "are those of one image.",
        "probabilities": "the sigmoid is applied: expected the blended logits.",
        "step of overlap": "windows move on by overlap * window_size; it is (1 - overlap) * window_size.",
        "mode changed": "the network's mode was changed: predict with it as it is, or restore it.",
        "overlap ignored": "the windows do not overlap, although overlap is 0.5 by default.",
    },
)


class Case(NamedTuple):
    """An image (B, 3, H, W), the window's side, and the overlap."""

    images: int
    height: int
    width: int
    window: int
    overlap: float = 0.5

    def __str__(self) -> str:
        return (f"{self.images} image(s) of {self.height} x {self.width} pixels, window_size {self.window}, overlap "
                f"{self.overlap:g}")  # fmt: skip

    def image(self) -> Tensor:
        """(B, 3, H, W): row, column and number of the image."""
        sides = self.images, self.height, self.width
        b, r, c = (grid.float() for grid in torch.meshgrid(*map(torch.arange, sides), indexing="ij"))
        return torch.stack([r, c, b], dim=1)

    def padded(self) -> bool:
        """Whether a window is larger than the image, so that a student may pad it."""
        return self.window > min(self.height, self.width)


CASES = [
    Case(1, 4, 4, 4), Case(1, 4, 6, 4), Case(1, 6, 4, 4), Case(1, 6, 6, 4), Case(1, 4, 8, 4, 0.0), Case(1, 5, 7, 4),
    Case(1, 7, 9, 4, 0.25), Case(1, 9, 6, 4, 0.75), Case(2, 5, 6, 4), Case(3, 8, 8, 4), Case(1, 3, 8, 4),
    Case(1, 3, 3, 4),
]  # fmt: skip


class Recorder(nn.Module):
    """A network (b, 3, h, w) -> (b, 2, h, w) that remembers its windows: their sizes, and where they were cut.

    kind "pixels": two numbers that depend on row, column and image. kind "windows": the number of the window, the same
    at all its pixels, so that one sees which windows were averaged.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.tensor(1.0), requires_grad=False)  # has a device, as a network does
        self.windows: list[tuple[int, int, int, int, int]] = []  # image, top, left, height, width

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"the model takes windows (b, 3, h, w) of this image, got {tuple(x.shape)}")
        first = len(self.windows)
        for window in x:
            top, left, image = (round(float(v)) for v in window[:, 0, 0])
            self.windows.append((image, top, left, *window.shape[1:]))
        if self.kind == "windows":
            number = torch.arange(first, len(self.windows), dtype=torch.float32).reshape(-1, 1, 1, 1)
            return self.weight * number.expand(-1, 2, *x.shape[2:])
        return self.weight * answer(x)


def answer(x: Tensor) -> Tensor:
    """(b, 3, h, w) -> (b, 2, h, w), pixel by pixel; never 0."""
    r, c, b = x.unbind(1)
    return torch.stack([1 + r + 0.1 * c + 10 * b, -2 - 0.3 * r + 0.7 * c * c - b], dim=1)


def check_sliding_window(sliding_window: Callable) -> None:
    """Fail unless `sliding_window(model, image, window_size, overlap=...)` blends windows that cover the image.

    The model is called with windows of window_size pixels only; a side of the image that is shorter may be taken whole
    or be padded. A network that looks at single pixels gives what it gives on the whole image, up to rounding: the
    weights sum to 1. Where windows overlap, none alone decides. Evaluation mode and no_grad are not required.
    """
    for case in CASES:
        got, model = blended(sliding_window, case, "pixels")
        check_sizes(case, model)
        check_overlap(case, model)
        want = answer(case.image())
        if got.shape != want.shape:
            first = got.shape == (1, *want.shape[1:])
            turned = got.shape == (*want.shape[:2], want.shape[3], want.shape[2])
            slip = "only the first image" if first else "rows and columns exchanged" if turned else ""
            raise Wrong(SLIDING, f"{case}: the result has shape {tuple(got.shape)}, expected {tuple(want.shape)}.",
                        slip=slip)  # fmt: skip
        if not close(got, want):
            b, k, r, c = first_difference(got, want)
            count = coverage(case, model)
            raise Wrong(SLIDING, f"{case}: the network computes 1 + row + 0.1 column at every pixel (and another "
                        f"formula in channel 1). At image {b}, row {r}, column {c}, channel {k} the result is "
                        f"{got[b, k, r, c]:.4g}, expected {want[b, k, r, c]:.4g}.",
                        numbers=f"expected row {r} {row(want[b, k, r])}\nyour row     {row(got[b, k, r])}\n"
                        f"windows there {row(count[b, r])}", slip=blending_slip(got, want, count, len(model.windows)),
                        picture=("matrix", want[b, k].numpy(), got[b, k].numpy()))  # fmt: skip
    for case in CASES:
        if case.overlap and not case.padded():
            check_blending(sliding_window, case)


def blended(sliding_window: Callable, case: Case, kind: str) -> tuple[Tensor, Recorder]:
    model = Recorder(kind).eval()
    overlap = {} if case.overlap == 0.5 else {"overlap": case.overlap}
    return as_tensor(SLIDING, call(SLIDING, sliding_window, model, case.image(), case.window, **overlap)), model


def check_sizes(case: Case, model: Recorder) -> None:
    """Every window has window_size pixels, or the whole side of a smaller image."""
    if not model.windows:
        raise Wrong(SLIDING, f"{case}: the model was never called.")
    allowed = [{case.window, min(side, case.window)} for side in (case.height, case.width)]
    for image, top, left, *size in model.windows:
        if any(n not in ok for n, ok in zip(size, allowed, strict=True)):
            raise Wrong(SLIDING, f"{case}: the model was given a window of {size[0]} x {size[1]} pixels (of image "
                        f"{image}, at row {top}, column {left}).",
                        slip="cut off at the border" if max(size) <= case.window else "")  # fmt: skip


def check_overlap(case: Case, model: Recorder) -> None:
    """Neighbouring windows are at most (1 - overlap) * window_size apart, and the network is left in its mode."""
    if model.training:
        raise Wrong(SLIDING, f"{case}: the network is in training mode afterwards.", slip="mode changed")
    most = math.ceil(case.window * (1 - case.overlap))
    for axis, word in ((1, "rows"), (2, "columns")):
        starts = sorted({w[axis] for w in model.windows})
        gaps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        if gaps and most < max(gaps) <= case.window and case.overlap > 0.5:
            slips = {case.window: "overlap ignored", int(case.window * case.overlap): "step of overlap"}
            slip = slips.get(max(gaps), "")
            raise Wrong(SLIDING, f"{case}: windows begin at {word} {starts}; they may be {most} apart.", slip=slip)


def coverage(case: Case, model: Recorder) -> Tensor:
    """(B, H, W): how many windows were cut at each pixel."""
    count = torch.zeros(case.images, case.height, case.width)
    for b, top, left, h, w in model.windows:
        count[b, top : top + h, left : left + w] += 1
    return count


def blending_slip(got: Tensor, want: Tensor, count: Tensor, windows: int) -> str:
    """The slip that gives the student's numbers, from where the windows were cut."""
    n = count[:, None].expand_as(want)
    seen = n > 0
    if len(got) > 1 and close(got, want[:1].expand_as(want)):
        return "only the first image"
    if not seen.all() and close(got[seen], want[seen]):
        return "last rows or columns not covered"
    if close(got[:1], want[:1]) and len(got) > 1 and not got[1:].any():
        return "only the first image"
    found = {
        "overlaps summed": want * n,
        "divided by the number of windows": want * n / windows,
        "divided twice": want / n,
        "probabilities": want.sigmoid(),
        "divided by the number of images": want / len(got),
    }
    if want.shape[2] == want.shape[3]:
        found["rows and columns exchanged"] = want.transpose(2, 3)
    return next((slip for slip, numbers in found.items() if close(got[seen], numbers[seen])), "")


def check_blending(sliding_window: Callable, case: Case) -> None:
    """Where windows overlap, the result is strictly between their answers."""
    got, model = blended(sliding_window, case, "windows")
    count = coverage(case, model)
    if case.overlap >= 0.5 and max(case.height, case.width) > case.window and count.max() < 2:
        raise Wrong(SLIDING, f"{case}: no pixel was in two windows.", slip="overlap ignored")
    low, high = torch.full_like(count, torch.inf), torch.full_like(count, -torch.inf)
    for number, (b, top, left, h, w) in enumerate(model.windows):
        for extreme, pick in ((low, torch.minimum), (high, torch.maximum)):
            box = extreme[b, top : top + h, left : left + w]
            box.copy_(pick(box, torch.tensor(float(number))))
    between = (got[:, 0] > low + 1e-5) & (got[:, 0] < high - 1e-5)
    bad = ((count > 1) & ~between).nonzero().tolist()
    if bad:
        b, r, c = bad[0]
        raise Wrong(SLIDING, f"{case}: the network answers 0 in the first window, 1 in the second and so on. At image "
                    f"{b}, row {r}, column {c} the answers are from {low[b, r, c]:g} to {high[b, r, c]:g}, and the "
                    f"result {got[b, 0, r, c]:.4g} is that of one window alone.", slip="last window wins")  # fmt: skip
