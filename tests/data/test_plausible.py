"""Data that are hardly what was intended are reported with the cause; good data, above all real CT, are not."""

import os
import pickle
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from lungseg.data.manifest import ImageRecord
from lungseg.data.phantoms.folders import write_phantom_folder, write_phantom_volumes
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.data.pickles.table import read_table
from lungseg.data.plausible import SWAPPED, LesionExtent, Tally, odd_grey, odd_hu, same_picture
from lungseg.data.slices import SliceWriter, check_folder
from lungseg.data.volumes import VolumeWriter, check_volume_folder
from lungseg.training.data import find_data

DATA = Path(os.environ.get("LUNGSEG_DATA", "nowhere"))


# ---- Hounsfield units --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chest():
    """(4, 48, 48) HU of a phantom's chest."""
    slices = phantom_patient(np.random.default_rng(0), num_slices=4, size=48)
    return np.stack([s.hu for s in slices]).astype(np.int16)


def in_a_circle(stored):
    """As stored by scanners that write -2000 outside the circle of reconstruction."""
    stored = stored.copy()
    stored[:, :6, :6] = -2000
    return stored


SPOILED = {
    "stored values": (lambda hu: hu + 1024, "no value below 0, .* rescale slope and intercept"),
    "stored values, unsigned": (lambda hu: (hu + 1024).clip(0).astype(np.uint16), "rescale slope and intercept"),
    "stored values in a circle": (lambda hu: in_a_circle(hu.clip(-1000) + 1024), "rescale slope and intercept"),
    "wrapped": (lambda hu: hu.astype(np.uint16), "negative HU were stored as uint16"),
    "grey levels": (lambda hu: ((hu.clip(-1000, 400) + 1000) * (255 / 1400)).astype(np.uint8), "grey levels of a pic"),
    "scaled to 0..1": (lambda hu: (hu.clip(-1000, 400) + 1000) / 1400, "scaled or normalised"),
    "normalised": (lambda hu: (hu - hu.mean()) / hu.std(), "scaled or normalised"),
    "divided": (lambda hu: hu / 1000, "scaled or normalised"),
    "turned": (lambda hu: -hu, "its sign looks flipped"),
    "black": (lambda hu: np.full_like(hu, -1000), "the same everywhere"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_numbers_that_are_not_hu_are_reported_with_the_cause(name, chest):
    spoil, cause = SPOILED[name]
    assert odd_hu(chest) is None and odd_hu(in_a_circle(chest)) is None
    for hu in (spoil(chest), spoil(chest)[2]):  # a volume, and a slice of it
        with pytest.raises(AssertionError, match=cause):
            assert not odd_hu(hu), odd_hu(hu)


@given(low=st.integers(-1400, -1), high=st.integers(21, 3000), seed=st.integers(0, 9))
def test_any_range_from_below_to_above_water_is_ct(low, high, seed):
    hu = np.random.default_rng(seed).integers(low, min(high, 400), (2, 8, 8))
    hu[0, 0, :2] = low, high
    assert odd_hu(hu) is None


def test_a_volume_is_read_slice_by_slice(tmp_path):
    hu = np.lib.format.open_memmap(tmp_path / "hu.npy", "w+", np.int16, (64, 128, 128))  # 2 MiB
    hu[:] = -700
    hu[9, 9, 9] = 40
    tracemalloc.start()
    try:
        assert odd_hu(hu) is None and LesionExtent(hu > 0).lesion_pixels == 1
        del hu
        tracemalloc.reset_peak()
        mapped = np.load(tmp_path / "hu.npy", mmap_mode="r")
        assert odd_hu(mapped) is None and LesionExtent(mapped).lesion_pixels == mapped.size
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()


# ---- images and masks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_levels_that_show_nothing_are_reported(bits):
    dtype, most = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    noise = np.random.default_rng(0).random((9, 9))
    noise[0, :2] = 0, 1
    assert odd_grey((noise * most).astype(dtype), bits) is None
    assert odd_grey((noise * most * 0.1 + most * 0.5).astype(dtype), bits) is None  # a flat picture
    assert "one grey level everywhere" in odd_grey(np.full((9, 9), most, dtype), bits)
    assert f"grey levels 0 and 1 only: it is a mask, or was not scaled to 0..{most}" in odd_grey(
        noise.round().astype(dtype), bits
    )
    assert f"hardly any of the {most + 1} grey levels" in odd_grey((noise * most * 0.015 + 9).astype(dtype), bits)


def test_8_and_12_bits_written_as_16_are_reported():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert "hardly any of the 65536" in odd_grey(levels, 16)
    assert "no grey level above 4095, of 65535" in odd_grey(levels * 16, 16) and odd_grey(levels * 17, 16) is None


def masks(sides):
    return st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).random(sides) < 0.3)


@given(target=masks((9, 11)), depth=st.integers(1, 3))
def test_a_lesion_inside_is_not_odd_but_swapped_with_the_background_it_is(target, depth):
    target[[0, -1]] = target[:, [0, -1]] = False
    stack = np.stack([target] * depth)
    for mask in (target, stack):
        assert LesionExtent(mask).odd is None and LesionExtent(~mask).odd == SWAPPED
        assert LesionExtent(np.where(mask, 0, 255).astype(np.uint8)).odd == SWAPPED


def test_a_large_lesion_that_does_not_fill_the_edge_is_not_odd():
    target = np.zeros((20, 20), np.uint8)
    target[1:-1, 1:-1] = 1
    assert LesionExtent(target).odd is None and LesionExtent(target).lesion_pixels == 18 * 18
    assert LesionExtent(np.ones((20, 20))).odd == SWAPPED and LesionExtent(np.zeros((20, 20))).odd is None


@given(target=masks((6, 7)), low=st.integers(0, 254))
def test_a_mask_in_place_of_the_image_is_reported(target, low):
    image = np.where(target, 255, low).astype(np.uint8)
    assert bool(same_picture(image, target)) == target.any()
    image[3, 3] = low if target[3, 3] else 255
    assert not same_picture(image, target)


# ---- a folder as a whole -----------------------------------------------------------------------------------------


def pair(seed, size=24):
    rng = np.random.default_rng(seed)
    target = np.zeros((size, size), np.uint8)
    target[6 + seed % 5 : 12, 8:14] = 1
    return rng.integers(0, 200, (size, size), dtype=np.uint8) + 50 * target, target


SPLITS = ("train", "train", "train", "val", "val", "test", "test", "test")


def write(folder, spoil=lambda image, target: (image, target), odd=()):
    """Eight slices, those whose numbers are in `odd` spoiled."""
    with SliceWriter(folder) as out:
        for i, split in enumerate(SPLITS):
            image, target = spoil(*pair(i)) if i in odd else pair(i)
            out.add(ImageRecord(f"s{i}", f"p{i}", split), image, target)
    return folder


ODD = {
    "swapped": (lambda image, target: (image, 1 - target), "lesion and background look swapped"),
    "all lesion": (lambda image, target: (image, 0 * target + 1), "lesion and background look swapped"),
    "black": (lambda image, target: (0 * image, target), "one grey level everywhere"),
    "white": (lambda image, target: (0 * image + 255, target), "one grey level everywhere"),
    "not scaled": (lambda image, target: (image // 128, target), "grey levels 0 and 1 only"),
    "dark": (lambda image, target: (image // 64, target), "hardly any of the 256 grey levels"),
    "the mask": (lambda image, target: (255 * target, target), "are the same picture"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_oddity_of_most_of_a_folder_is_refused_and_one_of_a_few_images_is_a_warning(name, tmp_path):
    spoil, cause = ODD[name]
    folder = write(tmp_path / "most", spoil, range(1, 8))
    (problem,) = (p for p in check_folder(folder) if "same image" not in p)
    assert cause in problem and "most, 7 of 8 slices, such as s1: " in problem
    with pytest.raises(ValueError, match=cause):
        find_data(folder, check_folder)
    with pytest.warns(UserWarning, match=f"some, 2 of 8 slices, such as s1: .*{cause}"):
        assert check_folder(write(tmp_path / "some", spoil, (1, 4))) == []


def test_a_crop_filled_by_a_tumour_is_not_a_problem(tmp_path):
    folder = write(tmp_path / "f", ODD["all lesion"][0], (2,))
    with pytest.warns(UserWarning, match="1 of 8 slices, such as s2") as warned:
        assert find_data(folder, check_folder) == folder
    assert len(warned) == 1


def test_large_lesions_everywhere_are_a_warning(tmp_path):
    def enlarge(image, target):
        return image, np.pad(np.ones((20, 20), np.uint8), 2)

    with pytest.warns(UserWarning, match="f: lesions cover more than half of all pixels"):
        assert check_folder(write(tmp_path / "f", enlarge, range(8))) == []


def test_masks_without_any_lesion_are_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="f: no mask holds a lesion"):
        assert check_folder(write(tmp_path / "f", lambda image, target: (image, 0 * target), range(8))) == []


def test_one_image_under_many_ids_is_a_warning_and_in_two_splits_refused(tmp_path):
    def first(image, target):
        return pair(0)

    with pytest.warns(UserWarning, match="some, 1 of 8 slices, such as s1: the image is a copy of an earlier one"):
        assert check_folder(write(tmp_path / "some", first, (1,))) == []
    (problem,) = check_folder(write(tmp_path / "leak", first, (3,)))
    assert "has the same image as s0 in train and s3 in val (1 such pairs), so the scores would measure" in problem


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_one_volume_in_two_splits_is_refused(tmp_path, dtype):
    with VolumeWriter(tmp_path / "f") as out:
        for i, split in enumerate(SPLITS):
            image, target = pair(0 if i == 6 else i)
            hu = np.stack([image] * 3).astype(dtype if i else np.int16) * 5 - 1000
            out.add(ImageRecord(f"v{i}", f"p{i}", split), hu, np.stack([target] * 3), 1.0)
    (problem,) = check_volume_folder(tmp_path / "f")
    assert "has the same image as v0 in train and v6 in test (1 such pairs)" in problem


def test_swapped_masks_of_volumes_are_refused(tmp_path):
    for name, swapped in (("good", 0), ("bad", 1)):
        with VolumeWriter(tmp_path / name) as out:
            for i, split in enumerate(SPLITS):
                hu, target = np.stack([pair(i)[0]] * 3).astype(np.int16) * 5 - 1000, np.stack([pair(i)[1]] * 3)
                out.add(ImageRecord(f"v{i}", f"p{i}", split), hu, target ^ swapped, 1.0)
    assert check_volume_folder(tmp_path / "good") == []
    (problem,) = check_volume_folder(tmp_path / "bad")
    assert "8 of 8 volumes, such as v0: lesion and background look swapped" in problem


@pytest.mark.parametrize("name", ["stored values", "scaled to 0..1", "turned"])
def test_a_table_of_numbers_that_are_not_hu_is_refused(name, chest, tmp_path):
    spoil, cause = SPOILED[name]
    target = [(hu > 0).astype(np.int8) for hu in chest]
    columns = {"mask": target, "hu_array": list(chest), "hu_array_old": list(spoil(chest))}
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(columns))
    with pytest.raises(ValueError, match=f"t.pkl: column 'hu_array_old', 4 of 4 rows, such as row 0: .*{cause}"):
        read_table(tmp_path / "t.pkl", required=("mask", "hu_array_old"))
    assert len(read_table(tmp_path / "t.pkl", required=("mask", "hu_array"))["mask"]) == 4
    assert len(read_table(tmp_path / "t.pkl", required=("hu_array_old",), check_plausible=False)["mask"]) == 4
    columns |= {"hu_array_old": [columns["hu_array_old"][0], *chest[1:]]}
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(columns))
    with pytest.warns(UserWarning, match=f"1 of 4 rows, such as row 0: .*{cause}"):
        read_table(tmp_path / "t.pkl", required=("mask", "hu_array_old"))


def test_swapped_masks_of_a_table_are_refused(chest, tmp_path):
    target = [np.ones(hu.shape, np.int8) for hu in chest]
    (tmp_path / "t.pkl").write_bytes(pickle.dumps({"mask": target, "hu_array": list(chest)}))
    with pytest.raises(ValueError, match="4 of 4 rows, such as row 0: lesion and background look swapped"):
        read_table(tmp_path / "t.pkl", required=("mask", "hu_array"))


def test_an_empty_tally_says_nothing():
    assert Tally("f", "slices").verdict() == ([], [])


# ---- good data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["chest", "nodule", "volume"])
def test_phantoms_pass_without_a_warning(view, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if view == "volume":
            write_phantom_volumes(tmp_path / "f", num_patients=3, shape=(8, 48, 48), num_nodules=1)
            assert check_volume_folder(tmp_path / "f") == []
        else:
            write_phantom_folder(tmp_path / "f", view=view, num_patients=3, slices_per_patient=2, size=48)
            assert check_folder(tmp_path / "f") == []


@pytest.mark.skipif(not DATA.is_dir(), reason="LUNGSEG_DATA names no folder")
@pytest.mark.parametrize("name", ["lidc_nodules", "lidc_stacks", "lidc_scans"])
def test_real_data_pass_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (check_folder if name == "lidc_nodules" else check_volume_folder)(DATA / name) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="LUNGSEG_DATA names no folder")
def test_real_slices_pass_with_their_air_outside_the_circle():
    for path in sorted((DATA / "lidc_slices").glob("*.npz")):
        assert odd_hu(np.load(path)["hu"]) is None
    read_table(DATA / "lung_cancer_sample.pkl.gz", required=("mask", "hu_array_old", "hu_array"))


def test_a_mask_with_swapped_values_is_named_by_its_id(tmp_path):
    folder = write(tmp_path / "f")
    for path in (folder / "masks").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    (problem,) = check_folder(folder)
    assert "8 of 8 slices, such as s0: lesion and background look swapped" in problem
