"""What a 2-D network learns from in crops of slices, or in slices of volumes; and what its checkpoint is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter
from lungseg.inference import SlidingWindow, sliding_window
from lungseg.losses import bce_loss
from lungseg.nn.unet import UNet
from lungseg.training.crops import volumes_remark
from lungseg.training.data import open_data
from lungseg.training.distributed import ALONE
from lungseg.training.recipe import RunOptions, TrainingRecipe, VolumeRecipe
from lungseg.training.step import evaluate

CROPS = TrainingRecipe(crop_size=(8,), crops_per_slice=3, foreground=1.0, augment="none", batch_size=3, img_size=5)
SPLITS = ("train", "train", "val", "test", "test")


def opened(recipe, folder):
    return open_data(recipe, RunOptions(data=folder), ALONE)


def slice_folder(folder, sizes, series=False, **about):
    with SliceWriter(folder) as out:
        for i, (split, size) in enumerate(zip(SPLITS, sizes, strict=True)):
            target = np.zeros(size, np.uint8)
            target[3, 4 + i] = 1
            order = {"series": split, "slice_index": i} if series else {}
            record = ImageRecord(f"s{i}", f"p{split}", split, spacing_mm=0.5 + i, **order, **about)
            out.add(record, np.random.default_rng(i).integers(0, 255, size, np.uint8), target)
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes") / "scans"
    with VolumeWriter(folder) as out:
        for i, split in enumerate(SPLITS):
            target = np.zeros((2 + i, 12, 10), np.uint8)
            target[1, 4:6, 5:8] = 1
            hu = np.random.default_rng(i).integers(-900, 300, target.shape).astype(np.int16)
            out.add(ImageRecord(f"v{i}", f"p{i}", split), hu, target, (2.5, 0.7, 0.7))
    return folder


def test_crops_to_train_on_and_whole_slices_of_any_size_to_be_evaluated_on(tmp_path):
    sizes = [(20, 30), (9, 16), (20, 30), (12, 40), (7, 18)]
    data = opened(CROPS, slice_folder(tmp_path / "f", sizes))
    assert len(data.train_set) == 6 and all(target.any() for _, target, _ in data.train_set)
    assert all(image.shape == (3, 1, 8, 8) for image, _, _ in data.train)
    for batches, split in ((data.val, "val"), (data.test, "test")):
        found = [tuple(image.shape) for image, _, _ in batches]  # in batches of one, since they differ in size
        assert found == [(1, 1, *size) for size, s in zip(sizes, SPLITS, strict=True) if s == split]
    assert data.input.to_dict() == {
        "size": [8, 8], "scale": [1.0, 1.0], "hu_window": [-1000.0, 400.0], "spacing_mm": 1.0, "source_scale": None,
        "stretched": False, "whole_size": [20, 30],
    }  # fmt: skip
    plain = [image.shape for image, _, _ in data.plain_train_set]
    assert plain == [(1, 20, 30), (1, 9, 16)]


def test_slices_of_one_size_share_batches_and_each_field_of_the_recipe_matters(tmp_path):
    folder = slice_folder(tmp_path / "f", [(20, 30)] * 5, series=True, source_height=40, source_width=60)
    data = opened(CROPS, folder)
    assert (
        volumes_remark(folder, data.input) == ""
        and [len(ids) for _, _, ids in data.test] == [2]
        and data.input.source_scale == (0.5, 0.5)
    )
    assert len(opened(replace(CROPS, crops_per_slice=1), folder).train_set) == 2
    anywhere = opened(replace(CROPS, foreground=0.0, crops_per_slice=20), folder).train_set
    assert np.mean([bool(target.any()) for _, target, _ in anywhere]) < 0.9
    assert opened(replace(CROPS, crop_size=(9,)), folder).train_set[0][0].shape == (1, 9, 9)
    turned = opened(replace(CROPS, augment="full"), folder).train_set
    assert any(not torch.equal(turned[i][0], data.train_set[i][0]) for i in range(6))
    for recipe in (CROPS, replace(CROPS, crop_size=(0,))):  # crops, and whole slices
        stacks = opened(replace(recipe, neighbours=2), folder)
        assert stacks.train_set[0][0].shape[0] == stacks.val_set[0][0].shape[0] == 5 and stacks.input.neighbours == 2


def test_neighbours_need_an_order_and_phantoms_have_none(tmp_path):
    folder = slice_folder(tmp_path / "f", [(20, 30)] * 5)
    with pytest.raises(ValueError, match="columns series and slice_index"):
        opened(replace(CROPS, neighbours=1), folder)
    with pytest.raises(ValueError, match="--neighbours needs --data"):
        open_data(replace(CROPS, neighbours=1), RunOptions(out=tmp_path), ALONE)


@pytest.mark.parametrize("recipe", [TrainingRecipe(neighbours=1), VolumeRecipe(neighbours=1)])
def test_from_volumes_a_2d_network_learns_slices_and_is_evaluated_on_volumes(recipe, volumes):
    data = opened(replace(recipe, batch_size=5), volumes)
    assert [tuple(image.shape) for image, _, _ in data.train] == [(5, 3, 12, 10)]  # 2 + 3 slices
    assert [tuple(image.shape) for image, _, _ in data.val] == [(1, 1, 4, 12, 10)]
    assert len(data.test_set) == 2 and data.input.spacing_mm == (0.7, 0.7)
    assert "learns from their slices, and is scored on whole volumes" in volumes_remark(data.folder, data.input)
    assert data.input.size == (12, 10) and data.input.neighbours == 1 and data.input.source_scale == (1.0, 1.0)
    crops = opened(replace(recipe, crop_size=(6,), crops_per_slice=2), volumes)
    assert len(crops.train_set) == 10 and crops.train_set[0][0].shape == (3, 6, 6)
    assert crops.input.size == (6, 6) and crops.input.whole_size == (12, 10)


def test_whole_slices_of_volumes_must_be_of_one_size(tmp_path):
    with VolumeWriter(tmp_path / "f") as out:
        for i, split in enumerate(("train", "train", "val")):
            target = np.zeros((3, 8 + i, 9), np.uint8)
            target[1, 2, 2:5] = 1
            hu = np.random.default_rng(i).integers(-900, 0, target.shape).astype(np.int16)
            out.add(ImageRecord(f"v{i}", f"p{i}", split), hu, target, 1.0)
    with pytest.raises(ValueError, match="slices of 2 sizes, such as 8 x 9 and 9 x 9, .* Give --crop-size N"):
        opened(TrainingRecipe(), tmp_path / "f")
    assert opened(TrainingRecipe(crop_size=(4,)), tmp_path / "f").input.spacing_mm == (1.0, 1.0)


def test_evaluate_counts_whole_images_as_windows_put_together_by_hand_do(tmp_path, volumes):
    torch.manual_seed(0)
    for neighbours, folder in ((0, slice_folder(tmp_path / "f", [(20, 30)] * 5)), (1, volumes)):
        network = UNet(2 * neighbours + 1, channels=(2, 4)).eval()
        data = opened(replace(CROPS, neighbours=neighbours), folder)
        seen = SlidingWindow(network, data.input.size, neighbours=data.input.neighbours).eval()
        found = evaluate(seen, data.test, bce_loss)
        for (image, target, id_), counts in zip(data.test_set, found.counts, strict=True):
            assert id_ in found.ids
            slices = [image]
            if neighbours:  # (1, D, H, W), a volume
                padded = torch.cat([image[:, :1], image, image[:, -1:]], dim=1)
                slices = [padded[0, z : z + 3] for z in range(image.shape[1])]
            logits = torch.cat([sliding_window(network, slice_[None], 8)[0] for slice_ in slices])
            pred, lesion = (logits > 0).flatten(), target.bool().flatten()
            assert counts.tolist() == [(pred & lesion).sum(), (pred & ~lesion).sum(), (~pred & lesion).sum(),
                                       (~pred & ~lesion).sum()]  # fmt: skip
