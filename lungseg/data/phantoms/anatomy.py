"""A synthetic chest in 3-D: the position and density of organs, drawn from a random generator.

Coordinates are in mm: x to the right of the picture (the patient's left), y to the back (posterior), z down from the
apex of the lungs. The lungs fill the part of the rib cage that the heart, the mediastinum, the spine and the diaphragm
leave free. `lungseg.data.phantoms.painting` turns this anatomy into slices in HU.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lungseg.data.phantoms.raster import Rods, capsule_distance, ellipse_distance, ellipsoid_distance
from lungseg.data.phantoms.vessels import vessel_tree

Point = tuple[float, float, float]  # (x, y, z) in mm

# Great vessels, filled with blood: start, stop and radius in mm.
GREAT_VESSELS: tuple[tuple[Point, Point, float], ...] = (
    ((-10, -20, 72), (-14, -22, 150), 15.0),  # ascending aorta
    ((-10, -20, 70), (18, 36, 66), 12.0),  # aortic arch
    ((19, 40, 66), (14, 44, 400), 11.5),  # descending aorta
    ((-24, -16, 40), (-25, -12, 140), 8.5),  # superior vena cava
    ((14, -30, 128), (16, -20, 98), 13.0),  # pulmonary trunk
    ((14, -16, 100), (-36, 2, 106), 10.0),  # right pulmonary artery
    ((16, -14, 98), (38, 12, 100), 10.0),  # left pulmonary artery
    ((-12, -8, -60), (-8, -14, 66), 6.0),  # brachiocephalic artery
    ((10, -2, -60), (6, -4, 66), 4.5),  # left carotid
    ((20, 8, -60), (15, 12, 66), 5.0),  # left subclavian
    ((-40, 10, 128), (-10, 16, 132), 7.0),  # right and left lower pulmonary veins
    ((40, 14, 126), (16, 16, 132), 7.0),
)
# Trachea and main bronchi, filled with air: start, stop and inner radius in mm.
AIRWAYS: tuple[tuple[Point, Point, float], ...] = (
    ((0, 8, -60), (0, 14, 92), 8.5),
    ((0, 14, 92), (-36, 18, 116), 6.5),
    ((0, 14, 92), (38, 20, 122), 5.5),
)


def gauss(x, width: float):
    """A smooth bump of height 1 centred on x = 0."""
    return np.exp(-((x / width) ** 2))


@dataclass(frozen=True, eq=False)
class Thorax:
    """One patient without nodules. Lengths are in mm, densities in HU."""

    half_width: float  # of the rib cage, inside
    half_depth: float
    wall: float  # thickness of fat and muscle outside the rib cage, at the side
    power: float  # exponent of the super-ellipse of the rib cage: 2 is an ellipse, more is boxier
    heart: tuple[Point, Point]  # centre, half axes
    dome: float  # z of the top of the right hemidiaphragm
    rib_phase: float
    rib_pitch: float
    rib_drop: float  # how much lower a rib ends, at the front, than it begins, at the back
    blood: float
    lung: float  # at y = 0
    dependent: float  # increase in HU per mm towards the back, where blood pools in a supine patient
    waves: NDArray  # (n, 5) kx, ky, kz in radians per mm, phase, amplitude in HU: the texture of the lung
    bends: NDArray  # (2, n, 4) k along the other axis, kz, phase, amplitude in mm: they make the ellipses irregular
    vessels: Rods
    fissures: tuple[tuple[float, float], tuple[float, float]]  # (y at z = 100, slope) of the right, left oblique one

    def cavity_half_axes(self, z) -> tuple:
        """Half axes (x, y) of the rib cage at height z, in mm: it narrows towards the apex."""
        shape = np.sqrt(1 - np.clip(1 - z / 120, 0, 0.999) ** 3)
        return self.half_width * shape, self.half_depth * (0.25 + 0.75 * shape)

    def bend(self, x, y, z) -> tuple[NDArray, NDArray]:
        """Map (x, y) to the coordinates of the unbent body: x is shifted by waves along y and z, y along x and z."""
        dx, dy = (
            sum(mm * np.sin(k * other + kz * z + phase) for k, kz, phase, mm in rows.tolist())
            for rows, other in zip(self.bends, (y, x), strict=True)
        )
        return x + dx, y + dy

    def body_distance(self, x, y, z) -> NDArray:
        """Signed distance to the skin in mm."""
        x, y = self.bend(x, y, z)
        half = (self.half_width + self.wall + 25 * gauss(z, 60), self.half_depth + 0.65 * self.wall)
        return ellipse_distance(x, y, (0.0, 6.0), half, 2.35)

    def cavity_distance(self, x, y, z) -> NDArray:
        """Signed distance to the inside of the rib cage in mm."""
        x, y = self.bend(x, y, z)
        return ellipse_distance(x, y, (0.0, 0.0), self.cavity_half_axes(z), self.power)

    def mediastinum_distance(self, x, y, z) -> NDArray:
        """Signed distance in mm to everything inside the rib cage that is not lung."""
        x, y = self.bend(x, y, z)
        depth = self.half_depth
        width = 25 + 10 * gauss(z - 110, 35)
        parts = (
            ellipse_distance(x, y, (0.0, 10.0), (width, 0.75 * depth)),
            np.abs(x - 3.0) - 1.5 - 14 * gauss(y + 1.05 * depth, 0.22 * depth),  # between the two lungs, at the front
            ellipse_distance(x, y, (0.0, 0.86 * depth), (25.0, 0.38 * depth)),  # spine
            ellipsoid_distance(x, y, z, *self.heart),
            self.diaphragm_distance(x, y, z, -1),
            self.diaphragm_distance(x, y, z, 1),
        )
        return np.minimum.reduce(np.broadcast_arrays(*parts))

    def diaphragm_distance(self, x, y, z, side: int) -> NDArray:
        """Signed distance in mm to the abdomen under the right (-1) or left (+1) lung: a dome and all below it."""
        bottom = self.dome + 95 + (12 if side > 0 else 0)
        centre = (side * 0.52 * self.half_width, 0.0, bottom)
        half = (0.68 * self.half_width, 1.1 * self.half_depth, 95.0)
        return np.minimum(ellipsoid_distance(x, y, z, centre, half), bottom - z)

    def lung_distance(self, x, y, z) -> NDArray:
        """Signed distance to the lungs in mm, to first order; negative inside them."""
        return np.maximum(self.cavity_distance(x, y, z), -self.mediastinum_distance(x, y, z))

    def lung_hu(self, x, y, z) -> NDArray:
        """(H, W) HU of the parenchyma at x (1, W), y (H, 1) and height z: denser at the back, with a smooth texture."""
        kx, ky, kz, phase, amplitude = (c[:, None].astype(np.float32) for c in self.waves.T)  # (n, 1) each
        a, b = kx * x + kz * z + phase, ky * y.T  # (n, W), (n, H)
        # cos(a + b) = cos a cos b - sin a sin b: so cosines and sines are needed along the two axes only
        factors_x = np.concatenate([np.cos(a), -np.sin(a)])  # (2n, W)
        factors_y = np.concatenate([amplitude * np.cos(b), amplitude * np.sin(b)])  # (2n, H)
        texture = np.einsum("nh,nw->hw", factors_y, factors_x)  # (H, W)
        return self.lung + self.dependent * y + texture

    def bronchi(self, *, wall: float) -> Rods:
        """The bronchi, one alongside each thicker artery, with `wall` mm added to their inner radius."""
        v = self.vessels
        big = v.r0 > 1.9
        aside = np.array([0.0, -2.0, 0.0])
        start = v.start[big] + aside * (0.9 * v.r0[big, None] + 0.3)
        stop = v.stop[big] + aside * (0.9 * v.r1[big, None] + 0.3)
        return Rods(start, stop, 0.7 * v.r0[big] + wall, 0.7 * v.r1[big] + wall)

    def shoulder_blade(self, side: int, z: float) -> tuple[Point, Point]:
        """Both ends of the section through the right (-1) or left (+1) shoulder blade at height z."""
        a, b = self.cavity_half_axes(max(z, 60.0))
        return (side * (0.93 * a + 20), 0.4 * b, z), (side * 0.6 * a, 0.85 * b + 22, z)

    def clearance(self, points: NDArray) -> NDArray:
        """(n,) mm from `points` (n, 3) to the nearest pleura, great vessel or airway; negative outside the lung."""
        x, y, z = points.T
        room = -self.lung_distance(x, y, z)
        for start, stop, radius in GREAT_VESSELS + AIRWAYS:
            wall = radius + 2.0
            room = np.minimum(room, capsule_distance(x, y, z, np.array(start), np.array(stop), (wall, wall)))
        return room

    def vessel_clearance(self, point: NDArray, *, thicker: float) -> float:
        """mm from one point (3,) to the nearest vessel of the trees with a radius above `thicker` mm."""
        x, y, z = point
        rods, big = self.vessels, self.vessels.r0 > thicker
        d = capsule_distance(x, y, z, rods.start[big], rods.stop[big], (rods.r0[big], rods.r1[big]))
        return float(d.min(initial=np.inf))


def sample_points_in_lung(thorax: Thorax, rng: np.random.Generator, num: int, side: int, depth: float) -> NDArray:
    """Draw (num, 3) points uniformly from the right (-1) or left (+1) lung, at least `depth` mm inside it."""
    low = np.array([0.0, -thorax.half_depth, 10.0])
    high = np.array([thorax.half_width, thorax.half_depth, thorax.dome + 90])
    kept = np.zeros((0, 3))
    while len(kept) < num:
        points = rng.uniform(low, high, (4 * num, 3)) * (side, 1, 1)
        kept = np.vstack([kept, points[thorax.lung_distance(*points.T) < -depth]])
    return kept[:num]


def sample_thorax(rng: np.random.Generator, *, vessels_per_lung: int = 1300) -> Thorax:
    """Draw one patient: sizes, densities, texture, and a vessel tree for each lung."""
    size = rng.normal(1, 0.05)
    nothing = np.zeros((0, 3))
    thorax = Thorax(
        half_width=118 * size * rng.uniform(0.95, 1.06),
        half_depth=84 * size * rng.uniform(0.93, 1.07),
        wall=rng.uniform(30, 52),
        power=rng.uniform(2.1, 2.5),
        heart=(
            (rng.uniform(18, 28), rng.uniform(-18, -10), rng.uniform(160, 172)),
            (rng.uniform(50, 60), rng.uniform(42, 50), rng.uniform(56, 66)),
        ),
        dome=rng.uniform(140, 182),
        rib_phase=rng.uniform(0, 26),
        rib_pitch=rng.uniform(24, 28),
        rib_drop=rng.uniform(80, 110),
        blood=float(rng.choice([rng.uniform(38, 55), rng.uniform(120, 320)])),  # without, with contrast agent
        lung=rng.uniform(-900, -820),
        dependent=rng.uniform(0.1, 0.5),
        waves=np.column_stack([rng.normal(0, 0.16, (16, 3)), rng.uniform(0, 2 * np.pi, 16), rng.rayleigh(4.5, 16)]),
        bends=rng.uniform((0.015, -0.012, 0, 0.7), (0.05, 0.012, 2 * np.pi, 2.4), (2, 4, 4)),
        vessels=Rods(nothing, nothing, np.zeros(0), np.zeros(0)),
        fissures=((rng.uniform(5, 25), rng.uniform(0.5, 0.9)), (rng.uniform(5, 25), rng.uniform(0.5, 0.9))),
    )
    trees = []
    for side in (-1, 1):
        hilum = np.array([side * 34.0, 8.0, 106.0])
        points = sample_points_in_lung(thorax, rng, vessels_per_lung, side, depth=2.5)
        trees.append(vessel_tree(hilum, points, tip=0.62, rng=rng))
    return replace(thorax, vessels=Rods.join(trees))
