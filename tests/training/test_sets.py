"""What a checkpoint is told of the images that its network learns from; what is in the sets is in test_data.py."""

import numpy as np
import pytest

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.training.recipe import TrainingRecipe
from lungseg.training.sets import AUGMENTATIONS, augmentation, median_spacing, slice_sets


def told(folder):
    _, input_ = slice_sets(folder, TrainingRecipe(img_size=4), seed=0)
    return input_.to_dict()


def test_no_augmentation_changes_nothing():
    image, target = np.random.default_rng(0).random((6, 7), dtype=np.float32), np.eye(6, 7, dtype=np.uint8)
    for seed in range(5):
        same = augmentation(TrainingRecipe(augment="none"))(image, target, np.random.default_rng(seed))
        assert all(np.array_equal(*pair) for pair in zip(same, (image, target), strict=True))
    assert all(
        augmentation(TrainingRecipe(augment=name)) is AUGMENTATIONS[name] for name in ("flips", "full", "strong")
    )


def test_unknown_spacings_do_not_count():
    assert median_spacing([float("nan"), 1.0, float("nan"), 3.0]) == 2.0 and median_spacing([float("nan")]) is None


def folder_of(folder, sizes, sources, spacings):
    """Training slices, and one for validation."""
    with SliceWriter(folder) as out:
        for i, (size, (height, width), mm) in enumerate(zip(sizes, sources, spacings, strict=True)):
            about = {"spacing_mm": mm, "source_height": height, "source_width": width}
            split = "val" if i == len(sizes) - 1 else "train"
            image = np.random.default_rng(i).integers(0, 255, size, np.uint8)
            out.add(ImageRecord(f"s{i}", f"p{i}", split, **about), image, np.eye(*size, dtype=np.uint8))
    return folder


def test_how_much_the_slices_were_shrunk_before_is_told_too(tmp_path):
    folder = folder_of(tmp_path / "data", [(8, 8)] * 3, [(16, 32)] * 3, [1.4] * 3)
    about = told(folder)
    assert about["scale"] == [0.5, 0.5] and about["source_scale"] == [4 / 16, 4 / 32]
    assert about["stretched"] is False and about["spacing_mm"] == 1.4


def test_slices_made_from_several_sizes_were_stretched(tmp_path):
    sources = [(16, 16), (12, 16), (16, 16), (99, 99)]  # what validation has makes no difference
    folder = folder_of(tmp_path / "data", [(8, 8)] * 4, sources, [np.nan] * 4)
    with pytest.warns(UserWarning, match="has slices of 2 sizes, all stretched to img_size: prediction stretches"):
        about = told(folder)
    assert about["stretched"] is True and about["source_scale"] == [4 / 16, 4 / 16] and about["spacing_mm"] is None


def test_files_of_several_sizes_have_training_pixels_of_a_median_size(tmp_path):
    """Each slice is 16 mm wide, in 8 pixels or in 16: a training pixel is 4 mm in all of them."""
    sizes = [(8, 8), (16, 16), (8, 8), (8, 8)]
    folder = folder_of(tmp_path / "data", sizes, [(32, 32)] * 4, [2.0, 1.0, 2.0, 2.0])
    with pytest.warns(UserWarning, match="has slices of 2 sizes"):
        about = told(folder)
    assert about["stretched"] is True and about["source_scale"] is None  # one source, but no one file
    assert np.array(about["spacing_mm"]) / about["scale"] == pytest.approx([4, 4])


def test_the_scale_is_that_of_the_commonest_size_and_a_warning_says_so(tmp_path):
    sizes = [(6, 6), (8, 12), (8, 12), (16, 16), (16, 16), (16, 16)]
    with SliceWriter(tmp_path / "data") as out:
        for i, size in enumerate(sizes):
            record = ImageRecord(f"s{i}", f"p{i}", "train" if i < 3 else "val")
            out.add(record, np.random.default_rng(i).integers(0, 255, size, np.uint8), np.eye(*size, dtype=np.uint8))
    with pytest.warns(UserWarning, match="has slices of 2 sizes, all stretched to img_size"):
        assert told(tmp_path / "data")["scale"] == [4 / 8, 4 / 12]
