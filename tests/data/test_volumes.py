"""The folder of volumes: every crop is a piece of its volume, lesions are seen, and whatever is broken is named."""

import hashlib
import itertools
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.utils.data import DataLoader

from lungseg.data import volumes
from lungseg.data.augment import Augmentation
from lungseg.data.manifest import ImageRecord, read_manifest, write_manifest
from lungseg.data.slices import SliceDataset, check_folder
from lungseg.data.volume_file import read_volume, write_volume
from lungseg.data.volumes import CropDataset, VolumeDataset, VolumeWriter, check_volume_folder

SIDES = st.tuples(*[st.integers(1, 9)] * 3)
SPACING = (2.0, 0.7, 0.7)


def numbered(shape):
    """HU in which every voxel has its own value, all inside the HU window and none of them air."""
    return np.arange(-999, -999 + np.prod(shape), dtype=np.int16).reshape(shape)


def blob(shape=(6, 7, 8), corner=(1, 2, 3), side=2):
    target = np.zeros(shape, np.uint8)
    target[tuple(slice(c, c + side) for c in corner)] = 1
    return target


def write_small(folder, shape=(6, 7, 8)):
    """Four patients, one volume each; the last has no lesion."""
    with VolumeWriter(folder) as out:
        for number, split in enumerate(("train", "train", "val", "test")):
            hu, target = numbered(shape) + np.int16(number), blob(shape) * (number < 3)
            out.add(ImageRecord(f"v{number}", f"p{number}", split, spacing_mm=0.7), hu, target, SPACING)
    return folder


def one_volume(folder, hu, target):
    """A folder with a single training volume "v", written anew if it is there."""
    (folder / "volumes").mkdir(exist_ok=True)
    write_volume(folder / "volumes/v.npz", hu, target, SPACING)
    write_manifest(folder / "manifest.csv", [ImageRecord("v", "p", "train")])
    return folder


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("volumes") / "scans")


@pytest.fixture
def small(master, tmp_path):
    return shutil.copytree(master, tmp_path / "scans")


# ---- whole volumes -----------------------------------------------------------------------------------------------


def test_whole_volumes_are_tensors_of_the_promised_kind(small):
    data = VolumeDataset(small, "train")
    image, target, id_ = data[1]
    assert (image.shape, image.dtype, target.shape, target.dtype) == ((1, 6, 7, 8), torch.float32) * 2
    assert np.allclose(image[0] * 1400 - 1000, numbered((6, 7, 8)) + 1, atol=1e-3)
    assert np.array_equal(target[0], blob()) and id_ == "v1" and len(data) == 2
    assert data.spacing_mm(0) == SPACING and [r.id for r in data.records] == ["v0", "v1"]
    assert torch.equal(data[-1][0], image) and len(VolumeDataset(small)) == 4
    with pytest.raises(IndexError):
        data[2]


def test_hu_beyond_the_hu_window_are_its_ends(tmp_path):
    hu = np.array([-3024, -1000, 400, 3000], np.int16).reshape(1, 2, 2)
    one_volume(tmp_path, hu, np.zeros(hu.shape))
    assert VolumeDataset(tmp_path)[0][0].ravel().tolist() == [0, 0, 1, 1]


def test_a_folder_of_arrays_serves_as_well(small):
    expected = VolumeDataset(small)[0][0]
    path = small / "volumes/1.2.840"  # as many scanners name a scan
    path.mkdir()
    for name, array in np.load(small / "volumes/v0.npz").items():
        np.save(path / f"{name}.npy", array)
    (small / "volumes/v0.npz").unlink()
    (small / "manifest.csv").write_text((small / "manifest.csv").read_text().replace("v0", "1.2.840"))
    assert check_volume_folder(small) == []
    assert torch.equal(VolumeDataset(small)[0][0], expected)
    (small / "manifest.csv").unlink()
    with pytest.warns(UserWarning, match="which volumes belong to one patient"):
        assert [r.id for r in read_manifest(small)] == ["1.2.840", "v1", "v2", "v3"]


# ---- crops -----------------------------------------------------------------------------------------------------


@given(shape=SIDES, crop=SIDES, foreground=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_patch_is_a_piece_of_its_volume_with_air_beyond_the_far_ends(tmp_path, shape, crop, foreground, seed, data):
    hu, target = numbered(shape), np.random.default_rng(seed).integers(0, 2, shape)
    one_volume(tmp_path, hu, target)
    crops = CropDataset(tmp_path, crop_size=crop, crops_per_volume=5, foreground=foreground, seed=seed)
    index = data.draw(st.integers(0, 4))
    image, found, id_ = crops[index]
    assert image.shape == found.shape == (1, *crop) and id_ == f"v:{index}"
    image, found = np.rint(image[0].numpy() * 1400 - 1000).astype(int), found[0].numpy()
    start = np.unravel_index(image[0, 0, 0] + 999, shape)  # the value of a voxel gives its place
    for offset in np.ndindex(crop):
        place = tuple(np.add(start, offset))
        inside = all(p < s for p, s in zip(place, shape, strict=True))
        assert (image[offset], found[offset]) == ((hu[place], target[place]) if inside else (-1000, 0))
    for first, side, wanted in zip(start, shape, crop, strict=True):
        assert first == 0 or first + wanted <= side  # nothing is filled up where the volume has enough


@given(shape=SIDES, crop=SIDES, seed=st.integers(0, 999), voxels=st.integers(1, 4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_patch_asked_on_the_foreground_holds_a_lesion_voxel(tmp_path, shape, crop, seed, voxels):
    target = np.zeros(shape, np.uint8)
    target.flat[np.random.default_rng(seed).integers(0, target.size, voxels)] = 1
    one_volume(tmp_path, numbered(shape), target)
    crops = CropDataset(tmp_path, crop_size=crop, crops_per_volume=10, foreground=1, flips=True, seed=seed)
    assert all(crops[i][1].any() for i in range(10))


def corners(crops, shape):
    """Where each crop begins, from the values of `numbered` voxels."""
    first = [round(float(crops[i][0][0, 0, 0, 0]) * 1400 - 1) for i in range(len(crops))]
    return list(zip(*np.unravel_index(first, shape), strict=True))


def test_patches_lie_anywhere_equally_often(tmp_path):
    shape = (3, 4, 5)
    one_volume(tmp_path, numbered(shape), blob(shape, (0, 0, 0), 1))
    crops = CropDataset(tmp_path, crop_size=(2, 2, 2), crops_per_volume=720, foreground=0)
    places, counts = np.unique(corners(crops, shape), axis=0, return_counts=True)
    assert len(places) == 2 * 3 * 4 and counts.min() > 10 and counts.max() < 60  # 30 each is expected


def test_a_foreground_patch_has_its_lesion_anywhere(tmp_path):
    shape = (5, 5, 5)
    one_volume(tmp_path, numbered(shape), blob(shape, (2, 2, 2), 1))
    crops = CropDataset(tmp_path, crop_size=(3, 3, 3), crops_per_volume=400, foreground=1)
    assert set(corners(crops, shape)) == set(itertools.product(range(3), repeat=3))


def test_the_share_of_foreground_patches_is_as_asked(tmp_path):
    one_volume(tmp_path, numbered((10, 10, 10)), blob((10, 10, 10), (0, 0, 0), 1))
    crops = CropDataset(tmp_path, crop_size=(1, 1, 1), crops_per_volume=400, foreground=0.3)
    assert 90 < sum(bool(crops[i][1].any()) for i in range(400)) < 150


def test_a_small_lesion_is_seen_as_often_as_a_large_one(tmp_path):
    target = blob((10, 10, 10), (0, 0, 0), 6)
    target[9, 9, 9] = 1  # 1 voxel against 216
    one_volume(tmp_path, numbered(target.shape), target)
    crops = CropDataset(tmp_path, crop_size=(1, 1, 1), crops_per_volume=400, foreground=1)
    small = sum(corner == (9, 9, 9) for corner in corners(crops, target.shape))
    assert 160 < small < 240


def test_a_volume_without_lesions_gives_patches_too(small):
    crops = CropDataset(small, "test", crop_size=(2, 2, 2), crops_per_volume=50, foreground=1)
    assert not any(crops[i][1].any() for i in range(50)) and len(set(corners(crops, (6, 7, 8)))) > 20


def test_flips_turn_image_and_target_round_together_and_into_all_eight_positions(tmp_path):
    hu, target = numbered((3, 3, 3)), np.random.default_rng(0).integers(0, 2, (3, 3, 3))
    one_volume(tmp_path, hu, target)
    crops = CropDataset(tmp_path, crop_size=(3, 3, 3), crops_per_volume=60, flips=True)
    axes = [a for n in range(4) for a in itertools.combinations(range(3), n)]
    seen = set()
    for i in range(60):
        image, found, _ = crops[i]
        image = np.rint(image[0].numpy() * 1400 - 1000)
        (turned,) = (a for a in axes if np.array_equal(np.flip(hu, a), image))
        assert np.array_equal(np.flip(target, turned), found[0])
        seen.add(turned)
    assert seen == set(axes)


VARIED = {"augment": Augmentation(elastic_probability=1), "slice_mm": 0.8}  # of slices 2 mm apart


def test_crops_with_flips_only_are_those_of_earlier_versions(tmp_path):
    """A run that was begun with an earlier version goes on with the same numbers."""
    one_volume(tmp_path, numbered((6, 7, 8)), blob())
    crops = CropDataset(tmp_path, crop_size=(3, 9, 4), crops_per_volume=20, flips=True, seed=4)
    digest = hashlib.sha256(b"".join(torch.cat(crops[i][:2]).numpy().tobytes() for i in range(20))).hexdigest()
    assert digest[:16] == "57c11b6ba7d0da44"


@given(
    shape=SIDES, crop=SIDES, seed=st.integers(0, 999), voxels=st.integers(1, 4), slice_mm=st.sampled_from([None, 0.8])
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_varied_crop_asked_on_the_foreground_holds_a_lesion_voxel(tmp_path, shape, crop, seed, voxels, slice_mm):
    target = np.zeros(shape, np.uint8)
    target.flat[np.random.default_rng(seed).integers(0, target.size, voxels)] = 1
    one_volume(tmp_path, numbered(shape), target)
    varied = VARIED | {"slice_mm": slice_mm}
    crops = CropDataset(tmp_path, crop_size=crop, crops_per_volume=5, foreground=1, flips=True, seed=seed, **varied)
    for image, found, _ in crops:
        assert image.shape == found.shape == (1, *crop) and found.any()
        assert 0 <= image.min() and image.max() <= 1 and set(found.unique().tolist()) <= {0, 1}


def test_a_turned_crop_shows_what_is_around_it_and_no_air(tmp_path):
    hu = np.full((3, 64, 64), -300, np.int16)
    hu[:, 0] = -1000  # so that it is no constant
    one_volume(tmp_path, hu, blob(hu.shape, (1, 32, 32), 1))
    turning = Augmentation(rotation=180, elastic_probability=1, brightness=0, contrast=0)
    crops = CropDataset(tmp_path, crop_size=(3, 16, 16), crops_per_volume=50, foreground=1, augment=turning)
    assert all(image.allclose(torch.tensor(0.5)) for image, _, _ in crops)


def test_image_and_target_of_a_varied_crop_move_together(tmp_path):
    """The lesion is bright, so each can be told from the other, but for pixels on its border."""
    z, y, x = np.indices((8, 40, 40)) - np.reshape([4, 20, 20], (3, 1, 1, 1))
    target = ((3 * z) ** 2 + y**2 + (2 * x) ** 2 < 150).astype(np.uint8)
    one_volume(tmp_path, (1200.0 * target - 900).astype(np.int16), target)
    for slice_mm in (None, 0.8, 3.0):
        varied = VARIED | {"slice_mm": slice_mm}
        crops = CropDataset(tmp_path, crop_size=(8, 32, 32), crops_per_volume=10, foreground=1, flips=True, **varied)
        for image, found, _ in crops:
            bright = image > 0.5
            assert 2 * (bright * found).sum() / (bright.sum() + found.sum()) > 0.95 and 100 < found.sum() < 5000


def test_variations_leave_places_and_flips_as_they_are(small):
    options = {"crop_size": (3, 4, 5), "crops_per_volume": 9, "flips": True}
    plain = CropDataset(small, "train", **options)
    still = CropDataset(
        small, "train", augment=Augmentation(0, elastic_probability=0, contrast=0, brightness=0), **options
    )
    turned, brighter = (
        CropDataset(small, "train", augment=augment, **options)
        for augment in (Augmentation(elastic_probability=0, contrast=0, brightness=0), Augmentation(0, elastic_alpha=0))
    )
    for i in range(len(plain)):
        assert torch.equal(plain[i][0], still[i][0]) and torch.equal(plain[i][1], still[i][1])
        assert not torch.equal(plain[i][0], turned[i][0]) and not torch.equal(plain[i][0], brighter[i][0])
        assert torch.equal(plain[i][1], brighter[i][1])


def test_strong_variations_change_scale_and_grey_values_too(small):
    options = {"crop_size": (3, 4, 5), "crops_per_volume": 9, "foreground": 1}
    off = Augmentation(rotation=0, elastic_probability=0, contrast=0, brightness=0, scale=4.0)
    plain = CropDataset(small, "train", **options)
    for part in ("scale", "blur", "gamma", "noise"):
        strong = CropDataset(small, "train", augment=replace(off, **{f"{part}_probability": 1.0}), **options)
        assert any(not torch.equal(plain[i][0], strong[i][0]) for i in range(9))
        same_target = all(torch.equal(plain[i][1], strong[i][1]) for i in range(9))
        assert same_target == (part != "scale") and all(strong[i][1].any() for i in range(9))


def test_crops_of_volumes_with_different_spacings_show_the_same_scale(tmp_path):
    """A plate of 4 mm is 4 slices of 1 mm high in each."""
    (tmp_path / "volumes").mkdir()
    records = []
    for i, spacing in enumerate((0.5, 1.0, 2.0, 4.0)):
        hu = np.full((round(24 / spacing), 6, 6), -900, np.int16)
        target = np.zeros(hu.shape, np.uint8)
        plate = slice(round(8 / spacing), round(12 / spacing))
        hu[plate], target[plate] = 200, 1
        write_volume(tmp_path / f"volumes/v{i}.npz", hu, target, (spacing, 1.0, 1.0))
        records.append(ImageRecord(f"v{i}", f"p{i}", "train"))
    write_manifest(tmp_path / "manifest.csv", records)
    crops = CropDataset(tmp_path, crop_size=(24, 4, 4), crops_per_volume=1, slice_mm=1.0)
    heights = [target[0, :, 0, 0] for _, target, _ in crops]
    assert all(torch.equal(height, heights[1]) for height in heights) and heights[1].sum() == 4
    as_stored = CropDataset(tmp_path, crop_size=(24, 4, 4), crops_per_volume=1)
    assert [int(target[0, :, 0, 0].sum()) for _, target, _ in as_stored] == [8, 4, 2, 1]


def epoch_of(loader, crops, epoch):
    crops.set_epoch(epoch)
    batches = [(torch.cat([image, target], 1), ids) for image, target, ids in loader]
    return torch.cat([pair for pair, _ in batches]), sum((list(ids) for _, ids in batches), [])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of torch, on one processor
@pytest.mark.parametrize(("persistent", "varied"), [(False, {}), (True, VARIED)])
def test_a_patch_depends_only_on_seed_epoch_and_index(small, persistent, varied):
    def make(seed):
        return CropDataset(small, "train", crop_size=(2, 3, 4), crops_per_volume=3, flips=True, seed=seed, **varied)

    alone, shared, other = make(5), make(5), make(6)
    two = DataLoader(shared, batch_size=2, num_workers=2, persistent_workers=persistent)
    epochs = [epoch_of(DataLoader(alone), alone, e) for e in (0, 1)]
    assert not torch.equal(epochs[0][0], epochs[1][0])
    assert epochs[0][1] == ["v0:0", "v0:1", "v0:2", "v1:0", "v1:1", "v1:2"]
    for e in (1, 0):
        assert torch.equal(epoch_of(two, shared, e)[0], epochs[e][0])
    backwards = make(5)
    assert all(torch.equal(backwards[i][0][0], epochs[0][0][i, 0]) for i in (5, 2, 4, 0, 3, 1))
    assert not torch.equal(epoch_of(DataLoader(other), other, 0)[0], epochs[0][0])


def test_items_are_counted_from_both_ends_and_no_further(small):
    crops = CropDataset(small, crop_size=(2, 2, 2), crops_per_volume=3)
    assert len(crops) == 12 and torch.equal(crops[-1][0], crops[11][0]) and crops[-1][2] == "v3:2"
    with pytest.raises(IndexError):
        crops[12]


@pytest.mark.parametrize(
    "wrong", [{"crop_size": (2, 2)}, {"crop_size": (0, 2, 2)}, {"crops_per_volume": 0}, {"foreground": 1.1}]
)
def test_arguments_out_of_range_are_named(small, wrong):
    arguments = {"crop_size": (2, 2, 2), "crops_per_volume": 1} | wrong
    with pytest.raises(ValueError, match=re.escape(str(*wrong.values()))):
        CropDataset(small, **arguments)


def test_only_the_patch_is_read(tmp_path):
    """The volume is a hole of 64 GiB in a file: it can be opened, but hardly read."""
    home = tmp_path / "volumes/v"
    home.mkdir(parents=True)
    for name, dtype in (("hu", "<i2"), ("target", "|u1")):
        with open(home / f"{name}.npy", "wb") as file:
            header = {"descr": dtype, "fortran_order": False, "shape": (2**11, 2**12, 2**12)}
            np.lib.format.write_array_header_1_0(file, header)
            try:
                file.truncate(file.tell() + np.dtype(dtype).itemsize * 2**35)
            except OSError:
                pytest.skip("this file system has no files with holes of that size")
    write_manifest(tmp_path / "manifest.csv", [ImageRecord("v", "p", "train")])
    for augment in (None, Augmentation()):
        crops = CropDataset(tmp_path, crop_size=(2, 2, 8), crops_per_volume=9, foreground=0, augment=augment)
        assert all((crops[i][0] > 0.6).all() for i in range(9))  # the numbers in a hole are 0: water


# ---- damage ------------------------------------------------------------------------------------------------------


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[data.index(numbered((6, 7, 8)).tobytes()) + 77] ^= 1  # one HU becomes another: only the checksum knows
    path.write_bytes(data)


def save(path, **changed):
    np.savez(path, **{"hu": numbered((6, 7, 8)), "target": blob(), "spacing_mm": SPACING} | changed)


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


FILE, TABLE = "volumes/v0.npz", "manifest.csv"
DAMAGES = {
    "missing": (lambda d: (d / FILE).unlink(), FILE, "is missing. Give"),
    "cut": (lambda d: os.truncate(d / FILE, 700), FILE, "is damaged or cut short"),
    "flipped": (lambda d: flip_a_byte(d / FILE), FILE, "is damaged .the checksum of hu.npy is wrong"),
    "no target": (lambda d: np.savez(d / FILE, hu=numbered((6, 7, 8))), FILE, "holds no array target. Save"),
    "no hu": (lambda d: np.savez(d / FILE, target=blob()), FILE, "holds no array hu"),
    "grid": (lambda d: save(d / FILE, target=blob()[1:]), FILE, "target has shape .* but hu has"),
    "255": (lambda d: save(d / FILE, target=blob() * 255), FILE, "expected target with values 0 and 1, got 0, 255"),
    "nan": (lambda d: save(d / FILE, hu=np.full((6, 7, 8), np.nan)), FILE, "hu holds NaN or infinite values"),
    "raw": (lambda d: save(d / FILE, hu=numbered((6, 7, 8)) + 1024), FILE, "no value below 0, .* slope and intercept"),
    "spacing": (
        lambda d: save(d / FILE, spacing_mm=0),
        FILE,
        "expected spacing_mm with three positive numbers, .* got .0..",
    ),
    "extra": (lambda d: save(d / "volumes/x.npz"), "volumes/x.npz", "has no row in the manifest. Add one"),
    "twin": (lambda d: (d / "volumes/v3").mkdir(), "v3.npz", "has no row"),
    "climbing": (lambda d: edit(d / TABLE, "v0,", "../v0,"), "'../v0'", "is not a plain file name"),
    "leak": (lambda d: edit(d / TABLE, "p1,", "p2,"), "'p2'", "is in train and in val"),
    "no rows": (lambda d: (d / TABLE).write_text("id,group,split\n"), TABLE, "lists no volume. Put"),
    "no volumes": (lambda d: shutil.rmtree(d / "volumes"), "scans", "holds no folder volumes/. Put each volume"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named_with_its_file_and_nothing_else_is_accused(small, name):
    damage, where, what = DAMAGES[name]
    assert check_volume_folder(small) == []
    damage(small)
    problems = check_volume_folder(small)
    assert [p for p in problems if where in p and re.search(what, p)], problems
    assert all(where in p or "v0" in p or "v3" in p for p in problems), problems


@pytest.mark.parametrize("wrong", [{"target": blob() * 255}, {"hu": np.full((6, 7, 8), np.nan)}])
@pytest.mark.parametrize("kind", [VolumeDataset, CropDataset])
def test_wrong_values_are_not_trained_on_even_if_nobody_checked_the_folder(small, kind, wrong):
    save(small / FILE, **wrong)
    options = {"crop_size": (6, 7, 8), "crops_per_volume": 1} if kind is CropDataset else {}
    with pytest.raises(
        ValueError, match=r"v0.npz: (expected target with values 0 and 1, got 0, 255|hu_to_unit: 336 of 336 .* NaN)"
    ):
        kind(small, "train", **options)[0]


def test_a_changed_voxel_is_noticed_where_whole_volumes_are_read(small):
    flip_a_byte(small / FILE)
    with pytest.raises(ValueError, match="v0.npz is damaged .the checksum of hu.npy"):
        VolumeDataset(small)[0]


def test_too_little_memory_for_a_volume_is_a_sentence_with_its_name(small, monkeypatch):
    def no_memory(hu):
        raise MemoryError

    monkeypatch.setattr(volumes, "hu_to_unit", no_memory)
    with pytest.raises(ValueError, match="v0.npz: 6 x 7 x 8 voxels need more memory than there is"):
        VolumeDataset(small)[0]


def test_slices_and_volumes_are_not_mixed_up(small, tmp_path):
    with pytest.raises(ValueError, match=r"scans: expected slices, got a folder of volumes"):
        SliceDataset(small)
    assert len(check_folder(small)) == 1
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"expected volumes, got a folder of slices"):
        VolumeDataset(tmp_path)
    with pytest.raises(ValueError, match="has no volume in the split 'valid' .it has 2 train, 1 val, 1 test"):
        VolumeDataset(small, "valid")


# ---- writing -----------------------------------------------------------------------------------------------------


def test_a_folder_is_written_completely_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), VolumeWriter(tmp_path / "scans") as out:
        out.add(ImageRecord("v", "p", "train"), numbered((2, 2, 2)), blob((2, 2, 2), (0, 0, 0)), 1.0)
        raise KeyboardInterrupt
    with (
        pytest.raises(ValueError, match="expected target with values 0 and 1, got 7"),
        VolumeWriter(tmp_path / "scans") as out,
    ):
        out.add(ImageRecord("v", "p", "train"), numbered((2, 2, 2)), np.full((2, 2, 2), 7), 1.0)
    assert os.listdir(tmp_path) == []


def test_a_volume_of_a_folder_says_where_it_lies(tmp_path):
    affine = np.diag([2.0, 0.7, 0.7, 1.0])
    with VolumeWriter(tmp_path / "scans") as out:
        hu = numbered((2, 2, 2))
        out.add(ImageRecord("v", "p", "train"), hu, np.zeros((2, 2, 2)), 1.0, affine=affine, crop_start=(3, 4, 5))
    kept = read_volume(tmp_path / "scans/volumes/v.npz").geometry
    assert np.array_equal(kept["affine"], affine) and kept["crop_start"].tolist() == [3, 4, 5] and len(kept) == 2
    with pytest.raises(ValueError, match="expected geometry among .* got afine"), VolumeWriter(tmp_path / "f") as out:
        out.add(ImageRecord("v", "p", "train"), numbered((2, 2, 2)), np.zeros((2, 2, 2)), 1.0, afine=affine)


@pytest.mark.parametrize("id_", ["../evil", "a/b", "", "V"])
def test_a_writer_refuses_every_id_that_a_reader_refuses(tmp_path, id_):
    with pytest.raises(ValueError, match="plain file name|one file name on"), VolumeWriter(tmp_path / "f") as out:
        for name in ("v", id_):
            out.add(ImageRecord(name, "p", "train"), numbered((2, 2, 2)), np.zeros((2, 2, 2)), 1.0)
    assert os.listdir(tmp_path) == []


# ---- lesion classes ----------------------------------------------------------------------------------------------


def write_classes(folder, classes=("common", "rare")):
    """One training volume: ten lesions of class 1 in every other slice, one voxel of class 2."""
    target = np.zeros((9, 12, 12), np.uint8)
    target[::2, 2:8:4, 3:6] = 1
    target[5, 10, 10] = 2
    with VolumeWriter(folder, classes=classes) as out:
        out.add(ImageRecord("v", "p", "train"), numbered((9, 12, 12)), target, SPACING)
    return target


def test_classes_of_volumes_become_channels_also_in_patches(tmp_path):
    target = write_classes(tmp_path / "f")
    assert check_volume_folder(tmp_path / "f") == []
    whole = VolumeDataset(tmp_path / "f", "train")
    assert whole.classes == ("common", "rare") and whole[0][0].shape == (1, 9, 12, 12)
    assert np.array_equal(whole[0][1].numpy(), [target == 1, target == 2])
    image = whole[0][0][0]
    crops = CropDataset(tmp_path / "f", "train", crop_size=(3, 4, 14), crops_per_volume=30, flips=True)
    for crop, channels, _ in crops:
        assert crop.shape == (1, 3, 4, 14) and channels.shape == (2, 3, 4, 14)
        for k in (0, 1):  # every voxel has its own grey: where a channel is 1, the volume has that class
            greys = crop[0][channels[k] > 0]
            assert torch.isin(greys, image[target == k + 1]).all()
            assert not torch.isin(crop[0][channels[k] == 0], image[target == k + 1]).any()


def test_a_rare_class_is_seen_as_often_as_a_common_one(tmp_path):
    write_classes(tmp_path / "f")
    crops = CropDataset(tmp_path / "f", "train", crop_size=(1, 2, 2), crops_per_volume=400, foreground=1.0)
    seen = torch.stack([channels.amax((1, 2, 3)) for _, channels, _ in crops]).mean(0)  # (2,)
    assert 0.4 < seen[1] < 0.6 and seen.sum() >= 1  # were a lesion drawn out of all, 1 of 11


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            None,
            "expected target with values 0 and 1, got 0, 2. Binarise it. Masks of lesion classes 1 to K need",
        ),
        ("one\n", "expected target with values 0 and 1, got 0, 2"),
        ("a\nb\nc\n", "no mask holds the value 3, which classes.txt calls 'c'"),
        ("a\na\n", "classes.txt: line 2 is 'a', and so is line 1"),
    ],
)
def test_volumes_whose_targets_do_not_fit_the_classes_are_named(tmp_path, text, problem):
    write_classes(tmp_path / "f")
    (tmp_path / "f/classes.txt").unlink() if text is None else (tmp_path / "f/classes.txt").write_text(text)
    problems = check_volume_folder(tmp_path / "f")
    assert len(problems) == 1 and problem in problems[0]


def test_a_volume_with_a_class_too_many_is_not_written(tmp_path):
    with (
        pytest.raises(ValueError, match="target holds the values 0, 3, but classes.txt names only the values 1 to 2"),
        VolumeWriter(tmp_path / "f", classes=("a", "b")) as out,
    ):
        out.add(ImageRecord("v", "p", "train"), numbered((6, 7, 8)), 3 * blob(), SPACING)
    assert not any(tmp_path.iterdir())
