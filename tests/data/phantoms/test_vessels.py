"""A vessel tree is one connected tree that tapers and obeys Murray's law."""

import numpy as np
from hypothesis import given, strategies as st

from lungseg.data.phantoms.vessels import PIECES, branch_radii, grow_tree, vessel_tree

seeds, sizes = st.integers(0, 10_000), st.integers(1, 60)


def sorted_points(seed, n):
    points = np.random.default_rng(seed).uniform(-50, 50, (n, 3))
    return points[np.argsort((points**2).sum(1))]


@given(seed=seeds, n=sizes)
def test_every_node_joins_an_earlier_one(seed, n):
    parent = grow_tree(np.zeros(3), sorted_points(seed, n))
    assert (parent[1:] < np.arange(1, n + 1)).all()


@given(seed=seeds, n=sizes)
def test_each_point_joins_where_wire_plus_path_is_cheapest(seed, n):
    points = sorted_points(seed, n)
    parent = grow_tree(np.zeros(3), points, balance=0.5)
    nodes = [np.zeros(3), *points]

    def path(i):
        return 0.0 if i == 0 else np.linalg.norm(nodes[i] - nodes[parent[i]]) + path(parent[i])

    for i in range(1, n + 1):
        cost = [np.linalg.norm(nodes[i] - nodes[j]) + 0.5 * path(j) for j in range(i)]
        assert cost[parent[i]] <= min(cost) + 1e-9


@given(seed=seeds, n=sizes)
def test_radii_obey_murrays_law(seed, n):
    parent = grow_tree(np.zeros(3), sorted_points(seed, n))
    radius = branch_radii(parent, tip=0.5, exponent=2.7)
    for i in range(n + 1):
        children = np.flatnonzero(parent[1:] == i) + 1
        expected = (radius[children] ** 2.7).sum() if len(children) else 0.5**2.7
        np.testing.assert_allclose(radius[i] ** 2.7, expected)


@given(seed=seeds, n=sizes)
def test_the_rods_join_end_to_end_and_reach_every_point(seed, n):
    points = sorted_points(seed, n)
    tree = vessel_tree(np.zeros(3), points, tip=0.5, rng=np.random.default_rng(seed))
    assert tree.start.shape == tree.stop.shape == (PIECES * n, 3)
    ends = {tuple(p) for p in np.round(tree.stop, 9)} | {(0.0, 0.0, 0.0)}
    assert {tuple(p + 0.0) for p in np.round(tree.start, 9)} <= ends  # each rod begins where another ended
    assert {tuple(p) for p in np.round(points, 9)} <= ends


@given(seed=seeds, n=sizes)
def test_vessels_taper_from_the_root_to_the_tips(seed, n):
    tree = vessel_tree(np.zeros(3), sorted_points(seed, n), tip=0.5, rng=np.random.default_rng(seed))
    assert (tree.r1 <= tree.r0 + 1e-9).all()
    assert tree.r1.min() == 0.25 and tree.r0.max() <= (n * 0.5**2.7) ** (1 / 2.7) + 1e-9


def test_the_order_of_the_points_does_not_matter():
    points = sorted_points(3, 30)
    one, other = (vessel_tree(np.zeros(3), p, tip=0.5, rng=np.random.default_rng(0)) for p in (points, points[::-1]))
    np.testing.assert_array_equal(one.stop, other.stop)
