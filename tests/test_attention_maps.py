"""Attention in image coordinates, held to gradients, to sums over the un-rolled map, and to a map made by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lungseg.attention_maps import attention_blocks, attention_in_image, attention_map, attention_sheet, token_side
from lungseg.checkpoint import InputSpec
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.predictor import Predictor

WINDOW, PATCH = 4, 2
SWIN_BLOCKS = [
    f"{part}.{j}" for part in ("encoder.0", "encoder.1", "bottleneck", "decoder.0", "decoder.1") for j in (0, 1)
]


def make_swin():
    torch.manual_seed(3)
    options = {"embed_dim": 4, "depths": (2, 2, 2), "num_heads": (2, 2, 4), "window_size": WINDOW}
    network = SwinUNet(patch_size=PATCH, **options).double().eval()
    with torch.no_grad():  # as initialised, all weights are nearly equal
        for name, parameter in network.named_parameters():
            if "qkv" in name or "bias_table" in name:
                parameter.normal_()
    return network


def make_unetr(**options):
    torch.manual_seed(4)
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 6, "depth": 2, "num_heads": 2, "feature_size": 2} | options
    network = UNETR(**options).double().eval()
    for block in network.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight)
    return network


SWIN, UNETR_2D, UNETR_3D = make_swin(), make_unetr(), make_unetr(img_size=8, spatial_dims=3, attn_scale="head_dim")


def make_image(*sides, seed=0):
    return torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def input_of(network, block, image):
    """What a block of the network is given."""
    seen = []
    with (
        network.get_submodule(block).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])),
        torch.no_grad(),
    ):
        network(image)
    return seen[0]


def cell(row, col, height, width, shifted):
    """The cell of the window grid that holds a token of the un-rolled, un-padded map: in integers, without a roll."""
    side = min(WINDOW, max(height, width))
    down, across = (WINDOW // 2 if shifted and n > WINDOW else 0 for n in (height, width))
    return (row - down) // side, (col - across) // side


def swin_weights(block, x, query, head, shifted):
    """{token: weight} of one query and head by equation 4 of the Swin paper: only dots, exponentials and sums."""
    attn, (height, width) = block.attn, x.shape[1:3]
    d = attn.qkv.in_features // attn.num_heads
    qkv = attn.qkv(block.norm1(x))[0].view(height, width, 3, attn.num_heads, d)
    logits = {}
    for r in range(height):
        for c in range(width):
            if cell(r, c, height, width, shifted) == cell(*query, height, width, shifted):
                offset = (query[0] - r + WINDOW - 1) * (2 * WINDOW - 1) + query[1] - c + WINDOW - 1
                dot = (qkv[(*query, 0, head)] * qkv[r, c, 1, head]).sum().item()
                logits[r, c] = dot / math.sqrt(d) + attn.relative_position_bias_table[offset, head].item()
    total = sum(math.exp(logit) for logit in logits.values())
    return {token: math.exp(logit) / total for token, logit in logits.items()}


# ---- Swin-UNet --------------------------------------------------------------------------------------------------


def test_the_blocks_are_named_in_the_order_of_the_forward_pass():
    assert attention_blocks(SWIN) == SWIN_BLOCKS
    assert attention_blocks(UNETR_2D) == ["blocks.0", "blocks.1"]
    assert [token_side(SWIN, f"{stage}.0") for stage in ("encoder.0", "encoder.1", "bottleneck")] == [2, 4, 8]
    assert [token_side(SWIN, f"decoder.{i}.1") for i in (0, 1)] == [4, 2] and token_side(UNETR_2D, "blocks.1") == 4


@given(st.integers(1, 37), st.integers(1, 37), st.sampled_from(SWIN_BLOCKS), st.data())
@settings(max_examples=40)
def test_a_map_is_the_softmax_over_the_cell_of_the_pixels_token(height, width, name, data):
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    image, side, block = make_image(height, width), token_side(SWIN, name), SWIN.get_submodule(name)
    head = data.draw(st.integers(0, block.attn.num_heads - 1))
    weights = attention_map(SWIN, image, (row, col), block=name, head=head)
    assert weights.shape == (height, width) and weights.dtype == np.float64
    x = input_of(SWIN, name, image)
    assert x.shape[1:3] == (-(-height // side), -(-width // side))
    expected = swin_weights(block, x, (row // side, col // side), head, shifted=name.endswith("1"))
    for r in range(height):
        for c in range(width):
            wanted = expected.get((r // side, c // side), math.nan)
            assert weights[r, c] == pytest.approx(wanted, abs=1e-10, nan_ok=True)
    assert np.nansum(weights[::side, ::side]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["encoder.0.0", "encoder.0.1", "encoder.1.1", "decoder.1.1"])
def test_a_token_has_a_weight_exactly_where_it_influences_the_query(name):
    image, side, block = (
        make_image(29, 34),
        token_side(SWIN, name),
        SWIN.get_submodule(name),
    )  # 15 x 17 tokens, or 8 x 9
    x = input_of(SWIN, name, image).requires_grad_()
    for pixel in [(0, 0), (5, 20), (28, 33)]:
        out = block.window_attention(x)[0, pixel[0] // side, pixel[1] // side].sum()
        influence = torch.autograd.grad(out, x)[0][0].abs().sum(-1) > 0
        weights = attention_map(SWIN, image, pixel, block=name)[::side, ::side]
        assert np.array_equal(influence.numpy(), weights > 0)
        assert np.isnan(weights[~influence]).all()


def test_the_roll_and_the_padding_are_undone():
    """Tokens 6 x 8 in windows of 4, shifted by 2: two rows of padding. The cell of token (5, 7), by hand."""
    weights = attention_map(SWIN, make_image(12, 16), (11, 15), block="encoder.0.1")
    expected = np.zeros((6, 8), bool)
    expected[2:6, 6:8] = (
        True  # rows 2 to 5, columns 6 and 7; columns 0 and 1 come next to it in the roll, and are blocked
    )
    assert np.array_equal(np.isfinite(weights[::2, ::2]), expected)
    corner = attention_map(SWIN, make_image(12, 16), (0, 0), block="encoder.0.1")
    assert np.isfinite(corner[:4, :4]).all() and np.isfinite(corner).sum() == 16  # 2 x 2 tokens of 2 x 2 pixels


def test_no_head_is_the_mean_over_the_heads():
    image, pixel = make_image(20, 20), (7, 9)
    heads = [attention_map(SWIN, image, pixel, block="bottleneck.0", head=h) for h in range(4)]
    assert np.abs(heads[0] - heads[1]).max() > 0.01
    np.testing.assert_allclose(attention_map(SWIN, image, pixel, block="bottleneck.0"), np.mean(heads, axis=0))


# ---- UNETR ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "sides", "pixel", "scale"),
    [
        (UNETR_2D, (16, 16), (3, 4), 3**-0.5),
        (UNETR_2D, (9, 22), (8, 21), 3**-0.5),
        (UNETR_3D, (7, 8, 5), (6, 3, 4), 1 / 3),
    ],
)
def test_in_a_unetr_each_token_looks_at_the_whole_image(network, sides, pixel, scale):
    image, grid = make_image(*sides), [-(-n // 4) for n in sides]
    query = np.ravel_multi_index([p // 4 for p in pixel], grid)
    for i, block in enumerate(network.blocks):
        qkv = block.attn.qkv(block.norm1(input_of(network, f"blocks.{i}", image)))[0].view(
            -1, 3, 2, 3
        )  # (N, 3, heads, d)
        for head in (0, 1):
            logits = [(qkv[query, 0, head] * key).sum().item() * scale for key in qkv[:, 1, head]]
            exp = np.exp(np.reshape(logits, grid))
            weights = attention_map(network, image, pixel, block=f"blocks.{i}", head=head)
            for place in np.ndindex(*sides):
                assert weights[place] == pytest.approx(exp[tuple(p // 4 for p in place)] / exp.sum())


# ---- the network stays as it is -----------------------------------------------------------------------------------


def hooks(network):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules())


@pytest.mark.parametrize("network", [SWIN, UNETR_2D])
def test_the_logits_are_the_same_before_and_after(network):
    image = make_image(13, 18)
    with torch.no_grad():
        before = network(image)
        attention_map(network, image, (0, 0), block=attention_blocks(network)[1])
        assert torch.equal(network(image), before)
    assert hooks(network) == 0


def test_after_an_error_no_hook_is_left():
    with pytest.raises(ValueError, match="channels"):
        attention_map(SWIN, torch.zeros(1, 2, 8, 8, dtype=torch.double), (0, 0), block="encoder.0.0")
    assert hooks(SWIN) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": UNet(channels=(1,)).eval()}, "a SwinUNet or a UNETR, got UNet"),
        ({"network": make_swin().train()}, "training mode, with dropout. Call network.eval"),
        ({"image": torch.zeros(2, 1, 8, 8)}, r"expected one image, \(1, C, H, W\), got \(2, 1, 8, 8\)"),
        ({"pixel": (8, 0)}, "expected a pixel of an image of 8 x 9, as 2 numbers counted from 0, got 8 0"),
        ({"pixel": (0, -1)}, "got 0 -1"),
        ({"pixel": (0, 0, 0)}, "as 2 numbers counted from 0, got 0 0 0"),
        ({"block": "encoder.0"}, "expected one of the blocks encoder.0.0, .*decoder.1.1, got 'encoder.0'"),
        ({"head": 2}, "block encoder.0.0 has heads 0 to 1, got head=2"),
        ({"head": -1}, "got head=-1"),
    ],
)
def test_what_cannot_be_shown_is_refused(changes, sentence):
    usual = {"network": SWIN, "image": make_image(8, 9), "pixel": (0, 0), "block": "encoder.0.0"}
    with pytest.raises(ValueError, match=sentence):
        attention_map(**usual | changes)


# ---- through a predictor ----------------------------------------------------------------------------------------


def make_predictor(network, size=(16, 16), scale=(1.0, 1.0)):
    return Predictor(network, InputSpec(size=size, scale=scale, hu_window=(-1000.0, 400.0), spacing_mm=None))


def make_grey(*sides):
    return np.random.default_rng(0).random(sides, dtype=np.float32)


@pytest.fixture(scope="module")
def swin32():
    return make_swin().float()


def test_an_image_of_the_trainings_size_is_shown_as_it_is(swin32):
    grey, pixel = make_grey(16, 16), (3, 13)
    shown = attention_in_image(make_predictor(swin32), grey, pixel, block="encoder.0.1", head=1)
    plain = attention_map(swin32, torch.from_numpy(grey)[None, None], pixel, block="encoder.0.1", head=1)
    assert np.array_equal(shown, plain, equal_nan=True)


def test_a_larger_image_is_shown_in_the_window_around_the_pixel(swin32):
    """Windows of 16 begin at 0, 8, 16, 24 along 40 pixels. Pixel 21 is in those at 8 and 16, nearer the middle of the
    second."""
    grey, pixel = make_grey(40, 16), (21, 5)
    shown = attention_in_image(make_predictor(swin32), grey, pixel, block="bottleneck.0")
    inside = attention_map(swin32, torch.from_numpy(grey[16:32])[None, None], (5, 5), block="bottleneck.0")
    assert np.array_equal(shown[16:32], inside, equal_nan=True) and np.isfinite(inside).all()
    assert np.isnan(shown[:16]).all() and np.isnan(shown[32:]).all()


def test_a_shrunk_image_is_shown_at_its_own_pixels(swin32):
    predictor, pixel = make_predictor(swin32, scale=(0.5, 0.5)), (31, 6)
    grey = make_grey(32, 32)
    small = attention_map(
        swin32, torch.from_numpy(predictor.scaled(grey[None], (0.5, 0.5)))[None], (15, 3), block="encoder.0.0"
    )
    shown = attention_in_image(predictor, grey, pixel, block="encoder.0.0")
    assert np.array_equal(shown, small.repeat(2, 0).repeat(2, 1), equal_nan=True)
    whole = attention_in_image(predictor, make_grey(16, 16), (15, 3), block="encoder.0.0", scale=(1.0, 1.0))
    assert whole.shape == (16, 16)


def test_a_network_for_slices_needs_one_slice(swin32):
    with pytest.raises(ValueError, match=r"an image with 2 sides, got \(3, 16, 16\). Choose one slice"):
        attention_in_image(make_predictor(swin32), make_grey(3, 16, 16), (0, 0, 0), block="encoder.0.0")


def test_the_sheet_shows_the_image_where_the_query_does_not_look(swin32):
    sheet = np.asarray(attention_sheet(make_predictor(swin32), np.full((16, 16), 0.5, np.float32), (8, 8)))
    grey = np.full(3, 128, np.uint8)
    tile = 22 * 16  # 16 pixels enlarged to at most 360
    assert sheet.shape[0] > 3 * tile and 5 * tile < sheet.shape[1] < 6 * tile  # 1 + 10 pictures in rows of 5
    assert (sheet[6 : 6 + tile, 6 : 6 + tile] == grey).all(-1).mean() > 0.95  # the image, with a cross
    second = sheet[6 : 6 + tile, 12 + tile : 12 + 2 * tile]  # encoder.0.0: a window of 8 x 8 of the 16 x 16 pixels
    assert (second == grey).all(-1).mean() == pytest.approx(0.75, abs=0.01)


def test_of_a_large_image_the_sheet_shows_the_blocks_where_they_look(swin32):
    """An image of 64 x 88 of which one window of 16 x 16 is seen: white there, black elsewhere."""
    grey = np.zeros((64, 88), np.float32)
    grey[24:40, 40:56] = 1  # the window around pixel (32, 48)
    sheet = np.asarray(attention_sheet(make_predictor(swin32), grey, (32, 48)))
    whole, tile = 4 * 88, 22 * 16
    assert sheet[6 + 4 * 24 + 2, 6 + 4 * 40 + 2].tolist() == [255, 255, 255] and sheet[7, 7].tolist() == [0, 0, 0]
    first = sheet[6 : 6 + tile, 12 + whole : 12 + whole + tile]  # encoder.0.0 sees a quarter of the window
    assert (first == 255).all(-1).mean() > 0.74


def test_of_a_volume_the_sheet_shows_the_slice_of_the_pixel():
    network = make_unetr(img_size=8, spatial_dims=3).float()
    predictor = make_predictor(network, (8, 8, 8), (1.0, 1.0, 1.0))
    grey = np.zeros((8, 8, 8), np.float32)
    grey[5] = 1
    sheets = [np.asarray(attention_sheet(predictor, grey, (z, 4, 4))) for z in (4, 5)]
    assert sheets[0][12, 12].tolist() == [0, 0, 0] and sheets[1][12, 12].tolist() == [255, 255, 255]
