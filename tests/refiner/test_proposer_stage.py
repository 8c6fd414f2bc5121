"""The proposer, and the cross-fitting: nobody proposes on patients that it has learned from."""

from dataclasses import replace

import numpy as np
import pytest

from lungseg.checkpoint import InputSpec, load_checkpoint, save_checkpoint
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.slices import SliceWriter
from lungseg.nn.unet import UNet
from lungseg.refiner import proposer_stage
from lungseg.refiner.proposer_stage import (
    candidates_of,
    check_proposer,
    cross_fitted,
    patient_folds,
    train_fold,
    train_proposer,
    training_sets,
)


@pytest.fixture
def learned_from(monkeypatch):
    """name of a stage -> the indices of the slices that it may learn from."""
    seen = {}

    def spy(c, name, spec, sets, input_, chosen, tell=False):
        seen[name] = [sets.records[i].group for i in chosen]
        real(c, name, spec, sets, input_, chosen, tell)

    real = proposer_stage.train_network
    monkeypatch.setattr(proposer_stage, "train_network", spy)
    return seen


def test_candidates_come_from_the_network_that_has_not_seen_the_patient(context, learned_from, monkeypatch):
    c = context()
    proposer = train_proposer(c)
    folds = [train_fold(c, proposer, k) for k in (0, 1)]
    everyone = set(learned_from["proposer"])
    groups = [set(learned_from[f"proposer_without_fold{k}"]) for k in (0, 1)]
    assert len(everyone) == 4 and groups[0] | groups[1] == everyone and not groups[0] & groups[1]

    asked = []
    monkeypatch.setattr(
        proposer_stage, "predict_probs", lambda p, data, i, image: asked.append((p, i)) or (np.zeros((16, 16)), 1, None)
    )
    cross_fitted(c, proposer, folds)
    names = {id(fold.network): learned_from[f"proposer_without_fold{k}"] for k, fold in enumerate(folds)}
    records = c.slices("train").records
    assert len(asked) == 8
    assert all(records[i].group not in names[id(p.network)] for p, i in asked)
    asked.clear()
    cross_fitted(c, proposer, [])  # without it, all by the proposer
    assert {id(p.network) for p, _ in asked} == {id(proposer.network)}


def test_a_given_proposer_is_taken_as_it_is_and_the_folds_have_its_kind(context, tmp_path, capsys):
    first = context(tmp_path / "first", channels=(4, 8, 16))
    train_proposer(first)
    c = context(tmp_path / "second", proposer=str(first.stages.path("proposer")))
    given = train_proposer(c)
    trained = load_checkpoint(first.stages.path("proposer"))["model"]
    assert all((given.network.state_dict()[name] == tensor).all() for name, tensor in trained.items())
    train_fold(c, given, 0)
    assert load_checkpoint(c.stages.path("proposer_without_fold0"))["network"]["arguments"] == {"channels": [4, 8, 16]}
    _, line, fold = capsys.readouterr().out.splitlines()
    assert "first/proposer.pt, validation: " in line and "of 2 lesions proposed" in line and "fold0" in fold
    train_proposer(c)  # resumed, each line comes again, once
    assert capsys.readouterr().out.splitlines() == [line]


@pytest.mark.parametrize(
    "change", [{"neighbours": 1}, {"classes": ["a", "b"]}, {"size": [8, 8, 8], "scale": [1.0] * 3}]
)
def test_a_proposer_for_other_images_is_refused(context, tmp_path, change):
    c = context(tmp_path / "first")
    train_proposer(c)
    saved = load_checkpoint(c.stages.path("proposer"))
    arguments = dict(saved["network"]["arguments"])
    arguments |= {"in_channels": 3} if "neighbours" in change else {}
    arguments |= {"num_classes": 2} if "classes" in change else {}
    arguments |= {"spatial_dims": 3} if "size" in change else {}
    saved |= {"network": {"name": "UNet", "arguments": arguments}, "input": saved["input"] | change}
    save_checkpoint(tmp_path / "other.pt", saved | {"model": UNet(**arguments).state_dict()})
    with pytest.raises(ValueError, match="expected a network for single slices and one lesion class as --proposer"):
        train_proposer(context(tmp_path / "second", proposer=str(tmp_path / "other.pt")))


def test_a_proposer_of_other_data_is_told_of_and_one_of_another_window_refused(context, tmp_path, capsys):
    c = context(tmp_path / "first")
    train_proposer(c)
    saved = load_checkpoint(c.stages.path("proposer"))
    other = str(tmp_path / "other.pt")
    save_checkpoint(tmp_path / "other.pt", saved | {"run": {"slices": "0123"}})
    train_proposer(context(tmp_path / "second", proposer=other))
    assert "it may know patients of val and test" in capsys.readouterr().out
    save_checkpoint(tmp_path / "other.pt", saved | {"recipe": {"folds": 2, "fold": 0}})
    with pytest.raises(ValueError, match="was trained with --folds 2"):
        train_proposer(context(tmp_path / "third", proposer=other))
    save_checkpoint(tmp_path / "other.pt", saved | {"input": saved["input"] | {"hu_window": [-900.0, 100.0]}})
    with pytest.raises(ValueError, match="was trained in the HU window -900 to 100, and slices of .* -1000 to 400"):
        train_proposer(context(tmp_path / "fourth", proposer=other))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_hu_window_of_every_split_is_looked_at(context, monkeypatch, split):
    c, input_ = context(), InputSpec((16, 16), (1.0, 1.0), (-1000.0, 400.0), None)
    records = [replace(r, hu_low=-2000.0) if r.split == split else r for r in read_manifest(c.folder)]
    monkeypatch.setattr(proposer_stage, "read_manifest", lambda _: records)
    with pytest.raises(ValueError, match="HU window -1000 to 400, and slices of .* are in -2000 to 400"):
        check_proposer(c, input_, "best.pt")


def test_slices_that_are_not_square_keep_the_pixels_of_their_longer_side(context, tmp_path):
    with SliceWriter(tmp_path / "wide") as out:
        for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
            out.add(ImageRecord(name, name, split), np.zeros((16, 24), np.uint8), np.eye(16, 24, dtype=np.uint8))
    c = replace(context(), folder=tmp_path / "wide")
    own, like = training_sets(c, None)[1], InputSpec((16, 16), (1.0, 1.0), (-1000.0, 400.0), None)
    assert own.size == (24, 24) and training_sets(c, like)[1].size == (16, 16)
    asked = []
    with pytest.MonkeyPatch.context() as patch:  # the folds of a run that was begun with another rule keep its size
        patch.setattr(proposer_stage, "training_sets", lambda _, like: asked.append(like) or training_sets(c, like))
        train_fold(c, train_proposer(c)._replace(input=like), 0)
    assert asked == [None, like]


def test_the_candidates_of_validation_keep_no_maps(context):
    c = context()
    found = candidates_of(c, c.predictor(train_proposer(c)), "val")
    assert found.proposed + found.false and not found.maps


def test_patients_are_dealt_in_two_halves(context):
    records = context().slices("train").records
    folds = [patient_folds(records, seed) for seed in range(8)]
    for fold in folds:
        assert len({r.group for r, f in zip(records, fold, strict=True) if f}) == 2
        assert all(fold[i] == fold[i + 1] for i in range(0, 8, 2))  # slices of one patient stay together
    assert len({fold.tobytes() for fold in folds}) > 1
