"""Every grid is turned to the same axes, and back; a grid that cannot be turned is resampled or refused."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.geometry import (
    check_same_grid,
    even_step,
    make_affine,
    orient,
    ras_to_lps,
    resample_onto,
    resample_upright,
    restore,
    upright_grid,
    voxel_spacing,
)

SHAPES = st.tuples(*[st.integers(1, 5)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 5.0)] * 3)
ORIGINS = st.tuples(*[st.floats(-300, 300)] * 3)
ORDERS = list(permutations(range(3)))
SIGNS = list(product((1, -1), repeat=3))
TURNS = st.tuples(st.sampled_from(ORDERS), st.sampled_from(SIGNS))  # all 48


def scan_on(turn, spacing, origin, shape):
    """An array with a different number in each voxel, and its affine: axis n runs along body axis turn[0][n]."""
    order, signs = turn
    steps = np.zeros((3, 3))
    for n in range(3):
        steps[n, order[n]] = signs[n] * spacing[n]
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape), make_affine(origin, steps)


def about_x(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def places(array, affine):
    """value -> (x, y, z), the position of the voxel with that value."""
    return {int(array[i]): tuple(np.round(affine @ [*i, 1], 6)[:3].tolist()) for i in np.ndindex(array.shape)}


# ---- turning -----------------------------------------------------------------------------------------------------


@given(turn=TURNS, spacing=SPACINGS, origin=ORIGINS, shape=SHAPES)
def test_each_voxel_stays_where_it_is_and_the_axes_become_ours(turn, spacing, origin, shape):
    array, affine = scan_on(turn, spacing, origin, shape)
    ours, turned = orient(array, affine)
    before, after = places(array, affine), places(ours, turned)
    assert before.keys() == after.keys()
    assert all(np.allclose(before[v], after[v], atol=1e-5) for v in before)
    directions = turned[:3, :3] / voxel_spacing(turned)
    assert np.allclose(directions, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])  # to the head, to the back, to the left


@given(turn=TURNS, spacing=SPACINGS, origin=ORIGINS, shape=SHAPES)
def test_restore_undoes_orient(turn, spacing, origin, shape):
    array, affine = scan_on(turn, spacing, origin, shape)
    ours, _ = orient(array, affine)
    back = restore(ours, array.shape, affine)
    assert np.array_equal(back, array) and back.dtype == array.dtype and back.flags.c_contiguous


@given(turn=TURNS, spacing=SPACINGS, shape=SHAPES)
def test_spacing_follows_the_axes(turn, spacing, shape):
    array, affine = scan_on(turn, spacing, (0, 0, 0), shape)
    assert voxel_spacing(affine) == pytest.approx(spacing)
    of_body_axis = dict(zip(turn[0], spacing, strict=True))
    assert voxel_spacing(orient(array, affine)[1]) == pytest.approx([of_body_axis[2], of_body_axis[1], of_body_axis[0]])


def test_nifti_places_become_those_of_dicom():
    ras = np.array([[-0.7, 0, 0, 180], [0, -0.7, 0, 90], [0, 0, 2.5, -300], [0, 0, 0, 1.0]])
    assert np.allclose(ras_to_lps(ras) @ [10, 20, 3, 1], [-173, -76, -292.5, 1])


def test_a_small_deviation_is_passed_over_and_a_large_one_refused():
    array, affine = scan_on(((2, 1, 0), (1, 1, 1)), (1, 1, 1), (0, 0, 0), (2, 3, 4))
    for degrees, accepted in ((0.5, True), (1.9, True), (2.1, False), (10, False), (-30, False), (45, False)):
        turned = affine.copy()
        turned[:3, :3] = about_x(degrees) @ affine[:3, :3]
        tilted = affine.copy()
        tilted[:3, 0] = about_x(degrees) @ affine[:3, 0]  # slices that do not lie above each other
        for oblique in (turned, tilted):
            if accepted:
                assert np.array_equal(orient(array, oblique)[0], array)
            else:
                with pytest.raises(ValueError, match=f"{abs(degrees):.1f} degrees off .* Use resample_upright"):
                    orient(array, oblique)
    assert orient(array, turned, max_degrees=46)[0].shape  # who accepts it may


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 2), (2, 0, 3)])
def test_what_is_no_volume_is_refused(shape):
    for function in (orient, resample_upright):
        with pytest.raises(ValueError, match="expected a volume with three axes"):
            function(np.zeros(shape), np.eye(4))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.diag([1, 1, 0, 1]), np.full((4, 4), np.nan), np.eye(3)])
def test_an_affine_that_is_none_is_refused(affine):
    for function in (orient, resample_upright):
        with pytest.raises(ValueError, match="expected an affine that is a finite, invertible 4 x 4 matrix, got"):
            function(np.zeros((2, 2, 2)), affine)
    with pytest.raises(ValueError, match="expected an affine that is a finite, invertible 4 x 4 matrix, got"):
        restore(np.zeros((2, 2, 2)), (2, 2, 2), affine)


def test_a_map_of_another_scan_is_not_restored():
    _, affine = scan_on(((0, 1, 2), (1, 1, 1)), (1, 1, 1), (0, 0, 0), (2, 3, 4))
    with pytest.raises(ValueError, match=r"expected a map of shape \(4, 3, 2\).*got \(2, 3, 4\)"):
        restore(np.zeros((2, 3, 4)), (2, 3, 4), affine)


# ---- slices ------------------------------------------------------------------------------------------------------


@given(
    count=st.integers(2, 40),
    step=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.4, 5)),
    origin=ORIGINS,
    decimals=st.integers(1, 6),
)
def test_even_slices_give_their_step_however_few_decimals_are_written(count, step, origin, decimals):
    step = step if decimals > 1 else (0, 0, step[2])  # rounded along one axis, not three
    positions = np.round(np.array(origin) + np.arange(count)[:, None] * step, decimals)
    assert even_step(positions) * (count - 1) == pytest.approx(positions[-1] - positions[0], abs=1e-9)


@given(count=st.integers(4, 60), missing=st.data(), step=st.floats(0.4, 5))
def test_a_missing_slice_is_found_and_named(count, missing, step):
    gone = missing.draw(st.integers(1, count - 2))
    z = np.delete(np.arange(count) * step, gone)
    positions = np.stack([0 * z, 0 * z, z], axis=1)
    with pytest.raises(ValueError, match="missing") as caught:
        even_step(positions)
    if count > 4:  # of three slices with two distances, either may be the usual one
        assert f"between slices {gone} and {gone + 1} of {count - 1}" in str(caught.value)


@given(count=st.integers(3, 60), twice=st.data(), step=st.floats(0.4, 5))
def test_a_slice_that_is_there_twice_is_found(count, twice, step):
    again = twice.draw(st.integers(0, count - 1))
    z = np.sort(np.append(np.arange(count), again)) * step
    with pytest.raises(ValueError, match=f"slices {again + 1} and {again + 2} of {count + 1} are at the same position"):
        even_step(np.stack([0 * z, 0 * z, z], axis=1))


@pytest.mark.parametrize(
    "z",
    [[0, 0], [0, 0, 0], [0, 1, 2, 3, 4.5, 6, 7.5], [0, 1, 2, 3, 9, 10], np.repeat(range(5), 2), np.arange(30) ** 1.1],
)
def test_other_uneven_slices_are_refused(z):
    z = np.asarray(z, float)
    with pytest.raises(ValueError, match="same position|expected slices at equal distances"):
        even_step(np.stack([0 * z, 0 * z, z], axis=1))


def test_slices_that_lie_beside_each_other_are_refused():
    positions = np.stack([np.array([0, 0, 3, 0, 0.0]), np.zeros(5), np.arange(5)], axis=1)
    with pytest.raises(ValueError, match="expected slices at equal distances"):
        even_step(positions)


# ---- one grid ----------------------------------------------------------------------------------------------------


@given(turn=TURNS, spacing=SPACINGS, shape=SHAPES, share=st.floats(0.2, 3), axis=st.integers(0, 2))
def test_labels_beside_the_scan_are_refused(turn, spacing, shape, share, axis):
    _, affine = scan_on(turn, spacing, (1, 2, 3), shape)
    check_same_grid(shape, affine, shape, affine + 1e-4 * min(spacing))
    moved = affine.copy()
    moved[axis, 3] += share * min(spacing)
    with pytest.raises(ValueError, match="mm away from the scan"):
        check_same_grid(shape, affine, shape, moved)
    with pytest.raises(ValueError, match="but its labels have"):
        check_same_grid(shape, affine, (*shape[:2], shape[2] + 1), affine)
    with pytest.raises(ValueError, match="away from the scan"):
        check_same_grid(shape, affine, shape, affine * np.nan)


# ---- resampling --------------------------------------------------------------------------------------------------


@given(turn=TURNS, spacing=SPACINGS, origin=ORIGINS, shape=SHAPES)
def test_an_upright_scan_resampled_is_the_same_as_turned(turn, spacing, origin, shape):
    array, affine = scan_on(turn, spacing, origin, shape)
    ours, turned = orient(array, affine)
    resampled, upright = resample_upright(array, affine)
    assert np.array_equal(resampled, ours) and np.allclose(upright, turned) and resampled.dtype == array.dtype


OBLIQUE = {
    "turned by 20 degrees": make_affine((10, -5, 30), (about_x(20) @ np.diag([0.8, 0.8, 1.5])).T[::-1]),
    "gantry tilted by 15 degrees": make_affine((10, -5, 30), [(0, 0, 1.5), about_x(-15) @ (0, 0.8, 0), (0.8, 0, 0)]),
    "prone, tilted": make_affine((10, -5, 30), [(0, 0, -1.5), about_x(15) @ (0, -0.8, 0), (-0.8, 0, 0)]),
}


@pytest.mark.parametrize("affine", OBLIQUE.values(), ids=OBLIQUE.keys())
def test_an_oblique_scan_shows_the_same_values_at_the_same_places(affine):
    shape = (20, 24, 22)
    weights = np.array([3.0, -7.0, 5.0])  # HU that change linearly: interpolation is exact
    index = np.stack([*np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))])
    scan = (weights @ (affine @ index)[:3]).reshape(shape)
    with pytest.raises(ValueError, match="degrees off"):
        orient(scan, affine)
    ours, upright = resample_upright(scan, affine, fill=np.nan)
    assert np.allclose(orient(ours, upright)[1], upright)  # as it is, no axis to be turned
    there = np.stack([*np.indices(ours.shape).reshape(3, -1), np.ones(ours.size)])
    expected = (weights @ (upright @ there)[:3]).reshape(ours.shape)
    known = np.isfinite(ours)
    assert known.mean() > 0.5 and np.allclose(ours[known], expected[known])


@pytest.mark.parametrize("affine", OBLIQUE.values(), ids=OBLIQUE.keys())
def test_a_map_on_the_upright_grid_comes_back_to_the_scans_own(affine):
    shape = (30, 40, 40)
    index = np.stack([*np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))])
    middle = affine @ [15, 20, 20, 1]
    ball = (np.linalg.norm((affine @ index - middle[:, None])[:3], axis=0) < 9).reshape(shape)  # known on its own grid
    upright_shape, upright = upright_grid(shape, affine)
    there = np.stack([*np.indices(upright_shape).reshape(3, -1), np.ones(np.prod(upright_shape))])
    pred = (np.linalg.norm((upright @ there - middle[:, None])[:3], axis=0) < 9).reshape(upright_shape)
    back = resample_onto(pred.astype(np.uint8), upright, shape, affine, order=0)
    assert back.shape == shape and set(np.unique(back)) == {0, 1}
    assert 2 * (ball & (back == 1)).sum() / (ball.sum() + back.sum()) > 0.93  # the nearest voxel is off by half a one


def test_whole_numbers_are_rounded_not_cut():
    array = np.array([0, 1, 2, 3], np.int16).reshape(1, 1, 4)
    shifted = make_affine((0.75, 0, 0), [(0, 0, 1), (0, 1, 0), (1, 0, 0)])
    plain = make_affine((0, 0, 0), [(0, 0, 1), (0, 1, 0), (1, 0, 0)])
    assert resample_onto(array, plain, (1, 1, 3), shifted, order=1).ravel().tolist() == [1, 2, 3]
