"""The recorded outputs of BiomedCLIP, our network with the recorded weights, and how far the two may be apart."""

from functools import cache
from pathlib import Path

import torch

from lungseg.nn.biomedclip import BiomedCLIP
from lungseg.weights.load import load_published

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/biomedclip"
SIZES = {
    "embed_dim": 20, "img_size": 48, "patch_size": 16, "vision_dim": 32, "vision_depth": 3, "vision_heads": 4,
    "vocab_size": 390, "max_length": 40, "text_dim": 24, "text_depth": 2, "text_heads": 3, "text_mlp_ratio": 2.0,
}  # fmt: skip


@cache
def recorded():
    return torch.load(FIXTURES / "tiny_biomedclip.pt", weights_only=True)


def filled():
    """(network, report): ours with the recorded weights."""
    network = BiomedCLIP(**SIZES).eval()
    return network, load_published(network, recorded()["state_dict"])


def departure(ours, published):
    """The largest difference, as a share of the largest published number."""
    assert ours.shape == published.shape
    return ((ours - published).abs().max() / published.abs().max()).item()


def assert_near(ours, published, name="", most=1e-4):
    assert departure(ours, published) <= most, f"{name} is {departure(ours, published):.1e} off"
