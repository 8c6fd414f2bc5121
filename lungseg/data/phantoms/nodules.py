"""Five kinds of lung nodule as analytic shapes: solid, part-solid, ground-glass, pleural, spiculated."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lungseg.data.phantoms.raster import Grid, capsule_distance, paint

KINDS = ("solid", "part-solid", "ground-glass", "pleural", "spiculated")
SUBSAMPLES = 5  # per side of a pixel, so 25 in all: odd, so that exactly half is impossible


@dataclass(frozen=True)
class Nodule:
    """A nodule in 3-D: an ellipsoid with a few bumps, and spikes if it is spiculated. All lengths in mm."""

    kind: str
    centre: tuple[float, float, float]  # (x, y, z)
    diameter: float  # of the sphere it deviates from
    hu: float  # solid matter, or the ground glass
    core: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # part-solid: x, y, z offset and radius
    core_hu: float = 0.0
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)  # half axes as multiples of the radius
    bumps: tuple[tuple[float, float, float, float], ...] = ()  # (kx, ky, kz, height as a share of the radius)
    spikes: tuple[tuple[float, float, float, float], ...] = ()  # (x, y, z of the tip, radius where it leaves)

    @property
    def reach(self) -> float:
        """No part of the nodule is further from its centre than this, in mm."""
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
                continue  # most spikes miss the slice
            inside = np.minimum(inside, capsule_distance(x, y, z, root, np.array(tip), (base, 0.0)))
        return inside

    def share(self, grid: Grid, z: float, limit=None) -> tuple[tuple[slice, slice], NDArray]:
        """The pixels it may touch (rows, columns), and the share of each pixel's area that is lesion.

        Measured with 5 x 5 points in each pixel near the border. `limit(x, y, z)`, if given, is a second
        signed distance, of what the lesion may not leave: the lung, which cuts pleural nodules off.
        """

        def distance(x, y):
            d = self.distance(x, y, z)
            return d if limit is None else np.maximum(d, limit(x, y, z))

        box = grid.box(np.subtract(self.centre[:2], self.reach), np.add(self.centre[:2], self.reach))
        x, y = np.broadcast_arrays(grid.x[:, box[1]], grid.y[box[0]])  # (h, w) each
        if x.size == 0 or abs(z - self.centre[2]) > self.reach:
            return box, np.zeros(x.shape, np.float32)
        d = distance(x, y)
        share = (d <= 0).astype(np.float32)  # (h, w)
        # half a pixel's diagonal is 0.71 spacing; distances are of first order, so stay on the safe side
        border = np.abs(d) < 1.25 * grid.spacing
        steps = (np.arange(SUBSAMPLES) - (SUBSAMPLES - 1) / 2) / SUBSAMPLES * grid.spacing
        x = x[border][:, None, None] + steps[None, None, :]  # (n, 1, 5)
        y = y[border][:, None, None] + steps[None, :, None]  # (n, 5, 1)
        share[border] = (distance(x, y) <= 0).mean((1, 2))
        return box, share

    def paint(self, image: NDArray, grid: Grid, z: float, limit=None) -> NDArray[np.bool_]:
        """Paint the nodule into `image` (H, W), in place; return its exact target (H, W)."""
        box, share = self.share(grid, z, limit)
        if self.kind in ("ground-glass", "part-solid"):  # haze: what is denser shows through
            image[box] += share * np.maximum(self.hu - image[box], 0)
        else:
            paint(image[box], share, self.hu)
        if self.kind == "part-solid":
            centre = tuple(c + o for c, o in zip(self.centre, self.core[:3], strict=True))
            core = Nodule("solid", centre, 2 * self.core[3], self.core_hu, bumps=self.bumps)
            core_box, core_share = core.share(grid, z)
            paint(image[core_box], core_share, self.core_hu)
        target = np.zeros(image.shape, bool)
        target[box] = share >= 0.5
        return target


def sample_nodule(rng: np.random.Generator, kind: str, centre: tuple[float, float, float], diameter: float) -> Nodule:
    """Draw the looks of a nodule of a given kind, place (x, y, z in mm) and diameter (mm)."""
    radius = diameter / 2
    stretch = rng.uniform(0.8, 1.25, 3)
    stretch = stretch / np.prod(stretch) ** (1 / 3)  # keeps the volume
    bumps = [(*rng.normal(0, 2.5, 3), rng.uniform(0.03, 0.13)) for _ in range(3)]
    options = {}
    hu = rng.uniform(-60, 70)
    if kind == "solid" and rng.random() < 0.1:
        hu = rng.uniform(150, 400)  # calcified
    if kind in ("ground-glass", "part-solid"):
        hu = rng.uniform(-640, -480)
    if kind == "part-solid":
        direction = rng.normal(size=3)
        offset = direction / np.linalg.norm(direction) * radius * rng.uniform(0, 0.25)
        options = {"core": (*offset, radius * rng.uniform(0.35, 0.6)), "core_hu": rng.uniform(-30, 50)}
    if kind == "spiculated":
        tips = rng.normal(size=(rng.integers(45, 70), 3))
        tips *= (radius * rng.uniform(1.3, 2.0, len(tips)) / np.linalg.norm(tips, axis=1))[:, None]
        bases = radius * rng.uniform(0.15, 0.26, len(tips))
        options = {"spikes": tuple(map(tuple, np.column_stack([tips, bases]).tolist()))}
    return Nodule(kind, centre, diameter, hu, stretch=tuple(stretch.tolist()), bumps=tuple(bumps), **options)
