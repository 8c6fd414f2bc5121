"""Soft targets: bits counted one by one, shares through resizing, augmentation and crops, and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from lungseg.data.augment import Augmentation
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.readers import count_readers, read_share, resize_share, vote_share
from lungseg.data.slices import SliceDataset, SliceWriter
from lungseg.data.volumes import CropDataset, VolumeDataset, VolumeWriter

DISC = np.hypot(*np.mgrid[-5.5:6, -6.5:7])  # (12, 14), the distance from the centre


def outlines(i):
    """(12, 14) bits of three readers (0, 1 and 3), the last of whom outlines only every second slice."""
    return (1 * (DISC < 2) + 2 * (DISC < 4) + 8 * (DISC < 3) * (i % 2)).astype(np.uint8)


def add_column(folder, name, cells):
    path = folder / "manifest.csv"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line},{cell}\n" for line, cell in zip(lines, [name, *cells], strict=True)))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers") / "slices"
    with SliceWriter(folder) as out:
        for i, split in enumerate(("train", "train", "val")):
            out.add(ImageRecord(f"s{i}", f"p{i}", split), (40 * DISC).astype(np.uint8), (DISC < 3).astype(np.uint8))
    (folder / "readers").mkdir()
    for i in range(3):
        Image.fromarray(outlines(i)).save(folder / f"readers/s{i}.png")
    add_column(folder, "readers", ["4", "", "2"])
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "slices")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers") / "scans"
    votes = np.random.default_rng(0).integers(0, 4, (5, 8, 9)).astype(np.uint8)
    with VolumeWriter(folder) as out:
        for i, split in enumerate(("train", "val")):
            out.add(ImageRecord(f"v{i}", f"p{i}", split), 100 * votes.astype(np.int16), votes > 1, 1.0)
    for i in range(2):
        with np.load(folder / f"volumes/v{i}.npz") as arrays:
            np.savez(folder / f"volumes/v{i}.npz", **arrays, votes=votes)
    return folder, votes


def test_a_share_is_the_number_of_bits_over_the_number_of_readers(original):
    assert count_readers(original) == {"s0": 4, "s2": 2}
    for record, readers in zip(read_manifest(original), (4, 3, 2), strict=True):  # of s1: all three who outlined it
        bits = np.asarray(Image.open(original / f"readers/{record.id}.png"))
        counted = [[bin(pixel).count("1") / readers for pixel in row] for row in bits.tolist()]
        if record.id != "s2":  # in which three readers outlined the centre
            np.testing.assert_allclose(read_share(original, record, count_readers(original), (12, 14)), counted)


def test_a_slice_that_nobody_outlined_has_only_zeros(folder):
    Image.fromarray(np.zeros((12, 14), np.uint8)).save(folder / "readers/s1.png")
    assert not read_share(folder, read_manifest(folder)[1], {}, (12, 14)).any()
    assert not vote_share(np.zeros((2, 3, 4), np.uint8), 0).any()


@given(sides=st.tuples(*[st.integers(1, 9)] * 4), seed=st.integers(0, 99), readers=st.integers(1, 4))
def test_resizing_keeps_the_mean_and_never_leaves_0_to_1(sides, seed, readers):
    share = vote_share(np.random.default_rng(seed).integers(0, readers + 1, sides[:2]), readers)
    small = resize_share(share, sides[2:])
    assert small.shape == sides[2:] and small.dtype == np.float32
    assert small.min() >= 0 and small.max() <= 1 and small.mean() == pytest.approx(share.mean(), abs=1e-6)


def test_training_slices_hold_shares_and_the_image_is_that_of_a_hard_target(original):
    for augment in (None, Augmentation()):
        for size in (None, 7):
            hard, soft = (SliceDataset(original, "train", size=size, augment=augment, soft=s) for s in (False, True))
            for (image, target, id_), (same, share, same_id) in zip(hard, soft, strict=True):
                assert torch.equal(image, same) and id_ == same_id and share.dtype == torch.float32
                assert share.shape == target.shape and 0 <= share.min() and share.max() <= 1
                assert len(share.unique()) > 2 and set(target.unique().tolist()) <= {0, 1}
                assert (share - target).abs().mean() < 0.2  # they lie in the same place


def test_augmentation_interpolates_shares_as_it_does_grey_values():
    image = np.clip(1 - DISC / 8, 0, 1).astype(np.float32)
    strength = Augmentation(elastic_probability=1, brightness=0, contrast=0)
    for seed in range(5):
        grey, share = strength(image, image.copy(), np.random.default_rng(seed))
        np.testing.assert_allclose(share, grey, atol=1e-6)
    for wrong in (2 * image + 1, image - 2, np.full_like(image, np.nan)):
        with pytest.raises(ValueError, match=r"expected a soft target in \[0, 1\]"):
            strength(image, wrong, np.random.default_rng(0))


def test_crops_of_volumes_hold_shares_at_the_same_places(scans):
    folder, votes = scans
    how = {"crop_size": (3, 8, 4), "crops_per_volume": 6, "flips": True}
    hard, soft = (CropDataset(folder, "train", **how, soft=s) for s in (False, True))
    for (image, target, _), (same, share, _) in zip(hard, soft, strict=True):
        assert torch.equal(image, same) and torch.equal(target, (share > 0.5).float())
        np.testing.assert_allclose(share * 3, (image * 1400 - 1000) / 100, atol=1e-3)  # here HU are 100 times the votes
    whole = CropDataset(folder, "train", crop_size=votes.shape, crops_per_volume=1, soft=True)[0][1]
    np.testing.assert_allclose(whole[0], votes / 3)
    assert set(VolumeDataset(folder, "val")[0][1].unique().tolist()) == {0, 1}


def test_the_manifest_says_how_many_readers_a_volume_had(scans, tmp_path):
    folder = shutil.copytree(scans[0], tmp_path / "scans")
    add_column(folder, "readers", ["6.0", "1"])
    whole = CropDataset(folder, "train", crop_size=scans[1].shape, crops_per_volume=1, soft=True)[0][1]
    np.testing.assert_allclose(whole[0], scans[1] / 6)
    with pytest.raises(ValueError, match="v1.npz: expected votes from 0 to 1, the number of readers, got 0 to 3"):
        CropDataset(folder, "val", crop_size=scans[1].shape, crops_per_volume=1, soft=True)[0]


def without_readers(folder):
    shutil.rmtree(folder / "readers")


def another_size(folder):
    Image.fromarray(outlines(0)[1:]).save(folder / "readers/s0.png")


def too_few(folder):
    text = (folder / "manifest.csv").read_text().replace(",4\n", ",1\n")
    (folder / "manifest.csv").write_text(text)


def a_word(folder):
    text = (folder / "manifest.csv").read_text().replace(",4\n", ",four\n")
    (folder / "manifest.csv").write_text(text)


def misspelt(folder):
    text = (folder / "manifest.csv").read_text().replace(",readers", ",Readers_")
    (folder / "manifest.csv").write_text(text)


def several_classes(folder):
    (folder / "classes.txt").write_text("solid\nground glass\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_readers, "holds no folder readers/, which --soft-targets needs"),
        (lambda folder: (folder / "readers/s1.png").unlink(), "s1.png is missing"),
        (another_size, "s0.png is 11 x 14 but its image is 12 x 14 pixels"),
        (too_few, "s0.png: expected votes from 0 to 1, the number of readers, got 0 to 2"),
        (a_word, "line 2: readers is 'four'. Write a whole number"),
        (misspelt, "manifest.csv: there is no readers, but there is 'Readers_'"),
        (several_classes, "has 2 lesion classes, and readers' votes do not say"),
    ],
)
def test_what_gives_no_soft_targets_is_refused_in_one_sentence(folder, spoil, words):
    spoil(folder)
    with pytest.raises(ValueError, match=words) as error:
        list(SliceDataset(folder, "train", soft=True))
    assert "\n" not in str(error.value)
    if spoil is not several_classes:
        assert len(list(SliceDataset(folder, "train"))) == 2  # without them, as ever


@pytest.mark.parametrize(("votes", "words"), [(None, "no array votes"), ((5, 8, 8), r"votes of shape \(5, 8, 8\)")])
def test_volumes_without_votes_are_refused_before_the_first_crop(scans, tmp_path, votes, words):
    folder = shutil.copytree(scans[0], tmp_path / "scans")
    with np.load(folder / "volumes/v0.npz") as arrays:
        kept = {name: arrays[name] for name in arrays if name != "votes"}
    np.savez(folder / "volumes/v0.npz", **kept, **({} if votes is None else {"votes": np.zeros(votes, np.uint8)}))
    with pytest.raises(ValueError, match=f"v0 holds {words}"):
        CropDataset(folder, "train", crop_size=(2, 2, 2), crops_per_volume=1, soft=True)
    assert len(CropDataset(folder, "train", crop_size=(2, 2, 2), crops_per_volume=1)) == 1
