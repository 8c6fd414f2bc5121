"""Synthetic thorax slices with exact lesion targets, in HU: data for lessons and tests, with no download.

A scene (a thorax and its nodules) is drawn from a random generator, then cut at any height on any pixel grid.
A "patient" is a short stack of neighbouring cuts through a nodule; a volume is many cuts through one scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lungseg.data.phantoms.anatomy import Thorax, sample_thorax
from lungseg.data.phantoms.nodules import KINDS, Nodule, sample_nodule
from lungseg.data.phantoms.painting import paint_thorax
from lungseg.data.phantoms.raster import Grid, reconstruction_noise

TOP, BOTTOM = 45.0, 165.0  # mm below the lungs' apex: nodules have their centres between
MIDDLE = (0.0, 6.0)  # (x, y) in mm: the middle of the chest
SPAN, WIDEST = 0.7, 3.0  # a stack spans 0.7 of the nodule's diameter, with slices at most 3 mm apart


@dataclass(frozen=True, eq=False)
class PhantomSlice:
    """One axial slice with its lesion map."""

    hu: NDArray[np.int16]  # (H, W)
    target: NDArray[np.uint8]  # (H, W), 1 where at least half of the pixel's area is lesion, else 0
    spacing_mm: float  # between pixel centres, in both directions
    slice_index: int  # counted from the top of the stack
    kinds: tuple[str, ...]  # of the nodules with a pixel in this slice; empty where the target is all 0


@dataclass(frozen=True, eq=False)
class Scene:
    """A patient in 3-D, and the scanner that looks at it."""

    thorax: Thorax
    nodules: tuple[Nodule, ...]
    noise_hu: float  # standard deviation with small pixels
    noise_peak: float  # cycles per mm where it is strongest: low for a soft kernel, high for a sharp one
    blur_mm: float  # standard deviation of the scanner's point spread

    def render(
        self, grid: Grid, z: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8], tuple[str, ...]]:
        """Cut at height z mm: hu (H, W), target (H, W), the kinds of nodule cut; `rng` is for the noise."""
        image = paint_thorax(self.thorax, grid, z)
        target = np.zeros(grid.shape, np.uint8)
        kinds = []
        for nodule in self.nodules:
            cut = nodule.paint(image, grid, z, limit=self.thorax.lung_distance)  # a pleural one is cut by it
            target |= cut
            kinds += [nodule.kind] * bool(cut.any())
        image = gaussian_filter(image, self.blur_mm / grid.spacing, truncate=3.0, mode="nearest")
        strength = {"hu": self.noise_hu, "peak": self.noise_peak}
        image += reconstruction_noise(grid.shape, grid.spacing, **strength, rng=rng)
        return np.clip(np.rint(image), -1024, 3071).astype(np.int16), target, tuple(kinds)

    def stack(self, grid: Grid, heights: NDArray, rng: np.random.Generator) -> list[PhantomSlice]:
        """One slice for each of `heights`, in mm."""
        slices = []
        for index, z in enumerate(heights.tolist()):
            hu, target, kinds = self.render(grid, z, rng)
            slices.append(PhantomSlice(hu, target, grid.spacing, index, kinds))
        return slices


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

    Diameters are drawn evenly on a logarithmic scale: small nodules are common, as they are in patients.
    """
    check_nodule_arguments(diameter_mm, kinds)
    thorax = sample_thorax(rng)
    nodules: list[Nodule] = []
    for _ in range(num_nodules):
        kind = str(rng.choice(list(kinds)))
        diameter = float(np.exp(rng.uniform(*np.log(diameter_mm))))
        centre = place_nodule(rng, thorax, kind, diameter, z_range, view, nodules)
        nodules.append(sample_nodule(rng, kind, centre, diameter))
    return Scene(
        thorax=thorax,
        nodules=tuple(nodules),
        noise_hu=float(np.exp(rng.uniform(*np.log((16, 55))))),
        noise_peak=rng.uniform(0.1, 0.26),
        blur_mm=rng.uniform(0.45, 0.7),
    )


def place_nodule(
    rng: np.random.Generator,
    thorax: Thorax,
    kind: str,
    diameter: float,
    z_range: tuple[float, float],
    view: Grid | None,
    others: Sequence[Nodule],
) -> tuple[float, float, float]:
    """A centre (x, y, z) in the lung, off the large vessels; a pleural nodule sits on the chest wall."""
    radius = diameter / 2
    high = np.array([thorax.half_width, thorax.half_depth])
    low = -high
    if view is not None:
        half = np.array(view.shape[::-1]) * view.spacing / 2
        margin = np.minimum(half, radius)  # the whole nodule should be in the picture, if there is room
        low = np.maximum(low, view.centre - half + margin)
        high = np.maximum(low, np.minimum(high, view.centre + half - margin))
    points = np.column_stack([rng.uniform(low, high, (800, 2)), rng.uniform(*z_range, 800)])  # (n, 3)
    room = thorax.clearance(points)  # (n,)
    for other in others:
        apart = np.linalg.norm(points - other.centre, axis=1) - other.reach - 2 * radius
        room = np.where(apart > 0, room, -np.inf)
    if room.max() < 0:
        raise ValueError(
            f"The picture centred on {view.centre if view else MIDDLE} mm has no room for a nodule of "
            f"{diameter:.0f} mm: show more of the lungs (centre, field of view), or ask for fewer nodules."
        )
    if kind == "pleural":
        wall = -thorax.cavity_distance(*points.T)
        by_the_wall = wall < room + 1  # and not by the heart or the diaphragm
        misfit = np.where(by_the_wall, np.abs(wall - 0.55 * radius), np.inf)
        if not by_the_wall.any():  # no chest wall in view: anywhere in the lung
            misfit = -room
    else:
        misfit = np.maximum(1.1 * radius + 1.5 - room, 0)
    candidates = np.argsort(misfit, kind="stable")[:16]
    for i in candidates:
        fits = misfit[i] < 0.5 + 0.1 * radius
        if fits and thorax.vessel_clearance(points[i], thicker=1.2) > radius:
            return tuple(points[i].tolist())
    return tuple(points[candidates[0]].tolist())  # a crowded lung: then it touches a vessel


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
) -> list[PhantomSlice]:
    """Draw one patient: `num_slices` neighbouring axial slices, top to bottom, through one nodule.

    Args:
        rng: the only source of randomness; the same state gives the same patient.
        num_slices: slices of the stack.
        size: pixels along each side of the square slice.
        field_of_view_mm: width of the slice; 360 mm shows the whole chest.
        diameter_mm: smallest and largest nodule, within 1 to 40 mm.
        kinds: the kinds of nodule to draw from, out of `KINDS`.
        nodule_free: the probability that the patient has no nodule (then every target is empty).
        slice_spacing_mm: from slice to slice. None spans 0.7 of the nodule's diameter with the stack, with
            slices at most 3 mm apart, so that nearly every slice cuts the nodule; a wider spacing leaves it.
        centre_mm: (x, y) of the middle of the picture; None is the middle of the chest. The nodule's centre
            is always in the picture.

    Raises:
        ValueError: an argument is out of range; the sentence says which and what to give instead.
    """
    check_grid((size, size), field_of_view_mm / max(size, 1))
    grid = Grid((size, size), field_of_view_mm / size, MIDDLE if centre_mm is None else tuple(centre_mm))
    check_stack(num_slices, slice_spacing_mm, nodule_free)
    scene = sample_scene(rng, diameter_mm=diameter_mm, kinds=kinds, view=grid)
    heights = stack_heights(rng, scene.nodules[0], num_slices, slice_spacing_mm)
    if rng.random() < nodule_free:
        scene = replace(scene, nodules=())
    return scene.stack(grid, heights, rng)


def phantom_crops(
    rng: np.random.Generator,
    *,
    num: int = 6,
    size: int = 64,
    spacing_mm: float = 0.7,
    diameter_mm: tuple[float, float] = (3.0, 30.0),
    kinds: Sequence[str] = KINDS,
) -> list[PhantomSlice]:
    """Draw one patient and cut `num` neighbouring windows round the nodule, which lies anywhere in them.

    The defaults are a size and a spacing usual for nodule windows cut from real scans. Arguments and errors
    are those of `phantom_patient`.
    """
    check_grid((size, size), spacing_mm)
    check_stack(num, None, 0.0)
    scene = sample_scene(rng, diameter_mm=diameter_mm, kinds=kinds)
    nodule = scene.nodules[0]
    room = max(size * spacing_mm / 2 - nodule.diameter / 2 - 1, 0)  # so that the window holds the nodule
    x, y = (c + rng.uniform(-room, room) for c in nodule.centre[:2])
    grid = Grid((size, size), spacing_mm, (x, y))
    return scene.stack(grid, stack_heights(rng, nodule, num, None), rng)


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
    (between slices, between rows, between columns); the last two must be equal. The nodules' centres lie
    inside the volume.

    Raises:
        ValueError: an argument is out of range; the sentence says which and what to give instead.
    """
    if shape[0] < 1 or not spacing_mm[0] > 0 or spacing_mm[1] != spacing_mm[2] or num_nodules < 0:
        raise ValueError(
            f"shape {shape}, spacing_mm {spacing_mm}, num_nodules {num_nodules} is no volume: give at least "
            "1 slice, positive spacings, equal spacings along rows and columns, and 0 or more nodules."
        )
    check_grid(shape[1:], spacing_mm[1])
    grid = Grid(tuple(shape[1:]), spacing_mm[1], MIDDLE if centre_mm is None else tuple(centre_mm))
    heights = (TOP + BOTTOM) / 2 + spacing_mm[0] * (np.arange(shape[0]) - (shape[0] - 1) / 2)
    z_range = max(TOP, heights[0]), min(BOTTOM, heights[-1])
    scene = sample_scene(rng, num_nodules=num_nodules, diameter_mm=diameter_mm, kinds=kinds, z_range=z_range, view=grid)
    slices = scene.stack(grid, heights, rng)
    return np.stack([s.hu for s in slices]), np.stack([s.target for s in slices])


def stack_heights(rng: np.random.Generator, nodule: Nodule, num: int, spacing_mm: float | None) -> NDArray:
    """(num,) heights in mm of slices round the nodule, up to 0.05 of its diameter off its centre."""
    if spacing_mm is None:
        spacing_mm = min(SPAN * nodule.diameter / max(num - 1, 1), WIDEST)
    middle = nodule.centre[2] + rng.uniform(-0.05, 0.05) * nodule.diameter
    return middle + spacing_mm * (np.arange(num) - (num - 1) / 2)


def check_grid(shape: Sequence[int], spacing: float) -> None:
    if min(shape) < 1:
        raise ValueError(f"A slice of {shape[0]} x {shape[1]} pixels is empty: give at least 1 x 1.")
    if not 0 < spacing < np.inf:
        raise ValueError(f"The pixel spacing is {spacing} mm: give a positive field of view or spacing.")


def check_stack(num_slices: int, slice_spacing_mm: float | None, nodule_free: float) -> None:
    if num_slices < 1:
        raise ValueError(f"The number of slices is {num_slices}, but a patient needs at least 1.")
    if slice_spacing_mm is not None and not slice_spacing_mm > 0:
        raise ValueError(f"slice_spacing_mm is {slice_spacing_mm}: slices need a positive distance in mm.")
    if not 0 <= nodule_free <= 1:
        raise ValueError(f"nodule_free is {nodule_free}, but it is a probability: give 0 to 1.")


def check_nodule_arguments(diameter_mm: tuple[float, float], kinds: Sequence[str]) -> None:
    low, high = diameter_mm
    if not 1 <= low <= high <= 40:
        raise ValueError(f"diameter_mm is ({low}, {high}), but it must rise and stay within 1 to 40 mm.")
    unknown = [k for k in kinds if k not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds is {tuple(kinds)}: it must name at least one of {KINDS} and no other.")
