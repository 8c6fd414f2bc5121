"""The position of voxels in the patient: turn every scan to the same axes, and a prediction back to the scan's own.

A grid is the shape of an array together with its affine, a 4 x 4 matrix that maps a voxel index to mm in the patient:

    (x, y, z, 1) = affine @ (i, j, k, 1)       for array[i, j, k]

x points to the patient's left, y to the back, z to the head: LPS, the axes of DICOM. The axes of all our volumes are
(slices, rows, columns), from feet to head, from front to back and from right to left: z, y, x.
"""

from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

MAX_DEGREES = 2.0  # between an axis of an array and its body axis: 2 degrees of shear distort a ball by 3.5 %
MAX_OFFSET = 0.2  # how far a slice may be from its expected position, as a fraction of the step ...
MAX_ROUNDING_MM = 0.1  # ... or in mm: positions written with one decimal may be off by this much
MAX_MISMATCH = 0.1  # how far labels may be from their scan, in voxels

# ---- grids -------------------------------------------------------------------------------------------------------


def make_affine(origin: ArrayLike, steps: ArrayLike) -> NDArray[np.float64]:
    """The affine of a grid.

    Args:
        origin: (3,) LPS in mm, the centre of array[0, 0, 0].
        steps: (3, 3) LPS in mm; row n is the step from one voxel to the next along axis n of the array.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(np.asarray(steps, np.float64))
    affine[:3, 3] = origin
    return affine


def ras_to_lps(affine: ArrayLike) -> NDArray[np.float64]:
    """Convert the affine of a NIfTI file, where x points to the right and y to the front, to LPS."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)


def voxel_spacing(affine: NDArray) -> tuple[float, float, float]:
    """The distance in mm between neighbouring voxels along each axis of the array."""
    return tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())


def even_step(positions: ArrayLike) -> NDArray[np.float64]:
    """The step (3,) in mm from one slice to the next, if all steps are equal.

    Args:
        positions: (D, 3) mm, the first voxel of each slice, sorted; D at least 2.

    Raises:
        ValueError: for a missing or duplicated slice, and for distances that vary.
    """
    positions = np.asarray(positions, np.float64)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)  # (D - 1,)
    usual = float(np.median(distances))
    off = np.linalg.norm(positions[0] + np.arange(len(positions))[:, None] * step - positions, axis=1)
    if usual > 0 and off.max() <= max(MAX_OFFSET * usual, MAX_ROUNDING_MM + 1e-6):
        return step
    worst = int(distances.argmin())
    if distances[worst] <= MAX_OFFSET * distances.max():
        raise ValueError(
            f"slices {worst + 1} and {worst + 2} of {len(positions)} are at the same position. Two scans are mixed, or "
            f"a slice is duplicated: keep only one."
        )
    worst = int(np.abs(distances - usual).argmax())
    raise ValueError(
        f"expected slices at equal distances, got {distances.min():.2f} to {distances.max():.2f} mm (usually "
        f"{usual:.2f} mm, but {distances[worst]:.2f} mm between slices {worst + 1} and {worst + 2} of "
        f"{len(positions)}). A slice is missing, or two scans are mixed: export the series again."
    )


def check_same_grid(shape: tuple[int, ...], affine: NDArray, other_shape: tuple[int, ...], other: NDArray) -> None:
    """Raise a ValueError unless the grids of a scan and its labels are the same."""
    if tuple(shape) != tuple(other_shape):
        raise ValueError(f"the scan has shape {shape}, but its labels have {other_shape}. Export both on one grid.")
    apart = float(np.linalg.norm(corner_positions(shape, affine) - corner_positions(shape, other), axis=1).max())
    if not apart <= MAX_MISMATCH * min(voxel_spacing(affine)):
        raise ValueError(f"the labels are up to {apart:.2f} mm away from the scan. Export both on one grid.")


def corner_positions(shape: tuple[int, ...], affine: NDArray) -> NDArray[np.float64]:
    """The centres (8, 3) in mm of the voxels in the eight corners."""
    index = np.array([[*i, 1] for i in product(*[(0, n - 1) for n in shape])])
    return (index @ affine.T)[:, :3]


# ---- turning: no voxel changes its value --------------------------------------------------------------------------


def orient(array: NDArray, affine: NDArray, *, max_degrees: float = MAX_DEGREES) -> tuple[NDArray, NDArray[np.float64]]:
    """Permute and reverse axes until they are ours: slices to the head, rows to the back, columns to the left.

    Args:
        array: (I, J, K), with its axes in any order and direction.
        affine: (4, 4), of the array.
        max_degrees: the largest allowed angle between an axis of the array and its body axis.

    Returns:
        A view (D, H, W) of the array, and the affine of that view.

    Raises:
        ValueError: for an invalid grid, and for an oblique one (a tilted gantry, or a scan that was rotated).
    """
    check_grid(np.shape(array), affine)
    axes, reverse, degrees = match_axes(affine)
    if degrees > max_degrees:
        raise ValueError(
            f"the scan is {degrees:.1f} degrees off the axes of the body (a tilted gantry, or a rotated grid), "
            f"expected at most {max_degrees:g}. Use resample_upright instead of orient."
        )
    signs = np.where(reverse, -1, 1)
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, axes] * signs
    last = [n - 1 if r else 0 for n, r in zip(np.array(np.shape(array))[axes], reverse, strict=True)]
    turned[:3, 3] = affine[:3, 3] + affine[:3, axes] @ last  # the voxel that has become the first one
    return np.transpose(array, axes)[tuple(slice(None, None, s) for s in signs)], turned


def restore(array: NDArray, shape: tuple[int, int, int], affine: NDArray) -> NDArray:
    """Undo `orient`: bring a map (D, H, W) on our axes back to the original `shape` and `affine` of the scan.

    Raises:
        ValueError: if the map does not have the shape that `orient` gives such a scan.
    """
    check_grid(shape, affine)
    axes, reverse, _ = match_axes(affine)
    expected = tuple(shape[a] for a in axes)
    if np.shape(array) != expected:
        raise ValueError(
            f"expected a map of shape {expected} for this scan, got {np.shape(array)}. Was it cropped or resampled?"
        )
    flipped = array[tuple(slice(None, None, -1 if r else 1) for r in reverse)]
    return np.ascontiguousarray(np.transpose(flipped, np.argsort(axes)))


def match_axes(affine: NDArray) -> tuple[list[int], list[bool], float]:
    """Find which axis of an array runs along which axis of the body.

    Returns:
        (axes, reverse, degrees): our axis n is axis axes[n] of the array, reversed if reverse[n]; degrees is the
        largest angle between an axis of the array and its body axis.
    """
    cosines = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))[::-1]  # (body axes z, y, x; array axes)
    axes = max(permutations(range(3)), key=lambda order: np.abs(cosines[range(3), order]).sum())
    chosen = cosines[range(3), axes]  # (3,)
    degrees = float(np.degrees(np.arccos(np.clip(np.abs(chosen), 0, 1).min())))
    return list(axes), (chosen < 0).tolist(), degrees


def check_grid(shape: tuple[int, ...], affine: NDArray) -> None:
    """Raise a ValueError unless this is the grid of a volume."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"expected a volume with three axes, got shape {tuple(shape)}. If it holds several volumes, pick one: "
            f"array[..., 0]."
        )
    if np.shape(affine) != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(
            f"expected an affine that is a finite, invertible 4 x 4 matrix, got {np.array2string(np.asarray(affine))}."
        )


# ---- resampling: for oblique grids -------------------------------------------------------------------------------


def resample_upright(array: NDArray, affine: NDArray, *, fill: float = -1000) -> tuple[NDArray, NDArray[np.float64]]:
    """Resample a scan that `orient` refuses onto upright axes in our order, by linear interpolation.

    Args:
        array, affine: (I, J, K) and (4, 4), as for `orient`.
        fill: the value outside the scan; the default is air.

    Returns:
        (D, H, W), large enough to hold the whole scan, and its affine.
    """
    check_grid(np.shape(array), affine)
    shape, upright = upright_grid(np.shape(array), affine)
    return resample_onto(array, affine, shape, upright, order=1, fill=fill), upright


def upright_grid(shape: tuple[int, int, int], affine: NDArray) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """(shape, affine) of the smallest upright grid that holds a scan, with nearly the same spacing."""
    ends = corner_positions(shape, affine)
    low, high = ends.min(axis=0)[::-1], ends.max(axis=0)[::-1]  # z, y, x
    axes, *_ = match_axes(affine)
    spacing = np.abs(affine[[2, 1, 0], axes])  # the component of each step along its body axis
    counts = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    return tuple(counts.tolist()), make_affine(low[::-1], np.diag(spacing)[:, ::-1])


def resample_onto(
    array: NDArray, affine: NDArray, shape: tuple[int, int, int], new_affine: NDArray, *, order: int, fill: float = 0
) -> NDArray:
    """Sample an array at the voxels of another grid; the dtype stays.

    Args:
        shape, new_affine: the other grid.
        order: 0 takes the nearest voxel (for labels), 1 interpolates linearly (for HU).
        fill: the value outside the array.
    """
    back = np.linalg.inv(affine) @ new_affine  # index on the other grid -> index in the array
    return ndimage.affine_transform(
        array, back[:3, :3], back[:3, 3], tuple(shape), order=order, mode="grid-constant", cval=fill
    )
