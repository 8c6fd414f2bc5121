"""Which slices are the channels of a slice: in a volume, and in a folder whose manifest has their order."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.neighbours import check_order_known, series_indices, stack_indices
from lungseg.data.slices import SliceDataset, SliceWriter


def record(name, series="", index=None):
    return ImageRecord(name, f"patient of {series or name}", "train", series=series, slice_index=index)


@given(st.integers(1, 7), st.integers(0, 4))
def test_in_a_volume_the_last_slice_stands_in_beyond_either_end(depth, neighbours):
    volume = np.arange(depth)
    padded = np.pad(volume, neighbours, mode="edge")
    expected = [padded[z : z + 2 * neighbours + 1] for z in range(depth)]
    assert np.array_equal(volume[stack_indices(depth, neighbours)], expected)


def walk(records, i, step, neighbours):
    """The slices in one direction, one step after the other; without a next one it stays."""
    found = []
    for _ in range(neighbours):
        here = records[i]
        next_ = [
            j for j, r in enumerate(records) if (r.series, r.slice_index) == (here.series, here.slice_index + step)
        ]
        i = next_[0] if next_ else i
        found.append(i)
    return found


PLACES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), min_size=1, max_size=12, unique=True)


@given(PLACES, st.integers(0, 3), st.integers(0, 2))
def test_in_a_folder_neighbours_are_of_the_same_series_and_a_gap_is_an_end(places, neighbours, unknown):
    records = [record(f"s{i}", series, index) for i, (series, index) in enumerate(places)]
    records += [record(f"lone{i}") for i in range(unknown)]
    stacks = series_indices(records, neighbours)
    assert stacks.shape == (len(records), 2 * neighbours + 1)
    for i, stack in enumerate(stacks.tolist()):
        known = records[i].series != ""
        below, above = (walk(records, i, step, neighbours) if known else [i] * neighbours for step in (-1, 1))
        assert stack == [*below[::-1], i, *above]


def test_the_channels_of_an_image_are_the_slices_below_itself_and_above(tmp_path):
    """The rows of the manifest are in no order; one slice is missing between 5 and 7."""
    places = {"x7": ("x", 7), "x4": ("x", 4), "y5": ("y", 5), "x5": ("x", 5), "x3": ("x", 3), "free": ("", None)}
    level = {name: 20 * (i + 1) for i, name in enumerate(places)}
    with SliceWriter(tmp_path / "f") as out:
        for name, (series, index) in places.items():
            target = np.full((2, 3), name == "x4", np.uint8)
            out.add(record(name, series, index), np.full((2, 3), level[name], np.uint8), target)
    assert [(r.series, r.slice_index) for r in read_manifest(tmp_path / "f")] == list(places.values())
    data = SliceDataset(tmp_path / "f", neighbours=1)
    shown = {"x3": "x3 x3 x4", "x4": "x3 x4 x5", "x5": "x4 x5 x5", "x7": "x7 x7 x7", "y5": "y5 y5 y5"}
    for (image, target, name), expected_name in zip(data, places, strict=True):
        assert name == expected_name and image.shape == (3, 2, 3) and target.shape == (1, 2, 3)
        expected = [level[n] for n in shown.get(name, "free free free").split()]
        assert np.allclose(image.numpy() * 255, np.array(expected)[:, None, None])
        assert target.any() == (name == "x4")  # that of the middle channel


def test_neighbours_of_another_size_are_named(tmp_path):
    with SliceWriter(tmp_path / "f") as out:
        for index, side in enumerate((4, 5)):
            image = np.eye(side, dtype=np.uint8)
            out.add(record(f"s{index}", "x", index), image * 200, image)
    with pytest.raises(ValueError, match="the neighbours s0, s0, s1 differ in size. Export a series at one size"):
        SliceDataset(tmp_path / "f", neighbours=1)[0]
    assert SliceDataset(tmp_path / "f", neighbours=1, size=4)[0][0].shape == (3, 4, 4)


def test_without_their_order_neighbours_are_refused_with_the_columns_that_are_missing():
    with pytest.raises(ValueError, match="it does not say which slices do. Write the columns series and slice_index"):
        check_order_known("f", [record("a"), record("b")])
    with pytest.raises(ValueError, match="prepare_data.py .* --order-from .* order, it cannot be found: leave out"):
        check_order_known("f", [record("a"), record("b")])
    with pytest.raises(ValueError, match="f: --neighbours needs .* no two slices follow each other"):
        check_order_known("f", [record("a", "x", 1), record("b", "x", 3), record("c", "y", 2)])
    check_order_known("f", [record("a", "x", 1), record("b", "x", 2)])
