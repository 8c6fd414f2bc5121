"""Where the voxels of an array lie in the patient: every scan on one set of axes, and the answer back on its own.

A grid is the shape of an array and a 4 x 4 matrix, its affine, that maps the index of a voxel to mm in the patient:

    (x, y, z, 1) = affine @ (i, j, k, 1)       for array[i, j, k]

x runs to the patient's left, y to the back, z to the head: LPS, the axes of DICOM. The axes of all our volumes are
(slices, rows, columns), from feet to head, from front to back and from right to left: z, y, x.
"""

from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

MAX_DEGREES = 2.0  # between an axis of an array and its axis of the body: 2 degrees shear a ball by 3.5 %
MAX_OFFSET, MAX_ROUNDING_MM = (
    0.2,
    0.1,
)  # a slice may lie so far off its place: a share of the step, or what one decimal costs
MAX_MISMATCH = 0.1  # of a voxel

# ---- grids -------------------------------------------------------------------------------------------------------


def make_affine(origin: ArrayLike, steps: ArrayLike) -> NDArray[np.float64]:
    """The affine of a grid.

    Args:
        origin: (3,) LPS in mm, the centre of array[0, 0, 0].
        steps: (3, 3) LPS in mm, from a voxel to the next along the first, the second and the third axis of the array.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(np.asarray(steps, np.float64))
    affine[:3, 3] = origin
    return affine


def ras_to_lps(affine: ArrayLike) -> NDArray[np.float64]:
    """The affine of a NIfTI file for x to the left and y to the back: NIfTI has them to the right and to the front."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)


def voxel_spacing(affine: NDArray) -> tuple[float, float, float]:
    """mm between two neighbouring voxels along each axis of the array."""
    return tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())


def even_step(positions: ArrayLike) -> NDArray[np.float64]:
    """(3,) mm from one slice to the next.

    Args:
        positions: (D, 3) mm, the first voxel of each slice in their order, D at least 2.

    Raises:
        ValueError: for a slice that is missing or there twice, and for distances that change.
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
            f"slices {worst + 1} and {worst + 2} of {len(positions)} lie at the same place. Two scans are mixed, or a "
            f"slice is there twice: choose one of them."
        )
    worst = int(np.abs(distances - usual).argmax())
    raise ValueError(
        f"expected slices at equal distances, got {distances.min():.2f} to {distances.max():.2f} mm (usually "
        f"{usual:.2f} mm, but {distances[worst]:.2f} mm between slices {worst + 1} and {worst + 2} of "
        f"{len(positions)}). A slice is missing, or two scans are mixed: export the series again."
    )


def check_same_grid(shape: tuple[int, ...], affine: NDArray, other_shape: tuple[int, ...], other: NDArray) -> None:
    """A ValueError unless two arrays, such as a scan and its labels, have each voxel at one place."""
    if tuple(shape) != tuple(other_shape):
        raise ValueError(f"the scan has shape {shape}, but its labels have {other_shape}. Export both on one grid.")
    apart = float(np.linalg.norm(corner_positions(shape, affine) - corner_positions(shape, other), axis=1).max())
    if not apart <= MAX_MISMATCH * min(voxel_spacing(affine)):
        raise ValueError(f"the labels lie up to {apart:.2f} mm beside the scan. Export both on one grid.")


def corner_positions(shape: tuple[int, ...], affine: NDArray) -> NDArray[np.float64]:
    """(8, 3) mm: the centres of the voxels in the corners."""
    index = np.array([[*i, 1] for i in product(*[(0, n - 1) for n in shape])])
    return (index @ affine.T)[:, :3]


# ---- turning: no voxel changes -----------------------------------------------------------------------------------


def orient(array: NDArray, affine: NDArray, *, max_degrees: float = MAX_DEGREES) -> tuple[NDArray, NDArray[np.float64]]:
    """Exchange and reverse axes until they are ours: slices to the head, rows to the back, columns to the left.

    Args:
        array: (I, J, K), in whatever order.
        affine: (4, 4), of the array.
        max_degrees: what an axis of the array may deviate from its axis of the body.

    Returns:
        (D, H, W), a view of the array, and its affine.

    Raises:
        ValueError: for a grid that is none, and for one that lies obliquely or has oblique slices (a tilted gantry).
    """
    check_grid(np.shape(array), affine)
    axes, reverse, degrees = match_axes(affine)
    if degrees > max_degrees:
        raise ValueError(
            f"the scan lies {degrees:.1f} degrees off the axes of the body (a tilted gantry, or a grid that was "
            f"turned), expected at most {max_degrees:g}. Use resample_upright instead of orient."
        )
    signs = np.where(reverse, -1, 1)
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, axes] * signs
    last = [n - 1 if r else 0 for n, r in zip(np.array(np.shape(array))[axes], reverse, strict=True)]
    turned[:3, 3] = affine[:3, 3] + affine[:3, axes] @ last  # the old voxel that is now the first one
    return np.transpose(array, axes)[tuple(slice(None, None, s) for s in signs)], turned


def restore(array: NDArray, shape: tuple[int, int, int], affine: NDArray) -> NDArray:
    """Undo `orient`: a map of ours (D, H, W) as an array of the scan's own `shape`, for the scan's own `affine`.

    Raises:
        ValueError: if it was not made of a scan of that shape.
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
    """(axes, reverse, degrees): our axis n is axis axes[n] of the array, backwards if reverse[n].

    degrees is the largest angle between such an axis and the axis of the body that it stands for.
    """
    cosines = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))[::-1]  # (ours: z, y, x; the array's)
    axes = max(permutations(range(3)), key=lambda order: np.abs(cosines[range(3), order]).sum())
    chosen = cosines[range(3), axes]  # (3,)
    degrees = float(np.degrees(np.arccos(np.clip(np.abs(chosen), 0, 1).min())))
    return list(axes), (chosen < 0).tolist(), degrees


def check_grid(shape: tuple[int, ...], affine: NDArray) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"expected a volume with three axes, got shape {tuple(shape)}. Of several volumes choose one: [..., 0]."
        )
    if np.shape(affine) != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"no place in the patient follows from the affine {np.array2string(np.asarray(affine))}.")


# ---- resampling: for oblique grids -------------------------------------------------------------------------------


def resample_upright(array: NDArray, affine: NDArray, *, fill: float = -1000) -> tuple[NDArray, NDArray[np.float64]]:
    """The scan on upright axes in our order, by linear interpolation; for scans that `orient` refuses.

    Args:
        array: (I, J, K), affine: (4, 4), as for `orient`.
        fill: what lies where no voxel was: air.

    Returns:
        (D, H, W), large enough for the whole scan, and its affine.
    """
    check_grid(np.shape(array), affine)
    shape, upright = upright_grid(np.shape(array), affine)
    return resample_onto(array, affine, shape, upright, order=1, fill=fill), upright


def upright_grid(shape: tuple[int, int, int], affine: NDArray) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """(shape, affine) of the smallest grid along the body's axes that holds a scan, with about its spacing."""
    ends = corner_positions(shape, affine)
    low, high = ends.min(axis=0)[::-1], ends.max(axis=0)[::-1]  # z, y, x
    axes, *_ = match_axes(affine)
    spacing = np.abs(affine[[2, 1, 0], axes])  # of the scan's steps, the part along the axis
    counts = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    return tuple(counts.tolist()), make_affine(low[::-1], np.diag(spacing)[:, ::-1])


def resample_onto(
    array: NDArray, affine: NDArray, shape: tuple[int, int, int], new_affine: NDArray, *, order: int, fill: float = 0
) -> NDArray:
    """The array's values at the voxels of another grid, in its own dtype.

    Args:
        order: 0 takes the nearest voxel (for labels), 1 interpolates linearly (for HU).
        fill: outside of the array.
    """
    back = np.linalg.inv(affine) @ new_affine  # index there -> index here
    return ndimage.affine_transform(
        array, back[:3, :3], back[:3, 3], tuple(shape), order=order, mode="grid-constant", cval=fill
    )
