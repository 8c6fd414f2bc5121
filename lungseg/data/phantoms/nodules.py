"""Five kinds of lung nodule as analytic shapes, and where in the lungs they can be.

The kinds are solid, part-solid, ground-glass, pleural and spiculated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lungseg.data.phantoms.anatomy import Point, Thorax
from lungseg.data.phantoms.raster import Grid, capsule_distance, paint

KINDS = ("solid", "part-solid", "ground-glass", "pleural", "spiculated")
SUBSAMPLES = 5  # per side of a pixel, so 25 in all; an odd number cannot be half inside


@dataclass(frozen=True)
class Nodule:
    """A nodule in 3-D: an ellipsoid with a few bumps, and with spikes if it is spiculated. All lengths are in mm."""

    kind: str
    centre: Point
    diameter: float  # of the sphere that bumps and stretch deform
    hu: float  # of the solid matter or of the ground glass
    core: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # part-solid: offset x, y, z from `centre`, radius
    core_hu: float = 0.0
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)  # half axes as multiples of the radius
    bumps: tuple[tuple[float, float, float, float], ...] = ()  # kx, ky, kz, height as a fraction of the radius
    spikes: tuple[tuple[float, float, float, float], ...] = ()  # x, y, z of the tip from `centre`, radius at the base

    @property
    def reach(self) -> float:
        """The largest distance in mm between the centre and any part of the nodule (an upper bound)."""
        body = self.diameter / 2 * max(self.stretch) * (1 + sum(abs(b[3]) for b in self.bumps))
        return max([body] + [float(np.linalg.norm(s[:3])) + s[3] for s in self.spikes])

    def distance(self, x, y, z) -> NDArray:
        """Signed distance to the surface in mm, to first order; exact for a sphere."""
        x, y, z = (p - c for p, c in zip((x, y, z), self.centre, strict=True))
        radius = self.diameter / 2
        u, v, w = (p / s for p, s in zip((x, y, z), self.stretch, strict=True))
        r = np.sqrt(u**2 + v**2 + w**2)
        wave = 0.0
        for kx, ky, kz, height in self.bumps:
            wave = wave + height * np.sin((kx * u + ky * v + kz * w) / np.maximum(r, 1e-6))
        inside = r - radius * (1 + wave)
        for *tip, base in self.spikes:
            root = np.array(tip) * (0.6 * radius / np.linalg.norm(tip))  # inside the body, below its bumps
            if np.max(z) < min(root[2], tip[2]) - base or np.min(z) > max(root[2], tip[2]) + base:
                continue  # most spikes do not cross the slice
            inside = np.minimum(inside, capsule_distance(x, y, z, root, np.array(tip), (base, 0.0)))
        return inside

    def coverage(self, grid: Grid, z: float, limit=None) -> tuple[tuple[slice, slice], NDArray]:
        """The box (rows, columns) of pixels that the nodule may touch, and the fraction of each that is lesion.

        Measured with 5 x 5 points in each pixel near the border. `limit(x, y, z)`, if given, is the signed distance
        to a region that the lesion cannot leave: the lung, whose surface truncates pleural nodules.
        """

        def distance(x, y):
            d = self.distance(x, y, z)
            return d if limit is None else np.maximum(d, limit(x, y, z))

        box = grid.box(np.subtract(self.centre[:2], self.reach), np.add(self.centre[:2], self.reach))
        x, y = np.broadcast_arrays(grid.x[:, box[1]], grid.y[box[0]])  # (h, w) each
        if x.size == 0 or abs(z - self.centre[2]) > self.reach:
            return box, np.zeros(x.shape, np.float32)
        d = distance(x, y)
        covered = (d <= 0).astype(np.float32)  # (h, w)
        # Half the diagonal of a pixel is 0.71 spacing; 1.25 leaves a margin, since distances are exact to first order.
        border = np.abs(d) < 1.25 * grid.spacing
        steps = (np.arange(SUBSAMPLES) - (SUBSAMPLES - 1) / 2) / SUBSAMPLES * grid.spacing
        x = x[border][:, None, None] + steps[None, None, :]  # (n, 1, 5)
        y = y[border][:, None, None] + steps[None, :, None]  # (n, 5, 1)
        covered[border] = (distance(x, y) <= 0).mean((1, 2))
        return box, covered

    def paint(self, image: NDArray, grid: Grid, z: float, limit=None) -> NDArray[np.bool_]:
        """Paint the nodule into `image` (H, W), in place; return its exact target (H, W)."""
        box, covered = self.coverage(grid, z, limit)
        if self.kind in ("ground-glass", "part-solid"):  # a haze, through which denser structures stay visible
            image[box] += covered * np.maximum(self.hu - image[box], 0)
        else:
            paint(image[box], covered, self.hu)
        if self.kind == "part-solid":
            core_box, core_covered = self.solid_core().coverage(grid, z)
            paint(image[core_box], core_covered, self.core_hu)
        target = np.zeros(image.shape, bool)
        target[box] = covered >= 0.5
        return target

    def solid_core(self) -> "Nodule":
        """The core of a part-solid nodule, as a nodule of its own."""
        x, y, z = (c + o for c, o in zip(self.centre, self.core[:3], strict=True))
        return Nodule("solid", (x, y, z), 2 * self.core[3], self.core_hu, bumps=self.bumps)


def sample_nodule(rng: np.random.Generator, kind: str, centre: Point, diameter: float) -> Nodule:
    """Draw the shape and density of a nodule of the given kind, centre and diameter in mm."""
    radius = diameter / 2
    stretch = rng.uniform(0.8, 1.25, 3)
    stretch = stretch / np.prod(stretch) ** (1 / 3)  # keeps the volume
    bumps = [(*rng.normal(0, 2.5, 3), rng.uniform(0.03, 0.13)) for _ in range(3)]
    core, core_hu = (0.0, 0.0, 0.0, 0.0), 0.0
    spikes: tuple[tuple[float, float, float, float], ...] = ()
    hu = rng.uniform(-60, 70)
    if kind == "solid" and rng.random() < 0.1:
        hu = rng.uniform(150, 400)  # calcified
    if kind in ("ground-glass", "part-solid"):
        hu = rng.uniform(-640, -480)
    if kind == "part-solid":
        direction = rng.normal(size=3)
        offset = direction / np.linalg.norm(direction) * radius * rng.uniform(0, 0.25)
        core = (*offset, radius * rng.uniform(0.35, 0.6))
        core_hu = rng.uniform(-30, 50)
    if kind == "spiculated":
        tips = rng.normal(size=(rng.integers(45, 70), 3))
        tips *= (radius * rng.uniform(1.3, 2.0, len(tips)) / np.linalg.norm(tips, axis=1))[:, None]
        bases = radius * rng.uniform(0.15, 0.26, len(tips))
        spikes = tuple(map(tuple, np.column_stack([tips, bases]).tolist()))
    return Nodule(kind, centre, diameter, hu, core, core_hu, tuple(stretch.tolist()), tuple(bumps), spikes)


def check_nodule_arguments(diameter_mm: tuple[float, float], kinds: Sequence[str]) -> None:
    """Raise a ValueError for a range of diameters or for kinds that cannot be drawn."""
    low, high = diameter_mm
    if not 1 <= low <= high <= 40:
        raise ValueError(f"diameter_mm: expected smallest <= largest, both within 1 to 40 mm, got ({low}, {high}).")
    unknown = [k for k in kinds if k not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds: expected at least one of {KINDS} and no others, got {tuple(kinds)}.")


def find_nodule_centre(
    rng: np.random.Generator,
    thorax: Thorax,
    kind: str,
    diameter: float,
    z_range: tuple[float, float],
    view: Grid | None,
    others: Sequence[Nodule],
) -> Point:
    """Find a centre in the lung, away from large vessels and `others`; a pleural nodule sits on the chest wall.

    Of 800 random points within `z_range` and `view`, take the best that touches no vessel.

    Raises:
        ValueError: if no point has room for the nodule.
    """
    radius = diameter / 2
    low, high = find_centre_bounds(thorax, radius, view)
    points = np.column_stack([rng.uniform(low, high, (800, 2)), rng.uniform(*z_range, 800)])  # (n, 3)
    room = thorax.clearance(points)  # (n,)
    for other in others:
        apart = np.linalg.norm(points - other.centre, axis=1) - other.reach - 2 * radius
        room = np.where(apart > 0, room, -np.inf)
    if room.max() < 0:
        where = "A chest" if view is None else f"The picture centred on {view.centre} mm"
        raise ValueError(
            f"{where} has no room for a nodule of {diameter:.0f} mm: show more of the lungs (centre, field of view), "
            f"or ask for fewer nodules."
        )
    if kind == "pleural":
        wall = -thorax.cavity_distance(*points.T)
        by_the_wall = wall < room + 1  # and not next to the heart or the diaphragm
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
    return tuple(points[candidates[0]].tolist())  # in a crowded lung the nodule touches a vessel


def find_centre_bounds(thorax: Thorax, radius: float, view: Grid | None) -> tuple[NDArray, NDArray]:
    """The lowest and highest (x, y) in mm of a nodule's centre: inside the rib cage, and inside `view` if given."""
    high = np.array([thorax.half_width, thorax.half_depth])
    low = -high
    if view is not None:
        half = np.array(view.shape[::-1]) * view.spacing / 2
        margin = np.minimum(half, radius)  # the whole nodule should be in the picture if there is room
        low = np.maximum(low, view.centre - half + margin)
        high = np.maximum(low, np.minimum(high, view.centre + half - margin))
    return low, high
