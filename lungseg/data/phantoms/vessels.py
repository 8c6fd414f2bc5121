"""Trees of lung vessels that branch, taper and fill the lung, as many short rods in 3-D.

A tree grows from the hilum. Points scattered through the lung join it one by one, each at the node that costs
least: the wire to it, plus a share of the path from there to the root (Cuntz et al. 2010, figure 2; here the
points come nearest to the root first). The radius follows from what hangs below: r^2.7 of a parent is the sum
over its children (the exponent is 3 in Murray's law, Murray 1926; our choice of 2.7 makes stems thicker).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from lungseg.data.phantoms.raster import Rods

PIECES = 4  # rods per edge of the tree


def grow_tree(root: NDArray, points: NDArray, *, balance: float = 0.6) -> NDArray[np.int64]:
    """Parent of each node (n + 1,): node 0 is `root` (3,), then `points` (n, 3), sorted by distance to it."""
    nodes = np.vstack([root, points])
    parent = np.zeros(len(nodes), np.int64)
    path = np.zeros(len(nodes))  # mm from the root, along the tree
    wire = cdist(nodes, nodes)  # (n + 1, n + 1), all at once: a call for each node would take most of the time
    for i in range(1, len(nodes)):
        parent[i] = (wire[i, :i] + balance * path[:i]).argmin()
        path[i] = path[parent[i]] + wire[i, parent[i]]
    return parent


def branch_radii(parent: NDArray, *, tip: float, exponent: float = 2.7) -> NDArray:
    """Radius of the edge above each node in mm: `tip` at the leaves, Murray's law above."""
    flow = np.zeros(len(parent))
    for i in range(len(parent) - 1, 0, -1):  # children have larger numbers than parents
        flow[i] = max(flow[i], tip**exponent)
        flow[parent[i]] += flow[i]
    return flow ** (1 / exponent)


def vessel_tree(root: NDArray, points: NDArray, *, tip: float, rng: np.random.Generator) -> Rods:
    """Rods of one tree from `root` (3,) through all `points` (n, 3); each edge is a gentle curve."""
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
    top = np.minimum(radius[parent[1:]], 1.3 * radius[1:])
    r = top + np.linspace(0, 1, PIECES + 1)[:, None] * (end - top)  # (P + 1, n)
    return Rods(curve[:-1].reshape(-1, 3), curve[1:].reshape(-1, 3), r[:-1].ravel(), r[1:].ravel())
