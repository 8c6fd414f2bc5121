"""The slices of volumes, one by one: those of the volume, in its order, with their neighbours."""

import numpy as np
import pytest
import torch

from lungseg.data import volume_slices
from lungseg.data.manifest import ImageRecord
from lungseg.data.volume_slices import VolumeSliceDataset
from lungseg.data.volumes import VolumeDataset, VolumeWriter


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Volumes of 3 and 5 slices with two classes in the first, and one without a lesion."""
    folder = tmp_path_factory.mktemp("volumes") / "scans"
    with VolumeWriter(folder, classes=("a", "b")) as out:
        for i, shape in enumerate(((3, 4, 6), (5, 4, 6), (2, 4, 6))):
            hu = np.random.default_rng(i).integers(-1100, 500, shape).astype(np.int16)
            target = np.zeros(shape, np.uint8)
            if i == 0:
                target[0, :, 2:] = 1
                target[2, 1, 1], target[1, 0, 0] = 2, 2  # small, and on other slices
            out.add(ImageRecord(f"v{i}", f"p{i}", "train" if i < 2 else "val"), hu, target, (2.0, 0.7, 0.7))
    return folder


@pytest.mark.parametrize("kept", [True, False])
def test_a_slice_is_that_of_the_volume_and_its_neighbours_stand_in_at_the_ends(scans, kept, monkeypatch):
    monkeypatch.setattr(volume_slices, "CACHE_BYTES", 2**30 if kept else 0)
    data, whole = VolumeSliceDataset(scans, "train", neighbours=1), VolumeDataset(scans, "train")
    assert len(data) == 8 and len(data.records) == 2 and bool(data._kept) == kept
    samples = iter(data)
    for volume, target, id_ in whole:
        for z in range(volume.shape[1]):
            image, of_slice, name = next(samples)
            below, above = max(z - 1, 0), min(z + 1, volume.shape[1] - 1)
            assert torch.equal(image, torch.stack([volume[0, below], volume[0, z], volume[0, above]]))
            assert torch.equal(of_slice, target[:, z]) and name == f"{id_}:{z}"
    assert torch.equal(data[-1][0], data[7][0])
    with pytest.raises(IndexError):
        data[8]


def test_a_slice_with_a_lesion_is_of_the_same_volume_first_a_class_then_a_lesion(scans):
    data = VolumeSliceDataset(scans, "train")
    rng = np.random.default_rng(0)
    drawn = np.bincount([data.with_lesion(1, rng) for _ in range(600)], minlength=3) / 600
    assert drawn == pytest.approx([0.5, 0.25, 0.25], abs=0.06)  # class a, and the two lesions of b
    assert data.with_lesion(5, rng) == 5  # its volume has none


def test_a_wrong_target_is_named_with_its_file(tmp_path, monkeypatch):
    with VolumeWriter(tmp_path / "f") as out:
        out.add(ImageRecord("v", "p", "train"), np.zeros((2, 3, 3), np.int16), np.ones((2, 3, 3), np.uint8), 1.0)
    data = VolumeSliceDataset(tmp_path / "f")
    data._kept[0].target[1] = 9
    assert data[0][1].all()
    with pytest.raises(ValueError, match="v.npz: .*9"):
        data[1]
