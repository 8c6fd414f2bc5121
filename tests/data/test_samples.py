"""The data sets have all that `Samples` promises."""

import pytest
import torch
from torch import Tensor

from lungseg.data.phantoms.folders import write_phantom_folder, write_phantom_volumes
from lungseg.data.slices import SliceDataset
from lungseg.data.volumes import CropDataset, VolumeDataset


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    slices, volumes = (tmp_path_factory.mktemp("data") / name for name in ("slices", "volumes"))
    write_phantom_folder(slices, view="nodule", num_patients=4, slices_per_patient=1, size=16)
    write_phantom_volumes(volumes, num_patients=4, shape=(4, 12, 12), spacing_mm=(4.0, 3.0, 3.0), num_nodules=1)
    crops = CropDataset(volumes, crop_size=(2, 8, 8), crops_per_volume=3)
    return [SliceDataset(slices), VolumeDataset(volumes), crops]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_data_set_offers_what_the_protocol_names(data_sets, which):
    data = data_sets[which]
    assert data.folder.is_dir() and data.classes == () and len(data) == len(data.records) * (3 if which == 2 else 1)
    image, target, id_ = data[0]
    assert isinstance(image, Tensor) and isinstance(target, Tensor) and image.shape == target.shape
    assert id_.split(":")[0] == data.records[0].id


@pytest.mark.parametrize("which", [0, 1, 2])
def test_iterating_gives_each_sample_once_in_the_order_of_the_indices(data_sets, which):
    data = data_sets[which]
    samples = list(data)
    assert len(samples) == len(data)
    for index, (image, target, id_) in enumerate(samples):
        expected = data[index]
        assert id_ == expected[2] and torch.equal(image, expected[0]) and torch.equal(target, expected[1])
