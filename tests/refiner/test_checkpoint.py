"""best.pt of a refiner, read by `load_predictor`."""

import numpy as np
import pytest
import torch

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.decision import Decision
from lungseg.predictor import Predictor, load_predictor
from lungseg.refiner.checkpoint import RefinerSpec
from lungseg.refiner.judge import Judge
from lungseg.refiner.prediction import RefinerPredictor
from lungseg.trained_network import read_network


def test_load_predictor_reads_everything(checkpoint):
    predictor = load_predictor(checkpoint, batch_size=3)
    assert isinstance(predictor, RefinerPredictor) and predictor.name == "UNet, refined"
    assert predictor.judge == Judge(0.5, 0.1, 0.2, 0.3) and predictor.decision == Decision(0.3, 2)
    assert predictor.settings.size == 16 and predictor.batch_size == 3 and not predictor.refiner.training
    saved = load_checkpoint(checkpoint)["refiner"]["weights"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in predictor.refiner.state_dict().items())
    grey = np.random.default_rng(0).random((16, 16), np.float32)
    assert predictor.probs(grey).shape == (16, 16) and predictor.probs(grey).max() > 0


def test_it_also_is_a_checkpoint_of_its_proposer(checkpoint):
    grey = np.random.default_rng(0).random((16, 16), np.float32)
    trained, refined = read_network(checkpoint), load_predictor(checkpoint)
    plain = Predictor(trained.network, trained.input)
    assert np.array_equal(plain.probs(grey), refined.proposer_probs(grey))


def test_it_is_not_averaged_with_others(checkpoint):
    with pytest.raises(ValueError, match="holds a refiner, whose map cannot be averaged"):
        load_predictor([checkpoint, checkpoint.parent / "best.pt"])


@pytest.mark.parametrize("part", ["spec", "settings", "judge", "weights"])
def test_a_damaged_refiner_is_refused_in_a_sentence(checkpoint, tmp_path, part):
    saved = load_checkpoint(checkpoint)
    saved["refiner"] = saved["refiner"] | {part: {"odd": 1}}
    save_checkpoint(tmp_path / "odd.pt", saved)
    with pytest.raises(ValueError, match=r"odd\.pt: its refiner cannot be built \("):
        load_predictor(tmp_path / "odd.pt")


def test_a_specification_builds_what_it_says(spec):
    network = spec.build()
    assert network.text_features.shape == (2, 4) and any("down" in name for name in network.state_dict())
    plain = RefinerSpec(spec.sam).build()
    assert plain.clip is None and plain.text_features is None and not any("down" in n for n in plain.state_dict())
