"""The recorded outputs of SAM and MedSAM, our networks with the recorded weights, and how far the two may be apart."""

import zlib
from pathlib import Path

import pytest
import torch

from lungseg.nn.sam import SAM
from lungseg.nn.sam_encoder import SAMImageEncoder
from lungseg.weights.load import load_published

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/sam"
PROMPT = ("points", "labels", "boxes", "masks")


def recorded(name):
    return torch.load(FIXTURES / f"{name}.pt", weights_only=True)


def encoder_sizes(config):
    names = {"out_chans": "out_channels", "global_attn_indexes": "global_blocks"}
    return {names.get(name, name): value for name, value in config.items() if name != "mlp_ratio"}


def sizes(config):
    """The arguments of our SAM for the configuration of a recorded one."""
    prompts, decoder = config["prompt_encoder"], config["mask_decoder"]
    return encoder_sizes(config["image_encoder"]) | {
        "mask_channels": prompts["mask_in_chans"],
        "decoder_depth": decoder["depth"],
        "decoder_heads": decoder["num_heads"],
        "decoder_mlp_dim": decoder["mlp_dim"],
        "iou_hidden_dim": decoder["iou_head_hidden_dim"],
    }


def filled(saved, kind=SAM):
    """(network, report): ours with the recorded weights."""
    network = kind(**sizes(saved["config"])).eval()
    return network, load_published(network, saved["state_dict"])


def filled_encoder(case):
    network = SAMImageEncoder(**encoder_sizes(case["config"])).eval()
    return network, load_published(network, case["state_dict"])


def prompt_of(case):
    return [case.get(name) for name in PROMPT]


def departure(ours, published):
    """The largest difference, as a share of the largest published number."""
    assert ours.shape == published.shape
    if not published.numel():
        return 0.0
    return ((ours - published).abs().max() / published.abs().max()).item()


def assert_near(ours, published, name="", most=1e-4):
    assert departure(ours, published) <= most, f"{name} is {departure(ours, published):.1e} off"


def cotangent(name, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"{name}/cotangent".encode())))


def assert_gradients(network, report, published):
    """The norm of each parameter's gradient, and its sum; None is no gradient at all."""
    for name, parameter in network.named_parameters():
        expected, key = published[report.loaded[name]], report.loaded[name]
        if expected is None:
            assert parameter.grad is None or not parameter.grad.any(), key
            continue
        norm, total = expected
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-5), key
        # A sum of numbers of either sign is exact to a share of their sizes, of which the norm is the least.
        assert parameter.grad.sum().item() == pytest.approx(total, abs=1e-3 * norm + 1e-4), key


def record_outputs(network, names):
    """(outputs, hooks): what the modules of these names give, filled in at the next forward pass."""
    outputs = {}

    def keep(name):
        return lambda module, args, out: outputs.__setitem__(name, out[0] if isinstance(out, tuple) else out)

    return outputs, [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
