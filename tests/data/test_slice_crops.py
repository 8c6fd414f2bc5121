"""Crops of slices: pieces of the file, a share of them on a lesion, the same for any number of workers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import DataLoader

from lungseg.data.augment import Augmentation
from lungseg.data.manifest import ImageRecord
from lungseg.data.slice_crops import SliceCrops
from lungseg.data.slices import SliceDataset, SliceWriter
from lungseg.data.volume_slices import VolumeSliceDataset
from lungseg.data.volumes import VolumeWriter

NOTHING = Augmentation(
    rotation=0, horizontal_flip=0, vertical_flip=0, elastic_probability=0, brightness=0, contrast=0
)  # fmt: skip
FULL = Augmentation()


def write(folder, targets, classes=()):
    """A slice for each target, numbered from pixel to pixel; 16 bits, so that each pixel is known by its grey."""
    with SliceWriter(folder, classes=classes) as out:
        for i, target in enumerate(targets):
            grey = np.arange(1, target.size + 1, dtype=np.uint16).reshape(target.shape)
            out.add(ImageRecord(f"s{i}", f"p{i}", "train", bits=16), grey, target.astype(np.uint8))
    return SliceDataset(folder)


def spots(shape, *places):
    target = np.zeros(shape, np.uint8)
    for place in places:
        target[place] = 1
    return target


@given(
    height=st.integers(1, 9), width=st.integers(1, 9), side=st.integers(1, 9), foreground=st.sampled_from([0.0, 1.0])
)
@settings(max_examples=25)
def test_a_crop_is_a_piece_of_its_slice_with_air_beyond_the_far_ends(tmp_path_factory, height, width, side, foreground):
    target = spots((height, width), (height // 2, width - 1))
    source = write(tmp_path_factory.mktemp("f") / "f", [target])
    crops = SliceCrops(source, crop_size=side, crops_per_slice=4, foreground=foreground, augment=NOTHING)
    grey, lesion = (np.pad(a, [(0, max(0, side - n)) for n in (height, width)]) for a in (source[0][0][0], target))
    for image, channels, id_ in crops:
        assert image.shape == channels.shape == (1, side, side) and id_.startswith("s0:")
        row, col = divmod(int(round(float(image[0, 0, 0]) * 65535)) - 1, width)
        assert np.array_equal(image[0], grey[row : row + side, col : col + side])
        assert np.array_equal(channels[0], lesion[row : row + side, col : col + side])
        assert not foreground or channels.any()


def share_with_lesion(crops):
    return np.mean([bool(target.any()) for _, target, _ in crops])


@pytest.mark.parametrize("augment", [NOTHING, FULL])
def test_the_share_with_a_lesion_is_as_asked_also_when_slices_are_turned(tmp_path, augment):
    """A lesion of one pixel in 1,600, and crops of 8 x 8: anywhere, 1 in 17 holds it."""
    source = write(tmp_path / "f", [spots((40, 40), (13, 24))])
    shares = {
        foreground: share_with_lesion(
            SliceCrops(source, crop_size=8, crops_per_slice=150, foreground=foreground, augment=augment)
        )
        for foreground in (0.0, 0.5, 1.0)
    }
    assert shares[0.0] < 0.12 and shares[0.5] == pytest.approx(0.53, abs=0.1) and shares[1.0] == 1


def test_a_small_lesion_is_seen_as_often_as_a_large_one_and_a_rare_class_as_a_common_one(tmp_path):
    target = np.zeros((30, 30), np.uint8)
    target[2:12, 2:12], target[25, 25] = 1, 1
    crops = SliceCrops(write(tmp_path / "a", [target]), crop_size=4, crops_per_slice=200, foreground=1, augment=NOTHING)
    small = np.mean([target.sum() == 1 and bool(image.max() * 65535 > 600) for image, target, _ in crops])
    assert small == pytest.approx(0.5, abs=0.1)
    target[25, 25] = 2
    source = write(tmp_path / "b", [target], classes=("common", "rare"))
    crops = SliceCrops(source, crop_size=4, crops_per_slice=200, foreground=1, augment=NOTHING)
    assert np.mean([bool(target[1].any()) for _, target, _ in crops]) == pytest.approx(0.5, abs=0.1)


def test_slices_of_several_sizes_and_without_a_lesion_are_no_trouble(tmp_path):
    source = write(tmp_path / "f", [spots((9, 20), (0, 0)), spots((5, 6)), spots((30, 7), (29, 6))])
    crops = SliceCrops(source, crop_size=8, foreground=1.0, augment=FULL)
    images, targets, ids = next(iter(DataLoader(crops, batch_size=3)))
    assert images.shape == targets.shape == (3, 1, 8, 8) and list(ids) == ["s0:0", "s1:0", "s2:0"]
    assert not targets[1].any() and crops.records is source.records


def test_a_turned_crop_has_no_border_where_the_slice_goes_on(tmp_path):
    """All of the slice is bright; a crop from its middle, turned after it was cut out, would have dark corners."""
    with SliceWriter(tmp_path / "f") as out:
        out.add(ImageRecord("s", "p", "train"), np.full((64, 64), 200, np.uint8), spots((64, 64), (32, 32)))
    strong = Augmentation(rotation=45, elastic_probability=1, brightness=0, contrast=0)
    crops = SliceCrops(SliceDataset(tmp_path / "f"), crop_size=12, crops_per_slice=40, foreground=1, augment=strong)
    assert min(float(image.min()) for image, _, _ in crops) > 0.75


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of torch, on one processor
@pytest.mark.parametrize("workers", [0, 2])
def test_a_crop_depends_only_on_seed_epoch_and_index(tmp_path, workers):
    source = write(tmp_path / "f", [spots((20, 20), (i, 2 * i)) for i in range(3)])

    def epoch(number, seed=3):
        crops = SliceCrops(source, crop_size=8, crops_per_slice=2, augment=FULL, seed=seed)
        crops.set_epoch(number)
        return torch.cat([image for image, _, _ in DataLoader(crops, batch_size=2, num_workers=workers)])

    alone = SliceCrops(source, crop_size=8, crops_per_slice=2, augment=FULL, seed=3)
    alone.set_epoch(1)
    last_first = torch.stack([alone[i][0] for i in reversed(range(6))]).flip(0)
    assert torch.equal(epoch(1), last_first) and torch.equal(alone[-1][0], alone[5][0])
    assert not torch.equal(epoch(1), epoch(2)) and not torch.equal(epoch(1), epoch(1, seed=4))


def test_all_channels_are_turned_bent_and_brightened_alike(tmp_path):
    """A volume of three equal slices: its channels stay equal, and the target moves with them."""
    slice_ = spots((48, 48), np.s_[14:30, 18:34])
    with VolumeWriter(tmp_path / "f") as out:
        target = np.stack([slice_] * 3)
        out.add(ImageRecord("v", "p", "train"), target.astype(np.int16) * 900 - 800, target, 1.0)
    source = VolumeSliceDataset(tmp_path / "f", neighbours=1)
    crops = SliceCrops(source, crop_size=32, crops_per_slice=6, foreground=1, augment=FULL)
    whole = SliceCrops(source, crop_size=None, augment=FULL)
    for data, side in ((crops, 32), (whole, 48)):
        for image, target, _ in data:
            assert (
                image.shape == (3, side, side) and torch.equal(image[0], image[1]) and torch.equal(image[1], image[2])
            )
            assert (target[0].bool() == (image[1] > image.mean())).float().mean() > 0.97 or not target.any()


def test_of_a_volume_the_slice_is_chosen_too_so_that_the_share_holds(tmp_path):
    """One slice in eight holds the lesion; and the neighbours are those of the slice that is shown."""
    with VolumeWriter(tmp_path / "f") as out:
        target = np.zeros((8, 10, 10), np.uint8)
        target[5, 4, 4] = 1
        hu = np.repeat(np.arange(-900, -100, 100, dtype=np.int16), 100).reshape(8, 10, 10)
        out.add(ImageRecord("v", "p", "train"), hu, target, 1.0)
    source = VolumeSliceDataset(tmp_path / "f", neighbours=1)
    crops = SliceCrops(source, crop_size=5, crops_per_slice=20, foreground=0.5, augment=NOTHING)
    assert share_with_lesion(crops) == pytest.approx(0.5, abs=0.12)
    for image, target, id_ in crops:
        z = int(id_.split(":")[1])
        assert np.allclose(image[:, 0, 0] * 1400 - 1000, [-900 + 100 * min(max(z + d, 0), 7) for d in (-1, 0, 1)])
        assert target.any() <= (z == 5)


@pytest.mark.parametrize("wrong", [{"crop_size": 0}, {"crops_per_slice": 0}, {"foreground": 1.5}])
def test_arguments_out_of_range_are_named(tmp_path, wrong):
    source = write(tmp_path / "f", [spots((8, 8), (1, 1))])
    with pytest.raises(ValueError, match="SliceCrops: expected crop_size and crops_per_slice of at least 1"):
        SliceCrops(source, **{"crop_size": 4, "augment": NOTHING} | wrong)
