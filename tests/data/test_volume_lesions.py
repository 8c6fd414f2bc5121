"""The lesions of a volume: each connected piece once, in the slices that crops are cut from."""

import itertools

import numpy as np
from hypothesis import given, strategies as st

from lungseg.data import volume_lesions
from lungseg.data.ct import resize_volume_target
from lungseg.data.slice_spacing import SliceGrid
from lungseg.data.volume_lesions import find_lesions, lesions_by_class

SIDES = st.tuples(*[st.integers(1, 9)] * 3)


@given(shape=SIDES, share=st.floats(0, 1), seed=st.integers(0, 999))
def test_lesions_are_the_connected_pieces_of_the_target(shape, share, seed):
    target = np.random.default_rng(seed).random(shape) < share
    lesions = find_lesions(target)
    voxels = [tuple(voxel) for lesion in lesions for voxel in lesion]
    assert sorted(voxels) == sorted(map(tuple, np.argwhere(target)))
    for lesion, other in itertools.combinations(lesions, 2):
        assert np.abs(lesion[:, None] - other).max(axis=2).min() > 1  # no two of them touch
    for lesion in lesions:  # and each can be walked, voxel by voxel
        reached = np.zeros(len(lesion), bool)
        reached[0] = True
        touch = np.abs(lesion[:, None] - lesion).max(axis=2) <= 1  # (n, n)
        for _ in lesion:
            reached = touch[reached].any(axis=0)
        assert reached.all()


def test_of_a_large_lesion_some_voxels_from_end_to_end_are_kept(monkeypatch):
    monkeypatch.setattr(volume_lesions, "MAX_VOXELS", 50)
    target = np.zeros((40, 10, 10), np.uint8)
    target[:20], target[30:, 0, 0] = 1, 1
    large, small = find_lesions(target)
    assert 25 < len(large) <= 50 and np.ptp(large[:, 0]) >= 18 and len(small) == 10


@given(shape=SIDES, share=st.floats(0, 0.3), spacing=st.sampled_from([0.4, 1.0, 2.5]), seed=st.integers(0, 999))
def test_lesions_of_resampled_slices_are_those_of_the_resampled_target(shape, share, spacing, seed):
    rng = np.random.default_rng(seed)
    target = np.where(rng.random(shape) < share, rng.integers(1, 3, shape), 0).astype(np.uint8)
    grid = SliceGrid(shape[0], spacing, slice_mm=1.0)
    resized = resize_volume_target(target, (grid.depth, *shape[1:]))
    expected = [find_lesions(resized == k) for k in (1, 2)]
    found = lesions_by_class(target, 2, grid)
    assert [[voxels.tolist() for voxels in lesions] for lesions in found] == [
        [voxels.tolist() for voxels in lesions] for lesions in expected if lesions
    ]
