"""predict.py --attention: one picture beside each mask, and a sentence for what cannot be drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from lungseg.attention_maps import attention_sheet
from lungseg.checkpoint import save_checkpoint
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.predictor import load_predictor

SWIN = {"embed_dim": 4, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
UNETR_3D = {"spatial_dims": 3, "img_size": 8, "patch_size": 4, "embed_dim": 4, "depth": 1, "num_heads": 1}


@pytest.fixture(scope="module")
def predict(example):
    return example("predict")


@pytest.fixture(autouse=True)
def _leave_the_memory_as_it_was(predict, monkeypatch):
    monkeypatch.setattr(predict, "keep_freed_memory", lambda: None)


def save_network(path, network, arguments, size=(16, 16)):
    torch.manual_seed(0)
    input_ = {"size": list(size), "scale": [1.0] * len(size), "hu_window": [-1000.0, 400.0], "spacing_mm": None}
    of_file = {"network": {"name": network.__name__, "arguments": arguments}, "input": input_}
    save_checkpoint(path, of_file | {"model": network(**arguments).state_dict()})
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("run") / "best.pt", SwinUNet, SWIN)


def make_volume(folder):
    hu = np.random.default_rng(0).integers(-1000, 400, (3, 20, 24), dtype=np.int16)
    np.save(folder / "scan.npy", hu)
    return folder / "scan.npy", hu


def run(predict, checkpoint, source, out, *pixel):
    return predict.main(
        [str(checkpoint), str(source), "--out", str(out), "--attention", *map(str, pixel), "--device=cpu"]
    )


def test_a_slice_gets_the_picture_of_its_own_pixel(predict, checkpoint, tmp_path):
    hu = make_volume(tmp_path)[1][0]
    np.save(tmp_path / "slice.npy", hu)
    assert run(predict, checkpoint, tmp_path / "slice.npy", tmp_path / "out", 7, 19) == 0
    predictor = load_predictor(checkpoint)
    expected = attention_sheet(predictor, predictor.grey(hu), (7, 19))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/attention/slice.png")), np.asarray(expected))


def test_of_a_volume_the_slice_that_was_named_is_drawn(predict, checkpoint, tmp_path):
    source, hu = make_volume(tmp_path)
    assert run(predict, checkpoint, source, tmp_path / "out", 2, 7, 19) == 0
    assert [p.name for p in (tmp_path / "out/attention/scan").iterdir()] == ["002.png"]
    predictor = load_predictor(checkpoint)
    expected = attention_sheet(predictor, predictor.grey(hu[2]), (7, 19))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/attention/scan/002.png")), np.asarray(expected))


def test_a_network_for_volumes_looks_across_slices(predict, tmp_path):
    source, hu = make_volume(tmp_path)
    checkpoint = save_network(tmp_path / "best.pt", UNETR, UNETR_3D, (8, 8, 8))
    assert run(predict, checkpoint, source, tmp_path / "out", 1, 5, 6) == 0
    predictor = load_predictor(checkpoint)
    expected = attention_sheet(predictor, predictor.grey(hu), (1, 5, 6))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/attention/scan/001.png")), np.asarray(expected))


@pytest.mark.parametrize(
    ("pixel", "sentence"),
    [
        ((1,), "--attention takes ROW COLUMN or SLICE ROW COLUMN, got 1 numbers."),
        (
            (7, 19),
            "scan.npy, scan: expected a pixel of an image of 3 x 20 x 24, as 3 numbers counted from 0, got 7 19.",
        ),
        ((3, 0, 0), "scan: expected a pixel of an image of 3 x 20 x 24"),
    ],
)
def test_a_pixel_that_is_not_there_ends_in_one_sentence(pixel, sentence, predict, checkpoint, tmp_path, capsys):
    source, _ = make_volume(tmp_path)
    assert run(predict, checkpoint, source, tmp_path / "out", *pixel) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_network_without_attention_is_refused(predict, tmp_path, capsys):
    checkpoint = save_network(tmp_path / "best.pt", UNet, {"channels": (1,)})
    assert run(predict, checkpoint, make_volume(tmp_path)[0], tmp_path / "out", 0, 0, 0) == 2
    assert "attention can be shown for a SwinUNet or a UNETR, got UNet." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
