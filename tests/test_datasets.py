"""Where a run finds its slices, and what it refuses."""

import shutil

import numpy as np
import pytest

from lungseg.data.folder import FolderWriter
from lungseg.data.manifest import SliceRecord, read_manifest
from lungseg.datasets import Phantoms, find_data, fingerprint, read_data

FEW = Phantoms("nodule", patients=5, slices=2, size=24, seed=0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return find_data(None, tmp_path_factory.mktemp("run"), FEW)


def small_folder(folder, splits):
    with FolderWriter(folder) as out:
        for i, split in enumerate(splits):
            target = np.zeros((8, 8), np.uint8)
            target[i % 8] = 1
            out.add(SliceRecord(f"s{i}", f"p{i}", split), 100 * target, target)
    return folder


def test_without_data_phantoms_are_drawn_once(drawn):
    records = read_manifest(drawn)
    assert len(records) == 10 and {r.split for r in records} == {"train", "val", "test"}
    before = (drawn / "manifest.csv").stat().st_mtime_ns
    assert find_data(None, drawn.parent, FEW) == drawn
    assert (drawn / "manifest.csv").stat().st_mtime_ns == before


def test_other_settings_are_another_folder(drawn):
    others = [
        Phantoms(*args)
        for args in (("chest", 5, 2, 24, 0), ("nodule", 6, 2, 24, 0), ("nodule", 5, 1, 24, 0), ("nodule", 5, 2, 20, 0),
                     ("nodule", 5, 2, 24, 1))
    ]  # fmt: skip
    folders = {find_data(None, drawn.parent, phantoms) for phantoms in others}
    assert len(folders | {drawn}) == 6
    assert len({fingerprint(folder) for folder in folders}) >= 3  # of names and splits, not of pixels


def test_windows_hold_their_nodule_and_are_targets_worth_learning(drawn):
    train, val, test = read_data(drawn, 24, "none", 0)
    for slices in (train, val, test):
        for image, target, _ in slices:
            assert image.shape == target.shape == (1, 24, 24)
    assert sum(target.sum() > 0 for _, target, _ in train) >= len(train) / 2


def test_only_training_slices_are_augmented(drawn):
    plain, full = read_data(drawn, 24, "none", 0), read_data(drawn, 24, "full", 0)
    changed = [not (a[i][0] == b[i][0]).all() for a, b in zip(plain, full, strict=True) for i in range(len(a))]
    assert all(changed[: len(plain[0])]) and not any(changed[len(plain[0]) :])


def test_without_a_test_split_validation_stands_in(tmp_path):
    data = small_folder(tmp_path / "data", ["train", "train", "val"])
    _, val, test = read_data(data, 8, "none", 0)
    assert test is val


def test_the_users_folder_is_checked_before_anything_is_done(tmp_path):
    good = small_folder(tmp_path / "good", ["train", "train", "val"])
    assert find_data(good, tmp_path / "run", FEW) == good
    broken = tmp_path / "broken"
    shutil.copytree(good, broken)
    for name in ("s0", "s1"):
        (broken / f"images/{name}.png").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"s0.png is not a PNG.* \(and 1 more problems\)"):
        find_data(broken, tmp_path / "run", FEW)
    with pytest.raises(ValueError, match="has only the splits test. Training needs train and val"):
        find_data(small_folder(tmp_path / "only", ["test"]), tmp_path / "run", FEW)
    assert not (tmp_path / "run").exists()


def test_the_fingerprint_is_of_the_slices_not_of_the_place(tmp_path):
    data = small_folder(tmp_path / "data", ["train", "train", "val"])
    shutil.copytree(data, tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == fingerprint(data)
    assert fingerprint(small_folder(tmp_path / "split", ["train", "val", "train"])) != fingerprint(data)
    assert fingerprint(small_folder(tmp_path / "fewer", ["train", "train"])) != fingerprint(data)
