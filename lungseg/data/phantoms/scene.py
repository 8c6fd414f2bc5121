"""Synthetic thorax slices in HU with exact lesion targets: data for lessons and tests that need no download.

A scene (a thorax with its nodules) is drawn from a random generator, then sliced at any height on any pixel grid.
A "patient" is a short stack of neighbouring slices through a nodule; a volume is many slices through one scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lungseg.data.phantoms.anatomy import Thorax, sample_thorax
from lungseg.data.phantoms.nodules import KINDS, Nodule, check_nodule_arguments, find_nodule_centre, sample_nodule
from lungseg.data.phantoms.painting import paint_thorax
from lungseg.data.phantoms.pet import blurred_activity, count_noise, sample_tracer
from lungseg.data.phantoms.raster import Grid, reconstruction_noise

TOP, BOTTOM = 45.0, 165.0  # mm below the apex of the lungs: nodules have their centres between these
MIDDLE = (0.0, 6.0)  # (x, y) in mm: the middle of the chest
SPAN, WIDEST = 0.7, 3.0  # a stack spans 0.7 of the nodule's diameter, with slices at most 3 mm apart


@dataclass(frozen=True, eq=False)
class PhantomSlice:
    """One axial slice with its lesion map."""

    hu: NDArray[np.int16]  # (H, W)
    target: NDArray[np.uint8]  # (H, W), 1 where at least half of the pixel's area is lesion, else 0
    spacing_mm: float  # between pixel centres, in both directions
    slice_index: int  # counted from the top of the stack
    kinds: tuple[str, ...]  # of the nodules with a pixel in this slice; empty if the target is all 0
    pet: NDArray[np.float32] | None = None  # (H, W), in SUV, if it was asked for


@dataclass(frozen=True, eq=False)
class Scene:
    """A patient in 3-D, and the properties of the scanner."""

    thorax: Thorax
    nodules: tuple[Nodule, ...]
    noise_hu: float  # standard deviation for small pixels
    noise_peak: float  # in cycles per mm, where noise is strongest: low for a soft kernel, high for a sharp one
    blur_mm: float  # standard deviation of the scanner's point spread

    def render(
        self, grid: Grid, z: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8], tuple[str, ...]]:
        """Render the slice at height z mm: hu (H, W), target (H, W), and the kinds of its nodules.

        `rng` draws the noise.
        """
        image = paint_thorax(self.thorax, grid, z)
        target = np.zeros(grid.shape, np.uint8)
        kinds = []
        for nodule in self.nodules:
            lesion = nodule.paint(image, grid, z, limit=self.thorax.lung_distance)  # the lung truncates pleural ones
            target |= lesion
            kinds += [nodule.kind] * bool(lesion.any())
        image = gaussian_filter(image, self.blur_mm / grid.spacing, truncate=3.0, mode="nearest")
        image += reconstruction_noise(grid.shape, grid.spacing, hu=self.noise_hu, peak=self.noise_peak, rng=rng)
        return np.clip(np.rint(image), -1024, 3071).astype(np.int16), target, tuple(kinds)

    def stack(self, grid: Grid, heights: NDArray, rng: np.random.Generator, *, pet: bool = False) -> list[PhantomSlice]:
        """Render one slice for each of `heights`, in mm. The CT is the same with and without PET."""
        slices = []
        for index, z in enumerate(heights.tolist()):
            hu, target, kinds = self.render(grid, z, rng)
            slices.append(PhantomSlice(hu, target, grid.spacing, index, kinds))
        return self.add_pet(slices, grid, heights, rng.spawn(1)[0]) if pet else slices

    def add_pet(
        self, slices: list[PhantomSlice], grid: Grid, heights: NDArray, rng: np.random.Generator
    ) -> list[PhantomSlice]:
        """The same slices with the PET at their heights; `rng` draws where the tracer goes, and the counts."""
        tracer = sample_tracer(rng, self.nodules)
        blurred = (blurred_activity(self.thorax, self.nodules, tracer, grid, z) for z in heights.tolist())
        return [replace(s, pet=count_noise(suv, grid.spacing, rng)) for s, suv in zip(slices, blurred, strict=True)]


def sample_scene(
    rng: np.random.Generator,
    *,
    num_nodules: int = 1,
    diameter_mm: tuple[float, float] = (3.0, 30.0),
    kinds: Sequence[str] = KINDS,
    z_range: tuple[float, float] = (TOP, BOTTOM),
    view: Grid | None = None,
) -> Scene:
    """Draw a thorax and nodules in its lungs, with centres between the heights `z_range` and inside `view`.

    Diameters are drawn uniformly on a logarithmic scale: small nodules are common, as they are in patients.
    """
    check_nodule_arguments(diameter_mm, kinds)
    thorax = sample_thorax(rng)
    nodules: list[Nodule] = []
    for _ in range(num_nodules):
        kind = str(rng.choice(list(kinds)))
        diameter = float(np.exp(rng.uniform(*np.log(diameter_mm))))
        centre = find_nodule_centre(rng, thorax, kind, diameter, z_range, view, nodules)
        nodules.append(sample_nodule(rng, kind, centre, diameter))
    return Scene(
        thorax=thorax,
        nodules=tuple(nodules),
        noise_hu=float(np.exp(rng.uniform(*np.log((16, 55))))),
        noise_peak=rng.uniform(0.1, 0.26),
        blur_mm=rng.uniform(0.45, 0.7),
    )


def phantom_patient(
    rng: np.random.Generator,
    *,
    num_slices: int = 6,
    size: int = 256,
    field_of_view_mm: float = 360.0,
    diameter_mm: tuple[float, float] = (3.0, 30.0),
    kinds: Sequence[str] = KINDS,
    nodule_free: float = 0.0,
    slice_spacing_mm: float | None = None,
    centre_mm: tuple[float, float] | None = None,
    pet: bool = False,
) -> list[PhantomSlice]:
    """Draw one patient: `num_slices` neighbouring axial slices through one nodule, from top to bottom.

    Args:
        rng: the only source of randomness; the same state gives the same patient.
        num_slices: number of slices in the stack.
        size: pixels along each side of the square slice.
        field_of_view_mm: width of the slice; 360 mm shows the whole chest.
        diameter_mm: smallest and largest diameter of a nodule, within 1 to 40 mm.
        kinds: the kinds of nodule to draw from, a subset of `KINDS`.
        nodule_free: the probability that the patient has no nodule (then every target is empty).
        slice_spacing_mm: distance between slices. With None the stack spans 0.7 of the nodule's diameter, with slices
            at most 3 mm apart, so nearly every slice shows the nodule; with a wide spacing the outer slices miss it.
        centre_mm: (x, y) of the centre of the picture; None is the middle of the chest. The nodule's centre is always
            in the picture.
        pet: render PET as well, `lungseg.data.phantoms.pet`.

    Raises:
        ValueError: an argument is out of range; the message says which one and what to give instead.
    """
    grid = make_grid((size, size), field_of_view_mm / max(size, 1), centre_mm)
    check_stack(num_slices, slice_spacing_mm, nodule_free)
    scene = sample_scene(rng, diameter_mm=diameter_mm, kinds=kinds, view=grid)
    heights = stack_heights(rng, scene.nodules[0], num_slices, slice_spacing_mm)
    if rng.random() < nodule_free:
        scene = replace(scene, nodules=())
    return scene.stack(grid, heights, rng, pet=pet)


def phantom_crops(
    rng: np.random.Generator,
    *,
    num: int = 6,
    size: int = 64,
    spacing_mm: float = 0.7,
    diameter_mm: tuple[float, float] = (3.0, 30.0),
    kinds: Sequence[str] = KINDS,
    pet: bool = False,
) -> list[PhantomSlice]:
    """Draw one patient and take crops of `num` neighbouring slices around the nodule, which may be anywhere in them.

    The default size and spacing are typical of nodule crops from real scans. Arguments and errors are those of
    `phantom_patient`.
    """
    grid = make_grid((size, size), spacing_mm)
    check_stack(num, None, 0.0)
    scene = sample_scene(rng, diameter_mm=diameter_mm, kinds=kinds)
    nodule = scene.nodules[0]
    room = max(size * spacing_mm / 2 - nodule.diameter / 2 - 1, 0)  # so that the crop holds the nodule
    x, y = (c + rng.uniform(-room, room) for c in nodule.centre[:2])
    return scene.stack(replace(grid, centre=(x, y)), stack_heights(rng, nodule, num, None), rng, pet=pet)


def phantom_volume(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int] = (32, 128, 128),
    spacing_mm: tuple[float, float, float] = (4.0, 2.8, 2.8),
    num_nodules: int = 3,
    diameter_mm: tuple[float, float] = (3.0, 30.0),
    kinds: Sequence[str] = KINDS,
    centre_mm: tuple[float, float] | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Draw one patient as a volume: hu (D, H, W) int16 and target (D, H, W) uint8 in {0, 1}.

    Slice 0 is nearest to the head, and the middle of the stack is the middle of the lungs. `spacing_mm` is
    (between slices, between rows, between columns); the last two must be equal. The centres of the nodules are inside
    the volume.

    Raises:
        ValueError: an argument is out of range; the message says which one and what to give instead.
    """
    depth, height, width = shape
    if depth < 1 or not spacing_mm[0] > 0 or spacing_mm[1] != spacing_mm[2] or num_nodules < 0:
        raise ValueError(
            f"Expected at least 1 slice, positive spacings, equal spacings along rows and columns, and 0 or more "
            f"nodules, got shape={shape}, spacing_mm={spacing_mm}, num_nodules={num_nodules}."
        )
    grid = make_grid((height, width), spacing_mm[1], centre_mm)
    heights = (TOP + BOTTOM) / 2 + spacing_mm[0] * (np.arange(depth) - (depth - 1) / 2)
    z_range = max(TOP, heights[0]), min(BOTTOM, heights[-1])
    scene = sample_scene(rng, num_nodules=num_nodules, diameter_mm=diameter_mm, kinds=kinds, z_range=z_range, view=grid)
    slices = scene.stack(grid, heights, rng)
    return np.stack([s.hu for s in slices]), np.stack([s.target for s in slices])


def stack_heights(rng: np.random.Generator, nodule: Nodule, num: int, spacing_mm: float | None) -> NDArray:
    """Draw the heights of `num` slices around the nodule, (num,) in mm.

    The middle of the stack is up to 0.05 of the nodule's diameter away from its centre.
    """
    if spacing_mm is None:
        spacing_mm = min(SPAN * nodule.diameter / max(num - 1, 1), WIDEST)
    middle = nodule.centre[2] + rng.uniform(-0.05, 0.05) * nodule.diameter
    return middle + spacing_mm * (np.arange(num) - (num - 1) / 2)


def make_grid(shape: tuple[int, int], spacing: float, centre_mm: tuple[float, float] | None = None) -> Grid:
    """Make a grid around `centre_mm`, or around the middle of the chest; raise a ValueError if it would be empty."""
    if min(shape) < 1:
        raise ValueError(f"A slice of {shape[0]} x {shape[1]} pixels is empty: expected at least 1 x 1.")
    if not 0 < spacing < np.inf:
        raise ValueError(f"Expected a positive field of view or spacing, got pixels of {spacing} mm.")
    x, y = MIDDLE if centre_mm is None else centre_mm
    return Grid(shape, spacing, (x, y))


def check_stack(num_slices: int, slice_spacing_mm: float | None, nodule_free: float) -> None:
    """Raise a ValueError for a stack of slices that cannot be drawn."""
    if num_slices < 1:
        raise ValueError(f"Expected at least 1 slice for a patient, got {num_slices}.")
    if slice_spacing_mm is not None and not slice_spacing_mm > 0:
        raise ValueError(f"slice_spacing_mm: expected a positive distance in mm, got {slice_spacing_mm}.")
    if not 0 <= nodule_free <= 1:
        raise ValueError(f"nodule_free: expected a probability, 0 to 1, got {nodule_free}.")
