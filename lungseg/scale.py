"""How many pixels of the training make one pixel of an image: it decides how large a lesion looks to the network.

There are up to three grids: the *source*, the slice as the scanner or a published table has it; the *files* of the
folder that was trained on, often smaller, because examples/prepare_data.py shrinks; and the *training*, the files
resized to img_size. The "input" of a checkpoint says how they hang together:

    size            sides of what the network was trained on, in training pixels
    scale           training pixels per pixel of the files, along each side
    source_scale    training pixels per pixel of the sources; None (or missing, in older checkpoints) is unknown: then
                    an image whose mm are unknown too is shown pixel for pixel, with a warning
    stretched       True where slices of several sizes were all resized to `size`: then there is no one scale
    spacing_mm      of a pixel of the files, one number or one per side; None is unknown
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_RATIO = 1.5  # between the pixels of an image and of the training, in mm, before we call them unlike
MOST_BELIEVABLE = 20.0  # slices 0.5 mm apart and others 10 mm: beyond, a number is wrong, and would fill the memory

Sides = tuple[int, ...]
Scale = tuple[float, ...]


def scale_for(
    input: dict[str, Any],
    shape: Sequence[int],
    spacing_mm: ArrayLike | None = None,
    source_size: tuple[int, int] | None = None,
) -> tuple[Scale, str | None]:
    """The scale at which an image looks as the images of the training did.

    First from the pixels: a slice is shrunk as much as the slices of the training were, counted from the source. Then,
    where the size of a pixel is known of both, it is checked in mm: if the two differ by more than MOST_RATIO along
    any side, mm decide. (Within MOST_RATIO they do not: scanners' pixels differ that much within any training.)

    Args:
        input: of a checkpoint, as above.
        shape: (H, W) or (D, H, W). A network for slices looks at the last two sides.
        spacing_mm: of a pixel along each side; None or NaN is unknown.
        source_size: (H, W) of the source that the slice was made from: its own size if it is one; None is unknown.

    Returns:
        Training pixels per pixel of the image along each side of the network, and a sentence if mm decided, or if
        nothing did: where neither the sources of the training nor mm are known, an image of another size than the
        files is shown pixel for pixel.

    Raises:
        ValueError: if it cannot be known whether the pixels are those of the files or of the sources, if the two
            differ by more than MOST_BELIEVABLE, and for a single slice and a network for volumes.
    """
    sides = sides_of(input, shape)
    known = pixel_mm(input)  # (dims,)
    here = np.full(len(sides), np.nan) if spacing_mm is None else np.array(spacing_mm, dtype=float)[-len(sides) :]
    by_mm = here / known  # (dims,); NaN where either is unknown
    scale = scale_by_pixels(input, sides, source_size)
    if scale is None and np.isnan(by_mm).any():
        raise ValueError(ambiguous(input, sides, trained_mm=known))
    usual = scale or input["scale"]
    difference = np.abs(np.log(by_mm / usual)).max()  # NaN if unknown: then no comparison is true
    sizes = [" x ".join(f"{mm:.3g}" for mm in lengths) for lengths in (here, known * usual)]
    told = f"a pixel is {sizes[0]} mm, and was {sizes[1]} mm in the training"
    if difference > math.log(MOST_BELIEVABLE):
        raise ValueError(f"{told}: one of them must be wrong. Correct the size of its pixels, or leave it out.")
    if scale is None or difference > math.log(MOST_RATIO):
        return tuple(by_mm.tolist()), None if scale is None else f"{told}: resampled to that."
    if np.isnan(difference) and not is_told(input, sides, source_size):
        return scale, taken_for_a_file(input, sides, trained_mm=known)
    return scale, None


def sides_of(input: dict[str, Any], shape: Sequence[int]) -> Sides:
    """The sides that the network looks along."""
    dims = len(input["size"])
    if len(shape) < dims:
        raise ValueError("the network was trained on volumes, and this is a single slice. Give it a volume.")
    return tuple(shape)[-dims:]


def pixel_mm(input: dict[str, Any]) -> NDArray[np.float64]:
    """(dims,) the sides of a training pixel in mm, NaN where unknown."""
    spacing = np.array(input["spacing_mm"], dtype=float)  # NaN where it is None
    return np.broadcast_to(spacing, len(input["scale"])) / input["scale"]


def scale_by_pixels(input: dict[str, Any], sides: Sides, source_size: tuple[int, int] | None) -> Scale | None:
    """What the numbers of pixels say, or None if they leave open which grid the image is on."""
    files, sources = scale_of_files(input, sides), input.get("source_scale")
    if input.get("stretched") or len(sides) == 3:
        return files
    if source_size is not None and (sources is not None or source_size == full_size(input, files)):
        # (Files of unknown sources that are as large as this slice's source are taken for sources themselves.)
        return tuple(f * (s / n) for f, s, n in zip(sources or files, source_size, sides, strict=True))
    if sources is None or np.allclose(files, sources) or sides == full_size(input, files):
        return files
    return tuple(sources) if sides == full_size(input, sources) else None


def is_told(input: dict[str, Any], sides: Sides, source_size: tuple[int, int] | None) -> bool:
    """Whether the pixels of an image say on which grid it is; a volume is a source, and so are those of a training."""
    if input.get("stretched") or len(sides) == 3 or input.get("source_scale") is not None:
        return True
    return full_size(input, input["scale"]) in (sides, source_size)


def scale_of_files(input: dict[str, Any], sides: Sides) -> Scale:
    """For an image on the grid of the training's files."""
    if input.get("stretched"):
        return tuple(to / n for to, n in zip(input["size"], sides, strict=True))
    return tuple(input["scale"])


def full_size(input: dict[str, Any], scale: Sequence[float]) -> Sides:
    """Of the files (or sources) of the training, in their own pixels."""
    return tuple(round(n / factor) for n, factor in zip(input["size"], scale, strict=True))


def ambiguous(input: dict[str, Any], sides: Sides, trained_mm: NDArray) -> str:
    sizes = sides, full_size(input, input["scale"]), full_size(input, input["source_scale"])
    named = [" x ".join(map(str, size)) for size in sizes]
    way_out = "say how large its pixels are: --spacing-mm MM, or spacing_mm in its manifest"
    if np.isnan(trained_mm).any():  # then mm would not help
        way_out = "give the original slice in HU, or write source_height and source_width into its manifest"
    return (
        f"its {named[0]} pixels are those neither of the training's files ({named[1]}) nor of the slices these were "
        f"made from ({named[2]}), so its scale is unknown. Resize it to {named[1]}, or {way_out}."
    )


def taken_for_a_file(input: dict[str, Any], sides: Sides, trained_mm: NDArray) -> str:
    here, files = (" x ".join(map(str, size)) for size in (sides, full_size(input, input["scale"])))
    way_out = "State the size of its pixels: --spacing-mm MM."
    if np.isnan(trained_mm).any():  # then mm would not help
        way_out = "To know it, prepare the folder again with this version, and train on that."
    return (
        f"its {here} pixels are shown as if they were pixels of the training's files ({files}). The checkpoint does "
        f"not say whether those were shrunk from larger slices, so a lesion may look too large or too small. {way_out}"
    )


def sizes_on_the_way(input: dict[str, Any], sides: Sides, scale: Scale) -> list[Sides]:
    """The sizes an image is resized to in turn, the last being the network's.

    Slices of the training were shrunk twice: to their files, and to img_size. A finer image takes the same two steps,
    since one step blurs less than two.
    """
    last = tuple(max(1, round(n * s)) for n, s in zip(sides, scale, strict=True))
    if input.get("source_scale") is None:
        return [last]
    between = tuple(max(1, round(n * s / f)) for n, s, f in zip(sides, scale, input["scale"], strict=True))
    return [between, last] if all(b <= n for b, n in zip(between, sides, strict=True)) else [last]
