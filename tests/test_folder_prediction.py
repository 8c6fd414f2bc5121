"""A predictor on a folder: what is chosen there, in which pixels, and what is kept of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.candidates import CandidateOptions
from lungseg.checkpoint import InputSpec
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter
from lungseg.decision import PLAIN, Decision
from lungseg.folder_prediction import (
    FolderLesions,
    KeptMaps,
    choose_decision,
    open_split,
    predict_probs,
    score_decisions,
    without_removed,
)
from lungseg.predictor import Predictor

SLICES = InputSpec((24, 24), (1.0, 1.0), (-1000.0, 400.0), None)


class Grey(torch.nn.Module):
    """The probability is the grey value."""

    def forward(self, image):
        return torch.logit(image.clamp(1e-3, 1 - 1e-3))


@pytest.fixture
def folder(tmp_path):
    """Lesions of 16 pixels at 0.4; a speck of 4 pixels beside each at 0.7, and noise below 0.2."""
    with SliceWriter(tmp_path / "data") as out:
        for i, split in enumerate(["train", "val", "val", "test"]):
            image = np.random.default_rng(i).integers(0, 51, (24, 24)).astype(np.uint8)
            target = np.zeros((24, 24), np.uint8)
            target[4 + i : 8 + i, 5:9] = 1
            image[target > 0] = 102
            image[20:22, 20:22] = 178
            out.add(ImageRecord(f"s{i}", f"p{i}", split), image, target)
    return tmp_path / "data"


def test_the_decision_is_chosen_on_validation_in_training_pixels(folder):
    found = choose_decision(Predictor(Grey(), SLICES), folder)
    assert found.decision == Decision(0.35, 6) and found.dice == 1 and found.plain_dice == 0
    half = InputSpec((12, 12), (0.5, 0.5), (-1000.0, 400.0), None)  # about 4 pixels, and 1 to 2
    found = choose_decision(Predictor(Grey(), half), folder)
    assert found.decision.min_pixels in (2, 3) and found.dice > found.plain_dice


def test_without_validation_lesions_nothing_can_be_chosen(folder):
    for mask in ("s1", "s2"):
        (folder / f"masks/{mask}.png").write_bytes(empty_png(folder))
    with pytest.raises(ValueError, match="No validation image of .* holds a lesion"):
        choose_decision(Predictor(Grey(), SLICES), folder)


def empty_png(folder):
    from PIL import Image

    Image.fromarray(np.zeros((24, 24), np.uint8)).save(folder.parent / "empty.png")
    return (folder.parent / "empty.png").read_bytes()


def test_what_a_decision_leaves_out_is_not_drawn_above_its_threshold(folder):
    predictor, data = Predictor(Grey(), SLICES), open_split(folder, "test")
    probs, scale, _ = predict_probs(predictor, data, 0, data[0][0][0].numpy())
    decision = Decision(0.35, 6)
    shown = without_removed(predictor, probs, decision, scale)
    assert np.array_equal(shown > 0.35, predictor.lesions(probs, decision, scale) > 0) and (shown > 0.35).sum() == 16
    assert np.array_equal(shown[:20], probs[:20])


def test_outside_the_place_to_search_nothing_is_found(folder):
    data = open_split(folder, "test")
    image = np.pad(data[0][0][0].numpy(), [(0, 0), (60, 0)])  # air beside it, and lesions in its dark noise
    image[:, 60:] = image[:, 60:] / 2 + 0.3
    everything, searched = (
        predict_probs(Predictor(Grey(), SLICES, search=place), data, 0, image)[0] for place in ("all", "body")
    )
    assert np.array_equal(searched[:, 60:], everything[:, 60:])
    assert not searched[:, :24].any() and (everything[:, :24] > 0).all()
    with pytest.raises(ValueError, match="s3: --search lungs needs the size of a pixel"):
        predict_probs(Predictor(Grey(), SLICES, search="lungs"), data, 0, image)


def test_both_decisions_are_scored_from_one_prediction(folder):
    predictor, data = Predictor(Grey(), SLICES, decision=Decision(0.35, 6)), open_split(folder, "val")
    asked = []

    def predict(index, image):
        asked.append(index)
        return predictor.probs(image), None

    plain, chosen, decisions = score_decisions(predictor, data, predict, "score")
    assert asked == [0, 1] and [s.id for s in plain] == [s.id for s in chosen] == ["s1", "s2"]
    assert [(s.tp, s.fp, s.fn) for s in chosen] == [(16, 0, 0)] * 2
    assert [(s.tp, s.fp, s.fn) for s in plain] == [(0, 4, 16)] * 2  # the speck is above 0.5, the lesion is not
    predictor.decision = PLAIN
    one, same, _ = score_decisions(predictor, data, predict, "score")
    assert one is same and one == plain and decisions == [Decision(0.35, 6)]


def test_lesions_of_a_folder_are_those_of_the_decision_and_the_other_rule_is_kept(folder):
    predictor, data = Predictor(Grey(), SLICES), open_split(folder, "val")
    lesions = FolderLesions(predictor, data, Decision(0.35, 6))
    for record, (image, target, _) in zip(data.records, data, strict=True):
        grey = image[0].numpy()
        assert np.array_equal(lesions(grey, record), target[0].numpy() > 0)
        assert np.array_equal(lesions.plain.predict(grey, record), grey > 0.5)
    assert not lesions.found and not FolderLesions(predictor, data, PLAIN).plain.maps
    numbers = FolderLesions(predictor, data, PLAIN, by_class=True)(grey, record)
    assert numbers.dtype == np.uint8 and np.array_equal(numbers > 0, grey > 0.5)


def test_remarks_on_scale_are_kept_by_image(folder, monkeypatch):
    predictor, data = Predictor(Grey(), SLICES), open_split(folder, "val")
    remarks = iter(["too coarse", None])
    monkeypatch.setattr(
        "lungseg.folder_prediction.predict_probs", lambda p, d, i, image: (image, (1.0, 1.0), next(remarks))
    )
    lesions = FolderLesions(predictor, data, PLAIN)
    for record, (image, *_) in zip(data.records, data, strict=True):
        lesions(image[0].numpy(), record)
    assert lesions.about_scale == {"s1": "too coarse"}


def test_candidates_that_options_leave_out_are_cleared_and_slices_have_none(folder, tmp_path):
    with VolumeWriter(tmp_path / "volumes") as out:
        hu = np.full((3, 24, 24), -1000, np.int16)
        hu[1, 4:10, 4:10] = hu[:, 20:22, 20:22] = 200
        out.add(ImageRecord("v", "p", "test"), hu, (hu > 0).astype(np.uint8), spacing_mm=(1.0, 1.0, 1.0))
    data = open_split(tmp_path / "volumes", "test")
    options = CandidateOptions(min_diameter_mm=3)  # the second has 12 mm3: a ball of 2.8 mm
    lesions = FolderLesions(Predictor(Grey(), SLICES), data, PLAIN, candidates=options)
    drawn = lesions(data[0][0][0].numpy(), data.records[0])
    assert np.array_equal(drawn[1], (hu[1] > 0) & (np.arange(24) < 20)) and not drawn[::2].any()
    assert [round(c.diameter_mm, 1) for c in lesions.found["v"]] == [4.1]
    slices = open_split(folder, "test")
    with pytest.raises(ValueError, match="s3: --lungs and --min-diameter-mm are for volumes"):
        FolderLesions(Predictor(Grey(), SLICES), slices, PLAIN, candidates=options)(
            slices[0][0][0].numpy(), slices.records[0]
        )


@given(shape=st.lists(st.integers(1, 9), min_size=2, max_size=3), seed=st.integers(0, 9))
def test_a_kept_map_comes_back(shape, seed):
    lesion, record = np.random.default_rng(seed).random(shape) > 0.7, ImageRecord("a", "a", "test")
    kept = KeptMaps()
    kept.keep("a", lesion)
    back = kept.predict(None, record)
    assert back.dtype == bool and np.array_equal(back, lesion)
