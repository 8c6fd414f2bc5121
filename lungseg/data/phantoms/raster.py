"""From shapes in millimetres to pixels in HU: grids, partial coverage, and noise like that of a CT scanner.

A shape is given by its signed distance function, in mm and negative inside. A slice is painted shape by shape, from
back to front: each pixel takes on the new HU in proportion to how much of it the shape covers (partial volume).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft


@dataclass(frozen=True)
class Grid:
    """The pixel centres of one slice: `x` increases to the right of the picture, `y` downwards, both in mm."""

    shape: tuple[int, int]  # (H, W) in pixels
    spacing: float  # mm from one pixel centre to the next, along both axes
    centre: tuple[float, float] = (0.0, 0.0)  # (x, y) of the centre of the picture, in mm

    @property
    def corner(self) -> tuple[float, float]:
        """(x, y) of the centre of the top-left pixel, in mm."""
        x, y = (c - self.spacing * (n - 1) / 2 for c, n in zip(self.centre, self.shape[::-1], strict=True))
        return x, y

    @property
    def x(self) -> NDArray[np.float32]:
        steps = np.arange(self.shape[1])
        return (self.corner[0] + self.spacing * steps).astype(np.float32)[None, :]  # (1, W): broadcasts with y

    @property
    def y(self) -> NDArray[np.float32]:
        steps = np.arange(self.shape[0])
        return (self.corner[1] + self.spacing * steps).astype(np.float32)[:, None]  # (H, 1)

    def box(self, low: ArrayLike, high: ArrayLike) -> tuple[slice, slice]:
        """(rows, columns) of the pixels that a shape between the corners `low` and `high`, (x, y) in mm, can touch.

        Both slices may be empty.
        """
        low, high = np.asarray(low), np.asarray(high)
        slices = []
        for axis, n in enumerate(self.shape[::-1]):
            start = np.ceil((low[axis] - self.corner[axis]) / self.spacing) - 1
            stop = np.floor((high[axis] - self.corner[axis]) / self.spacing) + 2
            slices.append(slice(*(int(np.clip(edge, 0, n)) for edge in (start, stop))))
        return slices[1], slices[0]


def coverage(distance: NDArray, spacing: float) -> NDArray:
    """The fraction of a pixel that is inside the shape, 0..1, from the signed distance in mm at its centre.

    Exact for a straight edge along a row or column, and accurate to a few per cent for curved or slanted edges.
    """
    return np.clip(0.5 - distance / spacing, 0, 1)


def paint(image: NDArray, alpha: NDArray, hu: NDArray | float) -> None:
    """Blend `hu` into `image`, in place, with the weight `alpha` (0..1)."""
    image += alpha * (hu - image)


def ellipse_distance(x, y, centre: tuple, half: tuple, power: float = 2.0) -> NDArray:
    """Signed distance to |x/a|^p + |y/b|^p = 1, in mm, to first order: (g - 1) / |gradient of g|."""
    u, v = np.abs(x - centre[0]) / half[0], np.abs(y - centre[1]) / half[1]
    up, vp = u ** (power - 1), v ** (power - 1)
    s = np.maximum(u * up + v * vp, 1e-6)
    g = s ** (1 / power)
    slope = np.sqrt((up / half[0]) ** 2 + (vp / half[1]) ** 2) * g / s  # |gradient of g|
    return (g - 1) / np.maximum(slope, 1e-6)


def ellipsoid_distance(x, y, z, centre: tuple, half: tuple) -> NDArray:
    """Signed distance to an ellipsoid with half axes `half`, in mm, to first order."""
    u, v, w = ((p - c) / h for p, c, h in zip((x, y, z), centre, half, strict=True))
    g2 = np.maximum(u**2 + v**2 + w**2, 1e-6)
    slope = np.sqrt(((u / half[0]) ** 2 + (v / half[1]) ** 2 + (w / half[2]) ** 2) / g2)
    return (np.sqrt(g2) - 1) / np.maximum(slope, 1e-6)


def capsule_distance(x, y, z, start: NDArray, stop: NDArray, radii: tuple) -> NDArray:
    """Signed distance in mm to a rod from `start` to `stop` (..., 3), whose radius changes linearly along it."""
    axis = stop - start
    dx, dy, dz = x - start[..., 0], y - start[..., 1], z - start[..., 2]
    length2 = np.maximum((axis**2).sum(-1), 1e-6)
    t = np.clip((dx * axis[..., 0] + dy * axis[..., 1] + dz * axis[..., 2]) / length2, 0, 1)
    dx, dy, dz = dx - t * axis[..., 0], dy - t * axis[..., 1], dz - t * axis[..., 2]
    return np.sqrt(dx**2 + dy**2 + dz**2) - (radii[0] + t * (radii[1] - radii[0]))


@dataclass(frozen=True, eq=False)
class Rods:
    """n rods: start and stop (n, 3) in mm, radius at each end (n,) in mm."""

    start: NDArray
    stop: NDArray
    r0: NDArray
    r1: NDArray

    @staticmethod
    def join(parts: "list[Rods]") -> "Rods":
        """Concatenate several sets of rods."""
        columns = ([getattr(part, name) for part in parts] for name in ("start", "stop", "r0", "r1"))
        return Rods(*(np.concatenate(column) for column in columns))


def rods_coverage(grid: Grid, z: float, rods: Rods) -> NDArray:
    """(H, W) coverage of the slice at height z by many short rods at once.

    Each rod is evaluated only in a small square of pixels around its midpoint. All squares have the same size, so the
    rods form one array and no Python loop is needed. Keep rods short: the square must fit the longest one.
    """
    r = np.maximum(rods.r0, rods.r1)
    middle = (rods.start + rods.stop) / 2
    reach = np.abs(rods.stop - rods.start) / 2 + (r + grid.spacing)[:, None]  # (n, 3)
    half_size = np.array([grid.shape[1], grid.shape[0], 0]) / 2 * grid.spacing
    near = (np.abs(middle - (*grid.centre, z)) < half_size + reach).all(1)  # the rods that touch the picture
    H, W = grid.shape
    if not near.any():
        return np.zeros((H, W), np.float32)
    pad = int(np.ceil(reach[near, :2].max() / grid.spacing))
    nearest = np.rint((middle[near, :2] - grid.corner) / grid.spacing).astype(int)  # (n, 2) column, row
    offset = np.arange(-pad, pad + 1)
    columns = np.clip(nearest[:, :1] + offset, -1, W)  # (n, K): -1 and W are a margin that the last line cuts off
    rows = np.clip(nearest[:, 1:] + offset, -1, H)  # (n, K)
    x = (grid.corner[0] + columns * grid.spacing).astype(np.float32)[:, None, :]  # (n, 1, K)
    y = (grid.corner[1] + rows * grid.spacing).astype(np.float32)[:, :, None]  # (n, K, 1)
    start, stop = (p[near].astype(np.float32)[:, None, None, :] for p in (rods.start, rods.stop))  # (n, 1, 1, 3)
    radii = tuple(p[near].astype(np.float32)[:, None, None] for p in (rods.r0, rods.r1))  # (n, 1, 1) each
    alpha = coverage(capsule_distance(x, y, np.float32(z), start, stop, radii), grid.spacing)  # (n, K, K)
    image = np.zeros((H + 2, W + 2), np.float32)
    np.maximum.at(image, (rows[:, :, None] + 1, columns[:, None, :] + 1), alpha)
    return image[1:-1, 1:-1]


def reconstruction_noise(
    shape: tuple[int, int], spacing: float, *, hu: float, peak: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(H, W) noise with the ring-shaped spectrum of filtered back projection: power ~ f exp(-2 f^2 / f0^2).

    The ramp filter suppresses low frequencies (power ~ f: Riederer et al. 1978; Kijewski and Judy 1987), a smoothing
    kernel high ones. The power is highest at `peak` = f0 / 2, in cycles per mm. `hu` is the standard deviation for
    very small pixels: a coarse grid cannot show frequencies above its Nyquist limit, so its noise is weaker.
    """
    rows, cols = (fft.next_fast_len(n, real=True) for n in shape)
    white = fft.rfft2(rng.standard_normal((rows, cols), dtype=np.float32))
    f = np.hypot(fft.fftfreq(rows, spacing)[:, None], fft.rfftfreq(cols, spacing)[None, :])  # (rows, cols / 2)
    f0 = 2 * peak
    # The integral of f exp(-2 f^2 / f0^2) over the plane; that of white noise of variance 1 is (1 / spacing)^2.
    integral = np.pi**1.5 * f0**3 / (4 * np.sqrt(2))
    spectrum = hu / spacing * np.sqrt(f / integral) * np.exp(-((f / f0) ** 2))
    return fft.irfft2(white * spectrum.astype(np.float32), s=(rows, cols))[: shape[0], : shape[1]]
