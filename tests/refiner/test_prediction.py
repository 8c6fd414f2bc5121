"""From a slice to the refined map."""

import numpy as np
import pytest
import torch
from torch import nn

from lungseg.checkpoint import InputSpec
from lungseg.nn.refiner import CandidateRefiner
from lungseg.nn.sam import MedSAM
from lungseg.refiner.judge import Judge, slice_map
from lungseg.refiner.prediction import CandidateSettings, RefinerPredictor, prior_logits, refiner_input
from lungseg.refiner.proposals import Proposal

TINY = {"img_size": 16, "embed_dim": 6, "depth": 2, "global_blocks": (1,), "out_channels": 8, "window_size": 4}
TINY |= {"num_heads": 2, "patch_size": 4, "decoder_heads": 1, "decoder_mlp_dim": 4, "iou_hidden_dim": 4}
INPUT = InputSpec((24, 24), (1.0, 1.0), (-1000.0, 400.0), None)


class Bright(nn.Module):
    """A proposer that finds what is bright."""

    def forward(self, x):
        return 20 * (x - 0.5)


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    refiner = CandidateRefiner(MedSAM(1, **TINY)).eval()
    settings = CandidateSettings(threshold=0.5, size=16, smallest=12)
    return RefinerPredictor(Bright(), INPUT, refiner, settings=settings, judge=Judge(0.1, 0.0, 0.5, 1.0), batch_size=2)


@pytest.fixture
def grey():
    image = np.full((24, 24), 0.1, np.float32)
    image[3:8, 4:10], image[12:15, 12:14], image[20:22, 1:6] = 0.9, 0.8, 0.7
    return image


def test_the_map_is_that_of_propose_crop_prompt_judge(predictor, grey):
    probs = predictor.proposer_probs(grey)
    proposals = predictor.settings.propose(probs)
    assert len(proposals) == 3
    masks, scores = [], []
    for proposal in proposals:  # one by one, though the predictor takes two at a time
        crop = predictor.settings.crop(grey, proposal.box)
        prior = prior_logits(crop.cut(probs))
        with torch.no_grad():
            out = predictor.refiner(*refiner_input(predictor.refiner, [crop], [prior]))
        masks.append(crop.paste(out.mask_logits[0, 0].sigmoid().numpy(), grey.shape) >= 0.5)
        scores.append(0.1 * np.log(proposal.score / (1 - proposal.score)) + 0.5 * float(out.iou) + 1)
    expected = slice_map(np.stack(masks), scores)
    assert np.allclose(predictor.probs(grey), expected, atol=1e-5) and expected.max() > 0


def test_a_volume_is_looked_at_slice_by_slice(predictor, grey):
    volume = np.stack([grey, np.zeros_like(grey), grey.T])
    maps = predictor.probs(volume)
    assert maps.shape == volume.shape and not maps[1].any()  # no candidate, empty map
    assert np.allclose(maps[2], predictor.probs(np.ascontiguousarray(grey.T)), atol=1e-5)


def test_without_the_proposers_map_the_box_is_the_only_prompt(predictor, grey):
    box = (4, 3, 9, 7)
    alone, prompted = (
        predictor.look_at_boxes(grey, [box]),
        predictor.look_at_boxes(grey, [box], np.full_like(grey, 0.9)),
    )
    assert alone.masks.shape == (1, 24, 24) and not np.allclose(alone.masks, prompted.masks)
    assert np.allclose(predictor.look_at_boxes(grey, [box, (0, 0, 3, 3)]).masks[0], alone.masks[0], atol=1e-6)


def test_the_judge_scales_the_map(predictor, grey, monkeypatch):
    probs = predictor.probs(grey)
    monkeypatch.setattr(predictor, "judge", Judge(0.0, 0.0, 0.0, -50.0))
    assert predictor.probs(grey).max() < 1e-6 < probs.max()


def test_the_judge_does_not_move_an_outline(predictor, grey, monkeypatch):
    """However sure the judge is, a candidate is drawn where the refiner's mask is above 1/2, at every threshold."""
    looks = predictor.look_at_boxes(grey, [(4, 3, 9, 7)])
    soft = np.linspace(0, 1, 24 * 24, dtype=np.float32).reshape(1, 24, 24)
    monkeypatch.setattr(predictor, "look", lambda *_: looks._replace(masks=soft))
    monkeypatch.setattr(predictor.settings.__class__, "propose", lambda self, _: [Proposal(0, (4, 3, 9, 7), 0.5)])
    for constant in (-2.0, 0.0, 4.0):
        monkeypatch.setattr(predictor, "judge", Judge(0.0, 0.0, 0.0, constant))
        probs, chance = predictor.probs(grey), 1 / (1 + np.exp(-constant))
        assert np.array_equal(probs > 0.9 * chance, soft[0] >= 0.5) and np.array_equal(probs > 0, soft[0] >= 0.5)
        assert probs.max() == pytest.approx(chance)


def test_logits_of_a_prompt_are_bounded():
    assert np.allclose(prior_logits(np.array([0, 0.5, 1])), [-6.9068, 0, 6.9068], atol=1e-3)


def test_it_says_what_it_is_and_refuses_what_a_predictor_refuses(predictor):
    assert predictor.name == "Bright, refined" and predictor.spatial_dims == 2
    with pytest.raises(ValueError, match=r"grey values must be in \[0, 1\]"):
        predictor.probs(np.full((24, 24), 2.0, np.float32))
