"""Prediction on a GPU: the probabilities of the CPU, through windows, variations and several networks."""

import numpy as np
import pytest
import torch
from tiny_networks import CLIP_SIZES

from lungseg.checkpoint import save_checkpoint
from lungseg.data.phantoms.captions import VOCABULARY
from lungseg.nn.biomedclip import BiomedCLIP
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.predictor import load_predictor
from lungseg.wordpiece import WordPiece
from lungseg.zero_shot import clip_image, zero_shot

pytestmark = pytest.mark.gpu

SLICES = {"size": [16, 16], "scale": [1.0, 1.0], "hu_window": [-1000.0, 400.0], "spacing_mm": 0.7}
VOLUMES = SLICES | {"size": [4, 8, 8], "scale": [1.0, 1.0, 1.0], "spacing_mm": [2.0, 0.7, 0.7]}
SWIN = {"embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4, "patch_size": 2}


def checkpoint(path, network=UNet, arguments=None, input_=SLICES):
    arguments = arguments or {"channels": [4, 8]}
    state = {"network": {"name": network.__name__, "arguments": arguments}, "input": input_}
    save_checkpoint(path, state | {"model": network(**arguments).state_dict()})
    return path


@pytest.mark.parametrize("tta", ["none", "flips", "turns"])
@pytest.mark.parametrize("shape", [(16, 16), (37, 30), (3, 20, 25)])
def test_slices_and_volumes_by_several_networks(shape, tta, device, tmp_path):
    paths = [checkpoint(tmp_path / "a.pt"), checkpoint(tmp_path / "b.pt", SwinUNet, SWIN)]
    grey = np.random.default_rng(0).random(shape, np.float32)
    here, there = (load_predictor(paths, place, tta=tta).probs(grey) for place in ("cpu", device))
    assert there.dtype == np.float32
    np.testing.assert_allclose(there, here, atol=1e-4)


def test_volumes_by_a_network_for_volumes(device, tmp_path):
    path = checkpoint(tmp_path / "a.pt", arguments={"channels": [4, 8], "spatial_dims": 3}, input_=VOLUMES)
    grey = np.random.default_rng(0).random((6, 20, 25), np.float32)
    here, there = (load_predictor(path, place).probs(grey) for place in ("cpu", device))
    np.testing.assert_allclose(there, here, atol=1e-4)


def test_a_checkpoint_of_a_gpu_is_read_without_one(device, tmp_path):
    state = {"model": UNet(channels=(4, 8)).to(device).state_dict(), "rng": [torch.ones(2, device=device)]}
    save_checkpoint(tmp_path / "a.pt", state)
    saved = torch.load(tmp_path / "a.pt", weights_only=True)  # by torch itself, not told where to put the tensors
    assert all(tensor.device.type == "cpu" for tensor in [*saved["model"].values(), *saved["rng"]])


def test_classes_named_in_words(device):
    model = BiomedCLIP(**CLIP_SIZES | {"vocab_size": 101}).eval()
    picture = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    prompts = {"lesion": ["a solid nodule", "a nodule"], "normal": ["normal lung"]}
    image, tokenizer = clip_image(picture, 16)[None], WordPiece(VOCABULARY)
    here = zero_shot(model, image, prompts, tokenizer)
    there = zero_shot(model.to(device), image.to(device), prompts, tokenizer)
    assert there.device.type == device.type
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-4)
