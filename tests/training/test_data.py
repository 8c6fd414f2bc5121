"""What a run learns from: found or drawn, checked, split, and described for its checkpoints."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.slices import SliceWriter, check_folder
from lungseg.data.volumes import VolumeWriter
from lungseg.training.data import empty_channels, find_data, fingerprint, open_data
from lungseg.training.distributed import ALONE
from lungseg.training.recipe import RunOptions, TrainingRecipe, VolumeRecipe

FEW = TrainingRecipe(phantom_view="nodule", phantom_patients=5, phantom_slices=2, img_size=24, augment="none")
SOLID = VolumeRecipe(
    spatial_dims=3, augment="none", phantom_volumes=4, phantom_shape=(6, 20, 24), crop_size=(4, 8, 16), batch_size=3,
    crops_per_volume=5,
)  # fmt: skip


def opened(recipe, out, data=None, seed=0):
    return open_data(recipe, RunOptions(data=data, out=out, seed=seed), ALONE)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return opened(FEW, tmp_path_factory.mktemp("run"))


def small_folder(folder, splits, size=8):
    with SliceWriter(folder) as out:
        for i, split in enumerate(splits):
            target = np.zeros((size, size), np.uint8)
            target[i % size] = 1
            image = 100 * target + np.arange(size, dtype=np.uint8)
            out.add(ImageRecord(f"s{i}", f"p{i}", split, spacing_mm=0.5 + i), image, target)
    return folder


def test_without_data_phantoms_are_drawn_once(drawn):
    records = read_manifest(drawn.folder)
    assert len(records) == 10 and {r.split for r in records} == {"train", "val", "test"}
    before = (drawn.folder / "manifest.csv").stat().st_mtime_ns
    assert opened(FEW, drawn.folder.parent).folder == drawn.folder
    assert (drawn.folder / "manifest.csv").stat().st_mtime_ns == before


def test_other_settings_are_another_folder(drawn):
    changes = [{"phantom_view": "chest"}, {"phantom_patients": 6}, {"phantom_slices": 1}, {"img_size": 20}]
    others = [opened(replace(FEW, **change), drawn.folder.parent) for change in changes]
    others.append(opened(FEW, drawn.folder.parent, seed=1))
    assert len({data.folder for data in [drawn, *others]}) == 6
    assert len({data.fingerprint for data in others}) >= 3  # of names and splits, not of pixels


def test_windows_hold_their_nodule_and_are_targets_worth_learning(drawn):
    sets = drawn.train_set, drawn.val_set, drawn.test_set
    for slices in sets:
        for image, target, _ in slices:
            assert image.shape == target.shape == (1, 24, 24)
    assert sum(target.sum() > 0 for _, target, _ in sets[0]) >= len(sets[0]) / 2
    patients = [{record.group for record in slices.records} for slices in sets]
    assert not patients[0] & patients[1] and not patients[1] & patients[2] and not patients[0] & patients[2]


def test_only_training_slices_are_augmented(drawn):
    full = opened(replace(FEW, augment="full"), drawn.folder.parent)

    def differ(a, b):
        return [not (a[i][0] == b[i][0]).all() for i in range(len(a))]

    assert all(differ(full.train_set, drawn.train_set))
    for name in ("plain_train_set", "val_set", "test_set"):
        assert not any(differ(getattr(full, name), getattr(drawn, name)))
    assert not any(differ(drawn.train_set, drawn.plain_train_set))


def test_strong_is_full_and_more(drawn):
    full, strong = (opened(replace(FEW, augment=name), drawn.folder.parent).train_set for name in ("full", "strong"))
    changed = [not (full[i][0] == strong[i][0]).all() for i in range(len(full))]
    assert any(changed) and full.augment != strong.augment
    again = opened(replace(FEW, augment="strong"), drawn.folder.parent).train_set
    assert all((again[i][0] == strong[i][0]).all() for i in reversed(range(len(full))))
    again.set_epoch(1)
    assert any(not (again[i][0] == strong[i][0]).all() for i in range(len(full)))


def test_volumes_are_learned_in_crops_and_evaluated_whole(tmp_path):
    data = opened(SOLID, tmp_path)
    assert len(read_manifest(data.folder)) == 4
    assert len(data.train_set) == 5 * len(data.plain_train_set)
    image, target, ids = next(iter(data.train))
    assert image.shape == target.shape == (3, 1, 4, 8, 16) and len(ids) == 3
    for batches in (data.val, data.test):
        for image, target, ids in batches:
            assert image.shape == target.shape == (1, 1, 6, 20, 24) and len(ids) == 1
    assert data.input.to_dict()["size"] == [4, 8, 16] and data.input.to_dict()["scale"] == [1.0, 1.0, 1.0]
    assert data.input.to_dict()["spacing_mm"] == [2.0, 1.2, 1.2]
    assert opened(SOLID, tmp_path).folder == data.folder
    assert opened(replace(SOLID, phantom_shape=(6, 20, 20)), tmp_path).folder != data.folder
    kinds = [opened(replace(SOLID, augment=name), tmp_path).train_set for name in ("none", "flips", "full")]
    for one, other in zip(kinds, kinds[1:], strict=False):
        assert any(not (one[i][0] == other[i][0]).all() for i in range(len(one)))


def test_of_resampled_volumes_the_network_is_shown_other_slices_than_it_is_judged_by(tmp_path):
    """The phantoms have 6 slices 2 mm apart, so 12 at 1 mm."""
    data, plain = (opened(replace(SOLID, slice_mm=mm), tmp_path) for mm in (1.0, None))
    for batches in (data.val, data.test):
        for image, target, _ in batches:
            assert image.shape == (1, 1, 12, 20, 24) and target.shape == (1, 1, 6, 20, 24)
    assert data.val_set[0][0].shape == data.plain_train_set[0][0].shape == (1, 6, 20, 24)
    assert all(data.train_set[i][0].shape == (1, 4, 8, 16) for i in range(5))
    assert any(not torch.equal(data.train_set[i][0], plain.train_set[i][0]) for i in range(5))
    about = data.input.to_dict()
    assert (about["slice_mm"], about["spacing_mm"], about["scale"]) == (1.0, [1.0, 1.2, 1.2], [1.0, 1.0, 1.0])
    assert "slice_mm" not in plain.input.to_dict()


def test_a_checkpoint_is_told_what_the_network_saw(tmp_path):
    folder = small_folder(tmp_path / "data", ["train", "train", "train", "val"], size=8)
    data = opened(replace(FEW, img_size=4), tmp_path, folder)
    one_grid = {"source_scale": None, "stretched": False}
    about = {"size": [4, 4], "scale": [0.5, 0.5], "hu_window": [-1000.0, 400.0], "spacing_mm": 1.5}
    assert data.input.to_dict() == about | one_grid


def test_the_pixels_of_volumes_are_unknown_if_any_side_is(tmp_path):
    for name, spacing in (("none", np.nan), ("some", (np.nan, 0.7, 0.7))):
        with VolumeWriter(tmp_path / name) as out:
            for i, split in enumerate(("train", "val")):
                target = np.zeros((4, 8, 16), np.uint8)
                target[2, 4, 4] = 1
                out.add(ImageRecord(f"v{i}", f"p{i}", split), target.astype(np.int16) - 800 - i, target, spacing)
        assert opened(SOLID, tmp_path, tmp_path / name).input.to_dict()["spacing_mm"] is None


@pytest.mark.parametrize("row", [0, 3])  # of training, and of validation
def test_slices_of_two_hu_windows_are_refused(tmp_path, row):
    folder = small_folder(tmp_path / "data", ["train", "train", "train", "val"])
    with open(folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row] |= {"hu_low": "-160", "hu_high": "240"}
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match="window -1000 to 400 and others in -160 to 240, .* with one window"):
        opened(FEW, tmp_path, folder)


def test_without_a_test_split_validation_stands_in(tmp_path):
    data = opened(FEW, tmp_path, small_folder(tmp_path / "data", ["train", "train", "val"]))
    assert [r.id for r in data.test_set.records] == [r.id for r in data.val_set.records] == ["s2"]


def test_the_users_folder_is_checked_before_anything_is_done(tmp_path):
    good = small_folder(tmp_path / "good", ["train", "train", "val"])
    assert find_data(good, check_folder) == good
    broken = tmp_path / "broken"
    shutil.copytree(good, broken)
    for name in ("s0", "s1"):
        (broken / f"images/{name}.png").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"s0.png is not a PNG.* \(and 1 more problems\)"):
        find_data(broken, check_folder)
    with pytest.raises(ValueError, match="has only the splits test. Training needs train and val"):
        find_data(small_folder(tmp_path / "only", ["test"]), check_folder)
    assert find_data(None, check_folder) is None


def test_the_fingerprint_is_of_the_slices_not_of_the_place(tmp_path):
    data = small_folder(tmp_path / "data", ["train", "train", "val"])
    shutil.copytree(data, tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == fingerprint(data)
    assert fingerprint(small_folder(tmp_path / "split", ["train", "val", "train"])) != fingerprint(data)
    assert fingerprint(small_folder(tmp_path / "fewer", ["train", "train"])) != fingerprint(data)


# ---- cross-validation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [FEW, SOLID], ids=["slices", "volumes"])
def test_each_patient_validates_in_one_fold_and_the_test_split_stays(recipe, tmp_path):
    whole = opened(recipe, tmp_path)
    validated, fingerprints = [], set()
    for fold in range(3):
        data = opened(replace(recipe, folds=3, fold=fold), tmp_path)
        assert data.folder == whole.folder  # the same phantoms
        train, val, test = ({r.group for r in s.records} for s in (data.train_set, data.val_set, data.test_set))
        assert {r.group for r in data.plain_train_set.records} == train
        assert {r.split for r in data.val_set.records} == {"val"}
        assert test == {r.group for r in whole.test_set.records} and not (train & val or test & (train | val))
        assert train | val | test == {r.group for r in read_manifest(whole.folder)}
        validated += val
        fingerprints.add(data.fingerprint)
    assert len(validated) == len(set(validated)) and len(fingerprints) == 3


def test_folds_need_no_validation_split_and_enough_patients(tmp_path):
    folder = small_folder(tmp_path / "data", ["train", "train", "test"])
    data = opened(replace(FEW, folds=2, fold=1), tmp_path, folder)
    assert len(data.val_set) == len(data.train_set) == 1 and data.test_set.records[0].split == "test"
    with pytest.raises(ValueError, match="data, cross-validation without the test split: expected 2 to 2 folds for 2"):
        opened(replace(FEW, folds=3, fold=1), tmp_path, folder)


# ---- lesion classes ---------------------------------------------------------------------------------------------


class Targets(list):
    """Targets as a data set gives them, which counts how many were read."""

    def __iter__(self):
        self.read = 0
        for target in super().__iter__():
            self.read += 1
            yield None, torch.tensor(target), "id"


def test_the_channels_that_no_target_fills_are_found_without_reading_more_than_needed():
    assert empty_channels(Targets([[[0, 0], [0, 1], [0, 0]], [[0, 0], [0, 0], [0, 0]]]), 3) == [0, 2]
    enough = Targets([[[1], [0]], [[0], [1]], [[1], [1]]])
    assert empty_channels(enough, 2) == [] and enough.read == 2
    assert empty_channels(Targets([[[0, 0]]]), 0) == [0]  # binary


def test_classes_are_part_of_the_input_and_of_the_fingerprint(tmp_path):
    found = []
    for names in ((), ("a", "b"), ("a", "c")):
        folder = tmp_path / f"f{len(found)}"
        with SliceWriter(folder, classes=names) as out:
            for i, split in enumerate(("train", "val")):
                target = np.zeros((8, 8), np.uint8)
                target[2, 2:4] = (1, max(1, len(names)))
                grey = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
                out.add(ImageRecord(f"s{i}", f"p{i}", split), grey, target)
        data = opened(replace(FEW, img_size=8), tmp_path, folder)
        assert data.classes == names and data.input.to_dict().get("classes", []) == list(names)
        assert next(iter(data.val))[1].shape[1] == max(1, len(names))
        found.append(data.fingerprint)
    assert len(set(found)) == 3
