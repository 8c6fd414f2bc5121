"""What the tests of the refiner share: a predictor with a tiny network that has learned nothing, and a run."""

import numpy as np
import pytest
import torch

from lungseg.checkpoint import save_checkpoint
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.nn.unet import UNet
from lungseg.refiner.checkpoint import RefinerSpec, refiner_entries
from lungseg.refiner.context import Context
from lungseg.refiner.judge import Judge
from lungseg.refiner.prediction import CandidateSettings
from lungseg.refiner.recipe import RefinerRecipe
from lungseg.refiner.stages import Stages

SAM = {"in_channels": 1, "img_size": 16, "patch_size": 4, "embed_dim": 6, "depth": 2, "num_heads": 2, "window_size": 4}
SAM |= {"global_blocks": [1], "out_channels": 8, "decoder_heads": 1, "decoder_mlp_dim": 4, "iou_hidden_dim": 4}
CLIP = {"embed_dim": 4, "img_size": 16, "patch_size": 8, "vision_dim": 6, "vision_depth": 1, "vision_heads": 2}
CLIP |= {"vocab_size": 101, "max_length": 12, "text_dim": 4, "text_depth": 1, "text_heads": 1}


@pytest.fixture(scope="session")
def spec():
    return RefinerSpec(SAM, CLIP, rank=1, sentences=True)


@pytest.fixture(scope="session")
def checkpoint(spec, tmp_path_factory):
    """best.pt of a refiner."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    input_ = {"size": [16, 16], "scale": [1.0, 1.0], "hu_window": [-1000.0, 400.0], "spacing_mm": None}
    unet = {"name": "UNet", "arguments": {"channels": [4, 8]}}
    settings = CandidateSettings(threshold=0.4, size=16, smallest=8)
    entries = refiner_entries(spec, spec.build(), settings, Judge(0.5, 0.1, 0.2, 0.3))
    own = {"network": unet, "input": input_, "model": UNet(channels=[4, 8]).state_dict()}
    save_checkpoint(path, own | entries | {"decision": {"threshold": 0.3, "min_pixels": 2}})
    return path


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """A folder of slices of 16 x 16 with a bright square; two slices of each of six patients."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    with SliceWriter(folder) as out:
        for i in range(12):
            target = np.zeros((16, 16), np.uint8)
            target[2 + i % 5 : 7 + i % 5, 3:8] = 1
            noise = np.random.default_rng(i).integers(0, 60, (16, 16))
            split = "train" if i < 8 else "val" if i < 10 else "test"
            out.add(ImageRecord(f"s{i:02d}", f"p{i // 2}", split), (noise + 150 * target).astype(np.uint8), target)
    return folder


@pytest.fixture
def context(squares, tmp_path):
    """(flags) -> a run in a folder of its own."""

    def make(out=None, **flags):
        small = {"channels": (4, 8), "proposer_steps": 2, "crop_size": 16, "smallest": 8, "save_every": 1}
        small |= {"sam_dim": 6, "sam_depth": 2, "sam_steps": 1, "refiner_steps": 1, "batch_size": 2, "threshold": 0.3}
        small |= {"clip_dim": 4, "clip_depth": 1, "clip_patients": 1, "clip_steps": 1, "clip_batch": 4}
        out = tmp_path / "run" if out is None else out
        out.mkdir(exist_ok=True)
        return Context(RefinerRecipe(**small | flags), squares, Stages(out, save_every=1))

    return make
