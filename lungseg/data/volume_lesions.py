"""The lesions of a volume, as lists of their voxels: what crops are placed on."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungseg.data.classes import one_hot
from lungseg.data.slice_spacing import SliceGrid

MAX_VOXELS = 2000  # kept of each lesion: enough positions for crops, and 24 kB however large the lesion is


def lesions_by_class(target: NDArray, num_classes: int, grid: SliceGrid) -> list[list[NDArray[np.int32]]]:
    """For each class in a target (D, H, W) the voxels of its lesions (`find_lesions`), in slices of the grid."""
    corner = np.zeros(3, np.int32)
    if grid.depth != grid.slices and target.any():  # the fractions need more memory: only where there are lesions
        rows, cols = (np.flatnonzero(target.any(axis=(0, axis))) for axis in (2, 1))
        corner[1:] = rows[0], cols[0]
        whole = slice(0, grid.depth)
        cut = target[grid.needed(whole), rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        maps = list(grid.target(one_hot(cut, num_classes), whole))  # K of (depth, h, w)
    else:
        maps = [target == k + 1 for k in range(num_classes)] if num_classes > 1 else [target]
    return [[lesion + corner for lesion in lesions] for lesions in map(find_lesions, maps) if lesions]


def find_lesions(target: NDArray) -> list[NDArray[np.int32]]:
    """(n, 3) voxels of each lesion (connected also at corners); of large lesions every k-th voxel."""
    voxels = np.argwhere(target)  # (n, 3)
    if not len(voxels):
        return []
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    cut = target[tuple(map(slice, low, high))]  # labels need four bytes per voxel: only where there are lesions
    labels, _ = ndimage.label(cut, structure=np.ones((3, 3, 3)))
    component = labels[tuple((voxels - low).T)]  # (n,), 1 .. count
    order = np.argsort(component, kind="stable")
    lesions = np.split(voxels[order].astype(np.int32), np.cumsum(np.bincount(component)[1:-1]))
    return [lesion[:: -(-len(lesion) // MAX_VOXELS)] for lesion in lesions]
