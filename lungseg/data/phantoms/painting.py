"""Paint a slice of the synthetic chest in HU, one tissue over another, from back to front."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from lungseg.data.phantoms.anatomy import AIRWAYS, GREAT_VESSELS, Point, Thorax, gauss
from lungseg.data.phantoms.raster import (
    Grid,
    capsule_distance,
    coverage,
    ellipse_distance,
    ellipsoid_distance,
    paint,
    rods_coverage,
)

AIR, FAT, MUSCLE, CORTEX, MARROW, CARTILAGE = -1000.0, -108.0, 52.0, 620.0, 190.0, 105.0  # HU


def paint_thorax(thorax: Thorax, grid: Grid, z: float) -> NDArray[np.float32]:
    """Paint the slice at height z mm, sharp and without noise: (H, W) in HU."""
    z = cast(float, np.float32(z))  # float32 like the grid: a float64 scalar would turn every (H, W) array into float64
    image = np.full(grid.shape, AIR, np.float32)
    cavity = thorax.cavity_distance(grid.x, grid.y, z)  # (H, W)
    lung_distance = np.maximum(cavity, -thorax.mediastinum_distance(grid.x, grid.y, z))
    lung = coverage(lung_distance, grid.spacing)  # (H, W)
    paint_patient_table(image, grid, thorax)
    paint_chest_wall(image, grid, thorax, z, cavity)
    paint_abdomen(image, grid, thorax, z, cavity)
    paint(image, lung, thorax.lung_hu(grid.x, grid.y, z))
    paint_fissures(image, grid, thorax, z, lung)
    paint_vessels_and_airways(image, grid, thorax, z)
    paint_heart(image, grid, thorax, z)
    paint_ribs(image, grid, thorax, z, cavity)
    paint_skeleton(image, grid, thorax, z)
    for rods, hu in (
        (thorax.bronchi(wall=0.7), MUSCLE - 100),
        (thorax.bronchi(wall=0.0), AIR + 40),
        (thorax.vessels, thorax.blood),
    ):
        paint(image, rods_coverage(grid, z, rods), hu)
    return image


def paint_patient_table(image: NDArray, grid: Grid, thorax: Thorax) -> None:
    """Paint the top of the patient table: a shell under a thin pad."""
    surface = thorax.half_depth + 0.65 * thorax.wall + 14 - grid.x**2 / 1500  # (1, W)
    for depth, thick, hu in ((0.0, 1.0, -650.0), (9.0, 3.0, -250.0)):
        d = np.abs(grid.y - surface - depth) - thick / 2
        paint(image, coverage(d, grid.spacing), hu)


def paint_chest_wall(image: NDArray, grid: Grid, thorax: Thorax, z: float, cavity: NDArray) -> None:
    """Paint skin, fat and the muscles around the rib cage."""
    x, y = thorax.bend(grid.x, grid.y, z)
    body = thorax.body_distance(grid.x, grid.y, z)
    paint(image, coverage(body, grid.spacing), 10.0)
    paint(image, coverage(body + 2, grid.spacing), FAT)
    turn = np.arctan2(np.abs(x), y) / np.pi  # 0 at the back, 1 at the front
    upper = gauss(z - 40, 90)
    thick = 10 + 14 * gauss(turn, 0.15) + 13 * gauss(turn - 0.3, 0.13)  # next to the spine, under the arm
    thick += 16 * upper * gauss(turn - 0.75, 0.12)  # pectoral muscles
    muscle = np.maximum(cavity - thick, body + 6)
    paint(image, coverage(muscle, grid.spacing), MUSCLE)
    if z < 130:  # the muscles around the shoulder blades
        for side in (-1, 1):
            lateral, medial = thorax.shoulder_blade(side, z)
            paint_tube(image, grid, z, lateral, medial, 12.0, MUSCLE)
    streak = np.abs(cavity - 11.5 - 2 * np.sin(9 * turn)) - 0.9  # fat between layers of muscle
    paint(image, coverage(np.maximum(streak, muscle), grid.spacing), FAT)


def paint_abdomen(image: NDArray, grid: Grid, thorax: Thorax, z: float, cavity: NDArray) -> None:
    """Paint fat, the liver under the right dome of the diaphragm, and soft tissue under the left one."""
    paint(image, coverage(cavity, grid.spacing), FAT + 20)
    x, y = thorax.bend(grid.x, grid.y, z)
    for side, hu in ((-1, 62.0), (1, 45.0)):
        paint(image, coverage(thorax.diaphragm_distance(x, y, z, side) + 1, grid.spacing), hu)


def paint_fissures(image: NDArray, grid: Grid, thorax: Thorax, z: float, lung: NDArray) -> None:
    """Paint the oblique fissure of each lung: two layers of pleura, thinner than a pixel."""
    for side, (at, slope) in zip((-1, 1), thorax.fissures, strict=True):
        sheet = grid.y - at + slope * (z - 100) + 0.002 * (np.abs(grid.x) - 60) ** 2
        near = np.clip(1 - np.abs(sheet) / (grid.spacing * float(np.hypot(1, slope))), 0, 1)
        fraction = min(1.0, 0.4 / grid.spacing)  # 0.4 mm thick, however coarse the pixels
        paint(image, near * fraction * lung * (side * grid.x > 0), -350.0)


def paint_vessels_and_airways(image: NDArray, grid: Grid, thorax: Thorax, z: float) -> None:
    """Paint the great vessels, the oesophagus, the trachea and the main bronchi."""
    for wall, hu in ((1.0, MUSCLE), (0.0, thorax.blood)):
        for start, stop, radius in GREAT_VESSELS:
            paint_tube(image, grid, z, start, stop, radius + wall, hu)
    paint_tube(image, grid, z, (5, 30, -60), (8, 34, 300), 7.0, MUSCLE - 15)  # oesophagus
    for wall, hu in ((1.6, MUSCLE - 20), (0.0, AIR + 15)):
        for start, stop, radius in AIRWAYS:
            paint_tube(image, grid, z, start, stop, radius + wall, hu)


def paint_heart(image: NDArray, grid: Grid, thorax: Thorax, z: float) -> None:
    """Paint muscle around four chambers, in a thin coat of fat."""
    x, y = thorax.bend(grid.x, grid.y, z)
    outside = ellipsoid_distance(x, y, z, *thorax.heart)
    paint(image, coverage(outside, grid.spacing), FAT + 20)
    paint(image, coverage(outside + 4, grid.spacing), MUSCLE + 20)
    soft_edge = max(grid.spacing, 6.0)  # motion blurs the beating heart
    for centre, half in heart_chambers(thorax):
        paint(image, coverage(ellipsoid_distance(x, y, z, centre, half), soft_edge), thorax.blood)


def heart_chambers(thorax: Thorax) -> list[tuple[Point, Point]]:
    """The four chambers as ellipsoids in the unbent body: centre and half axes."""
    (x, y, z), (a, b, c) = thorax.heart
    places = ((-0.35, -0.1, 0.42), (0.1, -0.42, 0.4), (0.36, 0.12, 0.36), (-0.05, 0.5, 0.34))
    return [((x + dx * a, y + dy * b, z), (size * a, size * b, 0.8 * c)) for dx, dy, size in places]


def paint_ribs(image: NDArray, grid: Grid, thorax: Thorax, z: float, cavity: NDArray) -> None:
    """Paint the ribs: bands on the rib cage that descend from back to front, so a slice cuts several obliquely."""
    turn = np.arctan2(np.abs(grid.x), grid.y) / np.pi  # 0 at the back, 1 at the front
    u = (z - thorax.rib_phase - thorax.rib_drop * turn) / thorax.rib_pitch
    slope = thorax.rib_drop / (2.6 * thorax.half_width)  # how steeply a rib descends along the wall
    along = (u - np.rint(u)) * thorax.rib_pitch / slope  # mm along the wall from the middle of the cut rib
    rib = ellipse_distance(along, cavity, (0.0, 6.0), (5.5 / slope, 3.9), 2.5)
    rib = np.maximum(rib, (turn - 0.92) * 2.6 * thorax.half_width)  # they end at the sternum
    soft = np.clip((turn - 0.76) * 25, 0, 1)  # at the front the ribs are cartilage
    paint(image, coverage(rib, grid.spacing), CORTEX + soft * (CARTILAGE - CORTEX))
    paint(image, coverage(rib + 1.3, grid.spacing), MARROW + soft * (CARTILAGE - MARROW))


def paint_skeleton(image: NDArray, grid: Grid, thorax: Thorax, z: float) -> None:
    """Paint a vertebra with its processes, the sternum and the shoulder blades."""
    back = 0.72 * thorax.half_depth
    front = thorax.cavity_half_axes(z)[1]
    disc = 0.5 + 0.5 * np.sin(2 * np.pi * z / 24)  # vertebrae alternate with discs
    paint_bone(image, grid, (0.0, back), (18.0, 14.5), 2.2, shell=1.2, marrow=MARROW * (0.6 + 0.4 * disc))
    paint_bone(image, grid, (0.0, back + 27), (15.0, 6.0), 2.0, shell=2.5, marrow=MARROW)
    for side in (-1, 1):  # transverse processes
        paint_tube(image, grid, z, (side * 10, back + 22, z), (side * 32, back + 30, z), 4.5, CORTEX - 250)
    paint_tube(image, grid, z, (0, back + 30, z), (0, back + 46, z), 3.0, CORTEX - 200)
    paint_bone(image, grid, (0.0, back + 20), (9.0, 7.5), 2.0, shell=0.0, marrow=30.0)  # spinal canal
    paint_bone(image, grid, (0.0, -front - 7), (20.0, 5.5), 3.0, shell=1.3, marrow=MARROW - 60)  # sternum
    if z < 110:
        for side in (-1, 1):
            lateral, medial = thorax.shoulder_blade(side, z)
            paint_tube(image, grid, z, lateral, medial, 3.6, CORTEX - 50)
            paint_tube(image, grid, z, lateral, medial, 2.2, MARROW)


def paint_tube(image: NDArray, grid: Grid, z: float, start: Point, stop: Point, radius: float, hu: float) -> None:
    """Paint the section of a rod from `start` to `stop` at height z."""
    a, b = np.array(start, np.float32), np.array(stop, np.float32)
    if not min(a[2], b[2]) - radius < z < max(a[2], b[2]) + radius:
        return
    box = grid.box(np.minimum(a, b) - radius, np.maximum(a, b) + radius)
    d = capsule_distance(grid.x[:, box[1]], grid.y[box[0]], np.float32(z), a, b, (radius, radius))
    paint(image[box], coverage(d, grid.spacing), hu)


def paint_bone(
    image: NDArray,
    grid: Grid,
    centre: tuple[float, float],
    half: tuple[float, float],
    power: float,
    *,
    shell: float,
    marrow: float,
) -> None:
    """Paint a super-ellipse of marrow, with half axes `half`, in a shell of cortical bone `shell` mm thick."""
    rows, columns = grid.box(np.subtract(centre, half), np.add(centre, half))
    d = ellipse_distance(grid.x[:, columns], grid.y[rows], centre, half, power)
    if shell:
        paint(image[rows, columns], coverage(d, grid.spacing), CORTEX - 100)
    paint(image[rows, columns], coverage(d + shell, grid.spacing), marrow)
