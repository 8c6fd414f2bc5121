"""The network of a checkpoint. What is refused of damaged ones is in test_predictor.py, where users meet it."""

import inspect

import pytest
import torch

from lungseg import nn as networks, predictor
from lungseg.checkpoint import InputSpec, NetworkSpec, save_checkpoint
from lungseg.decision import PLAIN, Decision
from lungseg.nn.unet import UNet
from lungseg.trained_network import NETWORKS, build_network, read_network

TINY = {"channels": (2, 4)}
INPUT = {"size": [16, 16], "scale": [1.0, 1.0], "hu_window": [-1000.0, 400.0], "spacing_mm": 0.7}


def save(path, **entries):
    state = {"network": {"name": "UNet", "arguments": TINY}, "input": INPUT, "model": UNet(**TINY).state_dict()}
    save_checkpoint(path, state | entries)
    return path


def test_every_network_of_the_package_has_its_name():
    found = (getattr(networks, name) for name in networks.__all__)
    heads = {n.__name__: n for n in found if inspect.isclass(n) and "num_classes" in inspect.signature(n).parameters}
    assert heads == NETWORKS and predictor.NETWORKS is NETWORKS


def test_a_network_can_be_built_without_a_file():
    state = UNet(**TINY).state_dict()
    network = build_network(NetworkSpec("UNet", TINY), state)
    assert not network.training and torch.equal(network.state_dict()["head.weight"], state["head.weight"])


def test_averaged_weights_the_images_and_the_decision_are_read(tmp_path):
    last, average = (UNet(**TINY).state_dict() for _ in range(2))
    network, input_, decision = read_network(save(tmp_path / "a.pt", model=last))
    assert torch.equal(network.head.weight, last["head.weight"]) and decision == PLAIN
    assert input_ == InputSpec.from_dict(INPUT)
    about = {"ema": {"weights": average}, "decision": {"threshold": 0.4, "min_pixels": 3}}
    network, _, decision = read_network(save(tmp_path / "b.pt", model=last, **about))
    assert torch.equal(network.head.weight, average["head.weight"]) and decision == Decision(0.4, 3)


def test_the_name_of_the_file_begins_what_is_wrong_with_it(tmp_path):
    with pytest.raises(ValueError, match=r"^.*odd.pt: the saved weights do not fit UNet \([^\n]*\)$"):
        read_network(save(tmp_path / "odd.pt", model={}))
