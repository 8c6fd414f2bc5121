"""How large an image is shown to a network: the number of training pixels per pixel of the image.

There are up to three grids: the *source*, a slice as the scanner or a published table has it; the *files* of the folder
that was trained on, which prepare_data.py may have shrunk; and the *training*, the files resized to img_size.
`InputSpec`, a part of each checkpoint, says how they are related:

    size            sides of the images that the network was trained on, in training pixels
    scale           training pixels per pixel of the files, along each side
    source_scale    training pixels per pixel of the sources; None is unknown (as in older checkpoints): then an image
                    whose mm are unknown too is shown pixel for pixel, with a warning
    stretched       slices of several sizes were all resized to `size`: then there is no single scale
    slice_mm        volumes were all resampled to slices this far apart: then there is none along the slice axis either
    spacing_mm      of a pixel of the files, one number or one per side; None is unknown
    whole_size      sides of most whole slices, in training pixels, if the network was trained on crops of them
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungseg.checkpoint import InputSpec

MOST_RATIO = 1.5  # of the pixel sizes in mm of an image and of the training, up to which they count as the same
MOST_BELIEVABLE = 20.0  # slices 0.5 and 10 mm apart; beyond it a number must be wrong, and would fill the memory

Sides = tuple[int, ...]
Scale = tuple[float, ...]


def scale_for(
    input: InputSpec,
    shape: Sequence[int],
    spacing_mm: ArrayLike | None = None,
    source_size: tuple[int, int] | None = None,
) -> tuple[Scale, str | None]:
    """The scale at which an image looks like the images of the training.

    First by pixels: a slice is shrunk as much as the slices of the training were, counted from the source. Then, where
    the pixel size of both is known, it is checked in mm: if the two differ by more than MOST_RATIO along any side, mm
    decide. (Within MOST_RATIO pixels decide: pixel sizes of scanners vary that much within any training set.)

    Args:
        input: of the checkpoint.
        shape: (H, W) or (D, H, W). For a 2-D network only the last two sides count.
        spacing_mm: of a pixel along each side; None or NaN means unknown.
        source_size: (H, W) of the source that the slice was made from, its own size if it is a source; None is unknown.

    Returns:
        Training pixels per pixel of the image along each side of the network; and a warning, or None. It warns if mm
        decided, or if nothing could: where neither the sources of the training nor mm are known, an image that differs
        in size from the files is shown pixel for pixel.

    Raises:
        ValueError: if the pixels may be those of the files or of the sources, if the two pixel sizes differ by more
            than MOST_BELIEVABLE, or if a network for volumes is given a single slice.
    """
    sides = network_sides(input, shape)
    known = pixel_mm(input)  # (dims,)
    here = np.full(len(sides), np.nan) if spacing_mm is None else np.array(spacing_mm, dtype=float)[-len(sides) :]
    by_mm = here / known  # (dims,); NaN where either is unknown
    scale = scale_by_pixels(input, sides, source_size)
    if scale is None and np.isnan(by_mm).any():
        raise ValueError(ambiguous_message(input, sides, trained_mm=known))
    usual = np.array(scale or input.scale, dtype=float)
    if input.slice_mm is not None:
        usual[0] = slice_scale(input.slice_mm, here[0])  # always by mm: the training had all kinds of spacings
        scale = tuple(usual.tolist())
    difference = np.abs(np.log(by_mm / usual)).max()  # NaN if unknown: then no comparison is true
    sizes = [" x ".join(f"{mm:.3g}" for mm in lengths) for lengths in (here, known * usual)]
    compared = f"a pixel is {sizes[0]} mm, and was {sizes[1]} mm in the training"
    if difference > math.log(MOST_BELIEVABLE):
        raise ValueError(
            f"{compared}: one of them must be wrong. Correct the pixel size of the image, or do not state it."
        )
    if scale is None or difference > math.log(MOST_RATIO):
        return tuple(by_mm.tolist()), None if scale is None else f"{compared}: resampled to that."
    if np.isnan(difference) and not is_grid_known(input, sides, source_size):
        return scale, pixel_for_pixel_remark(input, sides, trained_mm=known)
    return scale, None


def slice_scale(slice_mm: float, spacing_mm: float) -> float:
    """Resampled slices per slice of a volume, for a network that was trained on slices `slice_mm` apart."""
    if not spacing_mm > 0:  # NaN is unknown
        raise ValueError(
            f"the network was trained on slices {slice_mm:g} mm apart, and it is unknown how far apart those of this "
            f"image are. State it as spacing_mm in its file."
        )
    scale = spacing_mm / slice_mm
    if not 1 / MOST_BELIEVABLE <= scale <= MOST_BELIEVABLE:
        raise ValueError(
            f"its slices are {spacing_mm:g} mm apart, and were {slice_mm:g} mm apart in the training: one of them must "
            f"be wrong. Correct the spacing of the image."
        )
    return scale


def network_sides(input: InputSpec, shape: Sequence[int]) -> Sides:
    """The sides of an image along the axes of the network: (H, W) or (D, H, W)."""
    dims = len(input.size)
    if len(shape) < dims:
        raise ValueError("the network was trained on volumes, and this is a single slice. Give it a volume.")
    return tuple(shape)[-dims:]


def pixel_mm(input: InputSpec) -> NDArray[np.float64]:
    """(dims,) the sides of a training pixel in mm, NaN where unknown."""
    spacing = np.array(input.spacing_mm, dtype=float)  # NaN where it is None
    return np.broadcast_to(spacing, len(input.scale)) / input.scale


def scale_by_pixels(input: InputSpec, sides: Sides, source_size: tuple[int, int] | None) -> Scale | None:
    """The scale by the numbers of pixels; None if they leave open which grid the image is on."""
    files, sources = file_scale(input, sides), input.source_scale
    if input.stretched or len(sides) == 3:
        return files
    if source_size is not None and (sources is not None or source_size == full_size(input, files)):
        # (Files of unknown sources that are as large as this slice's source are taken for sources themselves.)
        return tuple(f * (s / n) for f, s, n in zip(sources or files, source_size, sides, strict=True))
    if sources is None or np.allclose(files, sources) or sides == full_size(input, files):
        return files
    return tuple(sources) if sides == full_size(input, sources) else None


def is_grid_known(input: InputSpec, sides: Sides, source_size: tuple[int, int] | None) -> bool:
    """Whether the numbers of pixels show on which grid an image is. Volumes are always sources."""
    if input.stretched or len(sides) == 3 or input.source_scale is not None:
        return True
    return full_size(input, input.scale) in (sides, source_size)


def file_scale(input: InputSpec, sides: Sides) -> Scale:
    """The scale of an image on the grid of the training files."""
    if input.stretched:
        return tuple(to / n for to, n in zip(input.size, sides, strict=True))
    return tuple(input.scale)


def full_size(input: InputSpec, scale: Sequence[float]) -> Sides:
    """The size of the training files (or sources) in their own pixels, from their scale."""
    return tuple(round(n / factor) for n, factor in zip(input.whole_size or input.size, scale, strict=True))


def ambiguous_message(input: InputSpec, sides: Sides, trained_mm: NDArray) -> str:
    """Why the scale is unknown, and what to do."""
    assert input.source_scale is not None  # else there is one grid
    sizes = sides, full_size(input, input.scale), full_size(input, input.source_scale)
    named = [" x ".join(map(str, size)) for size in sizes]
    way_out = "say how large its pixels are: --spacing-mm MM, or spacing_mm in its manifest"
    if np.isnan(trained_mm).any():  # then mm would not help
        way_out = "give the original slice in HU, or write source_height and source_width into its manifest"
    return (
        f"its {named[0]} pixels are neither those of the training files ({named[1]}) nor those of the slices they "
        f"were made from ({named[2]}), so its scale is unknown. Resize it to {named[1]}, or {way_out}."
    )


def pixel_for_pixel_remark(input: InputSpec, sides: Sides, trained_mm: NDArray) -> str:
    """The warning for an image whose scale neither pixels nor mm decide."""
    here, files = (" x ".join(map(str, size)) for size in (sides, full_size(input, input.scale)))
    way_out = "State the size of its pixels: --spacing-mm MM."
    if np.isnan(trained_mm).any():  # then mm would not help
        way_out = "To know it, prepare the folder again with this version, and train on that."
    return (
        f"its {here} pixels are treated as pixels of the training files ({files}). The checkpoint does not "
        f"say whether those were shrunk from larger slices, so a lesion may look too large or too small. {way_out}"
    )


def sizes_on_the_way(input: InputSpec, sides: Sides, scale: Scale) -> list[Sides]:
    """The sizes to which an image is resized one after the other; the last is that of the network.

    The slices of the training were shrunk twice, to their files and to img_size. A finer image takes the same two
    steps, because one step blurs less than two.
    """
    last = tuple(max(1, round(n * s)) for n, s in zip(sides, scale, strict=True))
    if input.source_scale is None:
        return [last]
    between = tuple(max(1, round(n * s / f)) for n, s, f in zip(sides, scale, input.scale, strict=True))
    return [between, last] if all(b <= n for b, n in zip(between, sides, strict=True)) else [last]
