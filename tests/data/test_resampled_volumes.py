"""Whole volumes of which a network is shown resampled slices, and by whose files it is judged."""

import numpy as np
import pytest
import torch

from lungseg.data.manifest import ImageRecord
from lungseg.data.resampled_volumes import ResampledVolumes
from lungseg.data.samples import shown
from lungseg.data.slice_spacing import resample_slices
from lungseg.data.volumes import VolumeDataset, VolumeWriter


def write(folder, spacings):
    with VolumeWriter(folder) as out:
        for i, spacing in enumerate(spacings):
            hu = np.random.default_rng(i).integers(-900, 300, (6, 4, 5)).astype(np.int16)
            out.add(ImageRecord(f"v{i}", f"p{i}", "val"), hu, (hu > 0).astype(np.uint8), spacing)
    return folder


def test_images_are_resampled_and_targets_are_those_of_the_file(tmp_path):
    folder = write(tmp_path / "f", [(2.0, 1, 1), (0.5, 1, 1)])
    data, plain = ResampledVolumes(folder, "val", slice_mm=1.0), VolumeDataset(folder, "val")
    assert len(shown(data)) == 2 and shown(data).records == plain.records and shown(data).classes == ()
    for i, (image, target, id_) in enumerate(shown(data)):
        whole, same, name = plain[i]
        assert torch.equal(target, same) and id_ == name and image.dtype == torch.float32
        assert torch.equal(image[0], torch.from_numpy(resample_slices(whole[0].numpy(), (12, 3)[i])))
        assert torch.equal(data[i][0], whole) and torch.equal(data[i][1], same)
    assert shown(plain) is plain


def test_a_volume_of_unknown_spacing_is_refused_by_name(tmp_path):
    folder = write(tmp_path / "f", [(2.0, 1, 1), (np.nan, 1, 1)])
    with pytest.raises(ValueError, match="volume v1 does not state the distance between its slices, .* 1.25 mm"):
        ResampledVolumes(folder, slice_mm=1.25)
