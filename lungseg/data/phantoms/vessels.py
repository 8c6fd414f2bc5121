"""Trees of lung vessels that branch, taper and fill the lung, built from many short rods in 3-D.

A tree grows from the hilum. Points scattered through the lung join it one by one, in order of their distance to the
root. Each joins at the node with the lowest cost: the length of the new edge plus a fraction of the path from that
node to the root (Cuntz et al. 2010, figure 2). Radii follow from the branches downstream: r^2.7 of a parent is the
sum of r^2.7 of its children (Murray's law, Murray 1926, has the exponent 3; our 2.7 makes stems thicker).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from lungseg.data.phantoms.raster import Rods

PIECES = 4  # rods per edge of the tree


def grow_tree(root: NDArray, points: NDArray, *, balance: float = 0.6) -> NDArray[np.int64]:
    """Find the parent of each node, (n + 1,).

    Node 0 is `root` (3,); the others are `points` (n, 3), which must be sorted by their distance to it.
    """
    nodes = np.vstack([root, points])
    parent = np.zeros(len(nodes), np.int64)
    path = np.zeros(len(nodes))  # mm from the root, along the tree
    wire = cdist(nodes, nodes)  # (n + 1, n + 1), mm; one call for all pairs, because a call per node is slow
    for i in range(1, len(nodes)):
        parent[i] = (wire[i, :i] + balance * path[:i]).argmin()
        path[i] = path[parent[i]] + wire[i, parent[i]]
    return parent


def branch_radii(parent: NDArray, *, tip: float, exponent: float = 2.7) -> NDArray:
    """Radius in mm of the edge that leads to each node: `tip` at the leaves, Murray's law everywhere else."""
    flow = np.zeros(len(parent))
    for i in range(len(parent) - 1, 0, -1):  # children have higher numbers than their parents
        flow[i] = max(flow[i], tip**exponent)
        flow[parent[i]] += flow[i]
    return flow ** (1 / exponent)


def vessel_tree(root: NDArray, points: NDArray, *, tip: float, rng: np.random.Generator) -> Rods:
    """Build the rods of one tree that starts at `root` (3,) and reaches all `points` (n, 3) along gentle curves."""
    points = points[np.argsort(((points - root) ** 2).sum(1))]
    parent = grow_tree(root, points)
    radius = branch_radii(parent, tip=tip)
    nodes = np.vstack([root, points])
    a, b = nodes[parent[1:]], nodes[1:]  # (n, 3)
    length = np.linalg.norm(b - a, axis=1, keepdims=True)
    bend = a + (b - a) / 2 + rng.normal(0, 0.07, a.shape) * length  # (n, 3)
    t = np.linspace(0, 1, PIECES + 1)[:, None, None]  # (P + 1, 1, 1)
    curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b  # (P + 1, n, 3), quadratic Bezier
    is_tip = ~np.isin(np.arange(1, len(nodes)), parent)
    end = np.where(is_tip, 0.5, 1.0) * radius[1:]
    begin = np.minimum(radius[parent[1:]], 1.3 * radius[1:])
    r = begin + np.linspace(0, 1, PIECES + 1)[:, None] * (end - begin)  # (P + 1, n)
    return Rods(curve[:-1].reshape(-1, 3), curve[1:].reshape(-1, 3), r[:-1].ravel(), r[1:].ravel())
