"""Negatives: training slices from other folders, which must fit the data and share no patient with its other splits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter
from lungseg.evaluation.baselines import lesion_fractions
from lungseg.training.contents import list_contents
from lungseg.training.data import open_data
from lungseg.training.distributed import ALONE
from lungseg.training.recipe import RunOptions, TrainingRecipe

PLAIN = TrainingRecipe(img_size=8, augment="none", batch_size=2)


def make(folder, rows, *, lesion=True, size=8, window=(-1000.0, 400.0), classes=()):
    """(group, split) of each slice; noise, with a stripe of lesion."""
    with SliceWriter(folder, classes) as out:
        for i, (group, split) in enumerate(rows):
            target = np.zeros((size, size), np.uint8)
            target[2:4] = lesion
            target[5] = 2 * (len(classes) > 1 and lesion)
            image = np.random.default_rng([i, lesion]).integers(0, 255, (size, size), np.uint8)
            record = ImageRecord(f"{folder.name}{i}", group, split, hu_low=window[0], hu_high=window[1])
            out.add(record, image, target)
    return folder


@pytest.fixture
def data(tmp_path):
    return make(tmp_path / "data", [("a", "train"), ("b", "train"), ("c", "val"), ("D", "test")])


def opened(data, *negatives, **changes):
    recipe = replace(PLAIN, negatives=tuple(map(str, negatives)), **changes)
    return open_data(recipe, RunOptions(data=data, out=data.parent), ALONE)


def test_the_training_slices_of_each_folder_follow_those_of_the_data(data, tmp_path):
    one = make(tmp_path / "one", [("x", "train"), ("y", "val"), ("a", "train")], lesion=False)
    two = make(tmp_path / "two", [("z", "train")])
    joined, alone = opened(data, one, two), opened(data)
    assert [id_ for _, _, id_ in joined.train_set] == ["data0", "data1", "one0", "one2", "two0"]
    assert [record.group for record in joined.train_set.records] == ["a", "b", "x", "a", "z"]
    assert torch.equal(joined.train_set[0][0], alone.train_set[0][0]) and not joined.train_set[2][1].any()
    for name in ("plain_train_set", "val_set", "test_set"):
        assert [r.id for r in getattr(joined, name).records] == [r.id for r in getattr(alone, name).records]
    assert lesion_fractions(alone.train_set) == [0.25]  # the prior counts the negatives
    assert lesion_fractions(joined.train_set) == [0.15]
    assert sorted(id_ for _, _, ids in joined.train for id_ in ids) == ["data0", "data1", "one0", "one2", "two0"]
    assert joined.input == alone.input


def test_negatives_have_variations_of_their_own_in_each_epoch(data, tmp_path):
    copy = make(tmp_path / "copy", [("a", "train"), ("b", "train")])
    images = opened(data, copy, augment="full").train_set
    first = [image for image, _, _ in images]
    images.set_epoch(1)
    second = [image for image, _, _ in images]
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[2])  # the same picture, another variation


@pytest.mark.parametrize(("group", "split"), [("C", "validation"), ("d", "test")])
def test_a_patient_of_validation_or_test_is_refused(data, tmp_path, group, split):
    leak = make(tmp_path / "leak", [("x", "train"), (group, "train")], lesion=False)
    with pytest.raises(ValueError, match=f"leak1 is of {group}, a patient of the {split} split .* memorisation"):
        opened(data, leak)


def test_in_cross_validation_the_negatives_of_those_who_validate_are_left_out(data, tmp_path):
    negatives = make(tmp_path / "n", [(group, "train") for group in "abcx"], lesion=False)
    for fold in range(3):
        found = opened(data, negatives, folds=3, fold=fold)
        (validates,) = found.val_set.records
        expected = {"a", "b", "c", "x"} - {validates.group}
        assert {r.group for r in found.train_set.records} == expected
    leak = make(tmp_path / "leak", [("d", "train")], lesion=False)
    with pytest.raises(ValueError, match="leak0 is of d, a patient of the test split"):
        opened(data, leak, folds=3, fold=0)


def test_negatives_that_do_not_fit_are_refused_in_a_sentence(data, tmp_path):
    rows = [("x", "train")]
    with VolumeWriter(tmp_path / "volumes") as out:
        out.add(ImageRecord("v", "x", "train"), np.full((2, 8, 8), -800, np.int16), np.zeros((2, 8, 8), np.uint8), 1)
    wrong = {
        "window": (make(tmp_path / "window", rows, window=(-160.0, 240.0)), "window -160 to 240, and .* with one"),
        "size": (make(tmp_path / "size", rows, size=16), "size0 is 16 x 16 pixels, and the training .* are 8 x 8"),
        "classes": (make(tmp_path / "classes", rows, classes=("p", "q")), "has the lesion classes p, q, and .* none"),
        "split": (make(tmp_path / "split", [("x", "test")]), "has no slice in the split 'train'"),
        "volumes": (tmp_path / "volumes", "expected negatives as a folder of slices, got volumes"),
        "missing": (tmp_path / "missing", "missing does not exist"),
    }
    for folder, words in wrong.values():
        with pytest.raises(ValueError, match=words) as error:
            opened(data, folder)
        assert "\n" not in str(error.value)


def test_negatives_need_no_lesion_of_each_class(tmp_path):
    names = ("p", "q")
    data = make(tmp_path / "data", [("a", "train"), ("c", "val")], classes=names)
    empty = make(tmp_path / "empty", [("x", "train")], classes=names, lesion=False)
    assert [target.shape[0] for _, target, _ in opened(data, empty).train_set] == [2, 2]


def test_the_files_of_the_negatives_are_contents_of_the_run(data, tmp_path):
    one = make(tmp_path / "one", [("x", "train")], lesion=False)
    alone, joined = list_contents(data), list_contents(data, negatives=[str(one)])
    assert set(joined) - set(alone) == {f"negatives 1/{name}" for name in list_contents(one)}
