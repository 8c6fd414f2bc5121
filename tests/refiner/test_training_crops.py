"""Crops to train on: which boxes, which targets, and that image, box, prior and target are turned together."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset, SliceWriter
from lungseg.nn.refiner import CandidateRefiner
from lungseg.nn.sam import MedSAM
from lungseg.refiner.crops import Crop, crop_at
from lungseg.refiner.prediction import CandidateSettings
from lungseg.refiner.training_crops import TrainingPlaces, lesion_in_box, turn_map, turned

TINY = {"img_size": 16, "embed_dim": 6, "depth": 2, "global_blocks": (1,), "out_channels": 8, "window_size": 4}
TINY |= {"num_heads": 2, "patch_size": 4, "decoder_heads": 1, "decoder_mlp_dim": 4, "iou_hidden_dim": 4}


@pytest.fixture(scope="module")
def network():
    return CandidateRefiner(MedSAM(2, **TINY))


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Two slices of 24 x 24: a bright square in each, in the second also a dark one."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    with SliceWriter(folder) as out:
        for i in range(2):
            target = np.zeros((24, 24), np.uint8)
            target[4:9, 5:11] = 1
            image = 40 + 160 * target
            if i:
                target[16:20, 14:22] = 1
            out.add(ImageRecord(f"s{i}", f"p{i}", "train", spacing_mm=0.7), image, target)
    return SliceDataset(folder, "train")


def probs_of(index):
    """A proposer that finds the first square, and something where nothing is."""
    probs = np.zeros((24, 24), np.float32)
    probs[5:8, 6:10], probs[14:17, 2:5] = 0.75, 0.5
    return probs


@pytest.fixture(scope="module")
def places(slices):
    return TrainingPlaces.find(slices, CandidateSettings(size=16, smallest=12), probs_of)


def test_the_three_kinds_of_boxes(places):
    assert places.true == [(0, (5, 4, 10, 8)), (1, (5, 4, 10, 8)), (1, (14, 16, 21, 19))]
    assert [p.number for p in places.proposed] == [p.number for p in places.false] == [0, 1]
    assert places.proposed[0].box == (5, 4, 10, 8) and places.false[0].box == (1, 13, 5, 17)
    assert places.recall == pytest.approx(2 / 3)
    assert np.array_equal(places.probs(1, (24, 24)), probs_of(1))


def test_recall_counts_the_lesions_that_have_a_pixel_in_a_box(tmp_path):
    """An L around a candidate is not found; two lesions in one box are, and one lesion in two boxes counts once."""
    ell, pair, bar = (np.zeros((24, 24), np.uint8) for _ in range(3))
    ell[2:20, 2], ell[19, 2:20] = 1, 1
    pair[4:6, 4:6], pair[4:6, 8:10] = 1, 1
    bar[10, 2:22] = 1
    with SliceWriter(tmp_path / "slices") as out:
        for name, target in (("ell", ell), ("pair", pair), ("bar", bar)):
            out.add(ImageRecord(name, name, "train"), 100 * target, target)
    data, probs = SliceDataset(tmp_path / "slices"), {name: np.zeros((24, 24)) for name in ("ell", "pair", "bar")}
    probs["ell"][6:9, 10:13], probs["pair"][4:6, 4:10] = 0.9, 0.9
    probs["bar"][9:12, 2:6], probs["bar"][9:12, 15:18] = 0.9, 0.9
    places = TrainingPlaces.find(data, CandidateSettings(), lambda i: probs[data.records[i].id])
    assert len(places.true) == 4 and (len(places.proposed), len(places.false)) == (3, 1)
    assert places.found == 3 and places.recall == 3 / 4


def test_each_share_decides_how_often_its_kind_is_drawn(places):
    rng = np.random.default_rng(0)

    def kinds(**shares):
        drawn = [places.draw(rng, jitter=0.0, **shares) for _ in range(300)]
        known = (places.false, places.proposed)
        return [sum(place in kind for place in drawn) / 300 for kind in known]

    assert kinds(false_alarms=1.0, proposed=1.0) == [1, 0] and kinds(proposed=1.0) == [0, 1]
    assert kinds()[0] == 0
    false, _ = kinds(false_alarms=1 / 3, proposed=0.5)
    assert 0.25 < false < 0.42


def test_true_boxes_are_moved_by_the_jitter(places):
    boxes = {places.draw(np.random.default_rng(i), jitter=0.4) for i in range(20)}
    assert len(boxes) == 20 and all(0 <= min(p.box) and max(p.box) <= 23 for p in boxes)


def test_a_kind_that_does_not_occur_is_replaced_by_true_boxes(slices):
    places = TrainingPlaces.find(slices, CandidateSettings())
    assert not places.maps and np.isnan(TrainingPlaces(slices, CandidateSettings()).recall)
    assert places.draw(np.random.default_rng(0), false_alarms=1.0, proposed=1.0, jitter=0).number in (0, 1)


def test_a_false_alarm_has_an_empty_target_and_a_lesion_its_own(places, network):
    rng = np.random.default_rng(0)
    empty = places.batch(network, rng, 4, prior_dropped=0.0, false_alarms=1.0)
    assert not empty.target.any() and empty.ct.shape == (4, 2, 16, 16) and (empty.prior > -6).any()
    lesion = places.batch(network, rng, 8, proposed=1.0)
    bright = lesion.ct[:, :1] > 0.5
    assert lesion.target.any() and lesion.prior is None and lesion.prior_present is None
    assert (bright == lesion.target.bool()).float().mean() > 0.97  # turned together, and nothing of the dark square
    inside = [t[0, round(y0) : round(y1) + 1, round(x0) : round(x1) + 1].sum() for t, (x0, y0, x1, y1) in
              zip(lesion.target, lesion.boxes.tolist(), strict=True)]  # fmt: skip
    assert [float(t.sum()) for t in lesion.target] == [float(n) for n in inside]  # boxes are turned with them


def test_the_prior_is_dropped_as_often_as_asked(places, network):
    present = places.batch(network, np.random.default_rng(0), 40, prior_dropped=0.5).prior_present
    assert 10 < present.sum() < 30
    assert places.batch(network, np.random.default_rng(0), 4, prior_dropped=1.0).prior_present.sum() == 0


def test_one_generator_one_batch(places, network):
    a, b = (places.batch(network, np.random.default_rng(5), 3, prior_dropped=0.5) for _ in range(2))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_the_lesion_in_a_box_is_whole_and_alone():
    target = np.zeros((8, 8), bool)
    target[1:3, 1:6], target[5:7, 5:7] = True, True
    found = lesion_in_box(target, (0.6, 0.2, 1.4, 1.4))
    assert found.sum() == 10 and not lesion_in_box(target, (0, 4, 4, 7)).any()
    assert lesion_in_box(target, (0, 0, 7, 7)).sum() == 14


@given(turn=st.integers(0, 7), x=st.integers(0, 5), y=st.integers(0, 5), w=st.integers(0, 4), h=st.integers(0, 4))
def test_a_box_is_turned_with_its_pixels(turn, x, y, w, h):
    image = np.zeros((10, 10), np.float32)
    image[y : y + h + 1, x : x + w + 1] = 1
    crop = turned(Crop(image, (x, y, x + w, y + h), 0, 0, 1.0), turn)
    rows, columns = np.nonzero(crop.pixels)
    assert crop.box == (columns.min(), rows.min(), columns.max(), rows.max())
    assert np.array_equal(crop.pixels, turn_map(image, turn))


def test_the_eight_turns_differ():
    image = np.arange(16).reshape(4, 4)
    assert len({turn_map(image, turn).tobytes() for turn in range(8)}) == 8
    assert crop_at(image, (0, 0, 1, 1), 4).size == 4
