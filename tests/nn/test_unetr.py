"""TransformerBlock and UNETR: the paper's equations, parity with the published code, what a network owes its user."""

import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from lungseg.checks.networks.network import check_segmentation_network
from lungseg.checks.networks.overfitting import check_overfits_one_batch
from lungseg.nn.unetr import PRESETS, UNETR, ResidualBlock, TransformerBlock, UpBlock, resize_positions, tokens_to_map
from lungseg.weights.load import load_published

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/unetr"
SMALL = {"embed_dim": 24, "depth": 4, "num_heads": 3, "feature_size": 4, "img_size": 32}


def small_network(in_channels=1, num_classes=1, **options):
    return UNETR(in_channels, num_classes, **(SMALL | options))


# The pieces


def test_a_block_is_torchs_own_pre_norm_encoder_layer():
    """Equations 2 and 3, against an implementation that shares no code with ours."""
    ours = TransformerBlock(8, 2, mlp_ratio=3.0, qkv_bias=True).double()
    theirs = nn.TransformerEncoderLayer(
        8, 2, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    pairs = {
        "norm1": theirs.norm1, "norm2": theirs.norm2, "mlp.fc1": theirs.linear1, "mlp.fc2": theirs.linear2,
        "attn.proj": theirs.self_attn.out_proj,
    }  # fmt: skip
    with torch.no_grad():
        for name, module in pairs.items():
            for p in module.parameters():
                p.copy_(torch.randn_like(p))
            ours.get_submodule(name).load_state_dict(module.state_dict())
        theirs.self_attn.in_proj_weight.copy_(ours.attn.qkv.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.attn.qkv.bias.normal_())
    z = torch.randn(3, 5, 8, dtype=torch.double)  # (B, N, K)
    torch.testing.assert_close(ours(z), theirs(z))


@pytest.mark.parametrize("channels", [(3, 3), (3, 5)], ids=["same channels", "other channels"])
def test_a_residual_block_is_its_input_plus_two_normalised_convolutions(channels):
    ours = ResidualBlock(*channels).double()
    x = torch.randn(2, channels[0], 6, 7, dtype=torch.double)

    def norm(y):
        return (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    out = norm(F.conv2d(x, ours.conv1.weight, padding=1))
    out = norm(F.conv2d(torch.where(out > 0, out, 0.01 * out), ours.conv2.weight, padding=1))
    out = out + (x if channels[0] == channels[1] else norm(F.conv2d(x, ours.conv3.weight)))
    torch.testing.assert_close(ours(x), torch.where(out > 0, out, 0.01 * out))


def test_an_up_block_spreads_each_pixel_over_its_own_square():
    up = UpBlock(4, 2).double().up
    x = torch.randn(1, 4, 3, 5, dtype=torch.double, requires_grad=True)
    out = up(x)
    assert out.shape == (1, 2, 6, 10)
    grad = torch.autograd.grad(out[0, :, 3, 4].sum(), x)[0]
    assert grad[0].any(0).nonzero().tolist() == [[1, 2]]


def test_an_up_block_joins_the_map_before_the_skip():
    """The order in which published weights were trained: the first half of the kernel reads what comes from below."""
    block = UpBlock(4, 2).double()
    x, skip = torch.randn(1, 4, 3, 3, dtype=torch.double), torch.randn(1, 2, 6, 6, dtype=torch.double)
    torch.testing.assert_close(block(x, skip), block.block(torch.cat([block.up(x), skip], dim=1)))


def test_tokens_are_in_reading_order():
    z = torch.arange(24.0).view(1, 24, 1)
    assert torch.equal(tokens_to_map(z, (2, 3, 4))[0, 0], torch.arange(24.0).view(2, 3, 4))


def planes(grid):
    """(*grid, 2): two linear maps of the unit square or cube, at the centres of the grid's patches."""
    centres = [(torch.arange(n, dtype=torch.double) + 0.5) / n for n in grid]
    axes = torch.meshgrid(*centres, indexing="ij")
    return torch.stack([sum(axes), axes[0] - 2 * axes[-1]], dim=-1)


@pytest.mark.parametrize(("shape", "border"), [((6, 8), 4), ((4, 5, 6), 1)], ids=["bicubic", "trilinear"])
def test_resizing_positions_keeps_a_linear_map_and_the_same_grid(shape, border):
    table, grid = planes(shape), [2 * n for n in shape]
    assert resize_positions(table, shape) is table
    inside = (slice(border, -border),) * len(shape)  # at the border patches have no neighbours
    torch.testing.assert_close(resize_positions(table, grid)[inside], planes(grid)[inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(6, 8), (4, 5, 6)], ids=["bicubic", "trilinear"])
def test_positions_in_half_precision_are_interpolated_in_float32_and_rounded_once(shape, dtype):
    table, grid = torch.randn(*shape, 3).to(dtype), [2 * n + 1 for n in shape]
    assert torch.equal(resize_positions(table, grid), resize_positions(table.float(), grid).to(dtype))


def test_hidden_states_are_counted_from_one_and_the_decoder_reads_those_named():
    network = small_network(skip_layers=(1, 2, 4)).eval()
    image, read = torch.randn(1, 1, 32, 48), []
    hooks = [path.register_forward_pre_hook(lambda module, args: read.append(args[0])) for path in network.skips]
    with torch.no_grad():
        network(image)
        z = network.hidden_states(image)
        by_hand = z[0]
        for block, state in zip(network.blocks, z[1:], strict=True):
            by_hand = block(by_hand)
            assert torch.equal(state, by_hand)
    for hook in hooks:
        hook.remove()
    assert len(z) == 5 and z[0].shape == (1, 6, 24)
    for got, layer in zip(read, (4, 2, 1), strict=True):  # coarsest first
        assert torch.equal(got, tokens_to_map(z[layer], (2, 3)))


def test_every_token_sees_the_whole_image():
    network = small_network().double().eval()
    image = torch.randn(1, 1, 32, 48, dtype=torch.double, requires_grad=True)
    token = network.hidden_states(image)[1][0, 0]
    grad = torch.autograd.grad((token * torch.randn_like(token)).sum(), image)[0]
    assert (grad != 0).all()


# Parity with the published network

TINY = {
    "unetr2d": {"in_channels": 2, "num_classes": 3, "img_size": (64, 48), "embed_dim": 24, "feature_size": 4,
                "qkv_bias": True, "norm_affine": True},
    "unetr3d": {"in_channels": 1, "num_classes": 2, "img_size": (32, 16, 48), "embed_dim": 12, "feature_size": 2,
                "spatial_dims": 3},
}  # fmt: skip


def published(name):
    """MONAI 1.6.1's UNETR: what it gave, and its weights in our network."""
    saved = torch.load(FIXTURES / f"tiny_{name}.pt", weights_only=True)
    ours = UNETR(**TINY[name], num_heads=3, mlp_ratio=2.0, skip_layers=(4, 7, 10)).eval()
    return saved, ours, load_published(ours, saved["state_dict"])


@pytest.mark.parametrize("fused", [True, False], ids=["fused attention", "formula"])
@pytest.mark.parametrize("name", TINY)
def test_equal_weights_give_the_published_output(name, fused, in_both_precisions, assert_published):
    saved, ours, _ = published(name)
    for block in ours.blocks:
        block.attn.fused = fused
    assert_published(*in_both_precisions(ours, saved["input"]), saved["output"])


@pytest.mark.parametrize("name", TINY)
def test_equal_weights_give_the_published_gradients(name):
    """In float64: in float32 a leaky ReLU whose input is nearly zero may fall on either side of its kink."""
    saved, ours, report = published(name)
    ours.double()
    image = saved["input"].double().requires_grad_()
    seed = torch.Generator().manual_seed(zlib.crc32(f"{name}/cotangent".encode()))
    (ours(image) * torch.randn(saved["output"].shape, generator=seed)).sum().backward()
    assert image.grad.norm().item() == pytest.approx(saved["input_grad_norm"], rel=1e-5)
    assert {key for key, g in saved["grad_norm_sum"].items() if g is None} == set(report.skipped)  # dead there too
    for ours_name, parameter in ours.named_parameters():
        norm, _ = saved["grad_norm_sum"][report.loaded[ours_name]]
        # abs: of a 1 x 1 kernel on one channel before a norm, which has no gradient but rounding.
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-3), ours_name


@pytest.mark.parametrize(
    ("options", "count"), [({}, 87_333_809 - 18_432), ({"num_classes": 14, "spatial_dims": 3}, 92_802_478 - 18_432)]
)
def test_the_published_number_of_parameters_less_those_never_used(options, count):
    """MONAI's blocks each make a LayerNorm for cross-attention that UNETR's forward pass never calls: 12 x 2 x 768."""
    with torch.device("meta"):
        network = UNETR(**options)
    assert network.skip_layers == (3, 6, 9)
    assert sum(p.numel() for p in network.parameters()) == count


# What a network owes its user


def test_it_is_a_segmentation_network_for_images():
    check_segmentation_network(small_network, full_size=(48, 32))


def test_it_is_a_segmentation_network_for_volumes():
    def build(in_channels, num_classes):
        return small_network(in_channels, num_classes, spatial_dims=3)

    check_segmentation_network(build, full_size=(32, 16, 32), max_side=33, sizes=5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_single_pixel_can_even_be_trained_on(spatial_dims):
    network = small_network(spatial_dims=spatial_dims)
    logits = network(torch.randn(1, 1, *[1] * spatial_dims))
    logits.sum().backward()
    assert logits.isfinite().all()


@settings(max_examples=15)
@given(H=st.integers(1, 40), W=st.integers(1, 40), k=st.integers(1, 4))
def test_padding_is_zeros_at_the_bottom_and_right_and_cropped(H, W, k):
    network = small_network(patch_size=2**k).eval()
    image = torch.randn(1, 1, H, W)
    with torch.no_grad():
        by_hand = network(F.pad(image, (0, -W % 2**k, 0, -H % 2**k)))
        torch.testing.assert_close(network(image), by_hand[..., :H, :W])


def test_the_position_table_has_a_place_for_each_patch_also_where_the_last_is_cut():
    assert small_network(img_size=40).position_embedding.shape == (3, 3, 24)
    assert small_network(img_size=(32, 16, 17), spatial_dims=3).position_embedding.shape == (2, 1, 2, 24)


def test_another_size_sees_the_interpolated_positions():
    small, large = small_network(img_size=(32, 48)).eval(), small_network(img_size=(64, 80)).eval()
    state = small.state_dict()
    state["position_embedding"] = resize_positions(state["position_embedding"], (4, 5))
    large.load_state_dict(state)
    image = torch.randn(1, 1, 64, 80)
    with torch.no_grad():
        torch.testing.assert_close(small(image), large(image))


@pytest.mark.parametrize(
    ("patch_size", "layers", "widths"),
    [(2, (), (4,)), (4, (2,), (8, 4)), (8, (1, 2), (16, 8, 4)), (16, (1, 2, 3), (32, 16, 8, 4))],
)
def test_the_decoder_has_one_step_for_each_doubling(patch_size, layers, widths):
    network = small_network(patch_size=patch_size)
    assert network.skip_layers == layers
    assert tuple(up.up.weight.shape[1] for up in network.decoder) == widths
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("option", [{"embed_dim": 12}, {"depth": 5}, {"mlp_ratio": 2.0}, {"feature_size": 2},
                                    {"patch_size": 8}, {"img_size": 64}, {"qkv_bias": True}, {"norm_affine": True},
                                    {"spatial_dims": 3}])  # fmt: skip
def test_every_option_of_size_changes_the_network_and_it_still_runs(option):
    network, changed = small_network(), small_network(**option)
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (network, changed)]
    assert shapes[0] != shapes[1]
    size = [17, 30, 5][: changed.spatial_dims]
    assert changed(torch.randn(1, 1, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("option", [{"num_heads": 4}, {"skip_layers": (1, 2, 4)}, {"attn_scale": "head_dim"}])
def test_every_option_of_wiring_changes_the_output(option):
    network, changed = small_network().eval(), small_network(**option).eval()
    changed.load_state_dict(network.state_dict())
    image = torch.randn(1, 1, 48, 48)
    with torch.no_grad():
        assert (network(image) - changed(image)).abs().max() > 1e-5


@pytest.mark.parametrize("option", [{"drop_rate": 0.5}, {"attn_drop_rate": 0.5}])
def test_two_eval_calls_agree_even_with_dropout_and_two_training_calls_do_not(option):
    network, image = small_network(**option), torch.randn(1, 1, 48, 48)
    with torch.no_grad():
        assert not torch.equal(network(image), network(image))
        network.eval()
        assert torch.equal(network(image), network(image))


def test_the_drop_rate_reaches_the_tokens_and_every_branch():
    rates = [m.p for m in small_network(drop_rate=0.5).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.5] * (1 + 2 * 4)  # after the positions, and in attention and MLP of each block


def test_dividing_by_the_head_dimension_makes_attention_uniform():
    """Queries and keys of variance 1, as the paper's scale assumes: entropy of the weights against that of none."""
    share = {}
    for attn_scale in ("sqrt", "head_dim"):
        network = UNETR(img_size=224, embed_dim=128, depth=4, num_heads=2, feature_size=4, attn_scale=attn_scale)
        attn = network.blocks[0].attn
        nn.init.normal_(attn.qkv.weight, std=128**-0.5)
        _, weights = attn(torch.randn(1, 196, 128), return_weights=True)  # (1, 2, 196, 196)
        share[attn_scale] = (-(weights * weights.log()).sum(-1).mean() / torch.tensor(196.0).log()).item()
    assert share["head_dim"] > 0.995 and share["sqrt"] < 0.95


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_and_can_be_changed(name):
    with torch.device("meta"):
        network = UNETR(**PRESETS[name], num_classes=2, img_size=64)
        assert network(torch.empty(1, 1, 64, 64)).shape == (1, 2, 64, 64)
        assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in UNETR().parameters()) / 3


def test_a_state_dict_has_no_buffers():
    network = small_network()
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_half_precision_stays_close():
    network = small_network().eval()
    image = torch.randn(1, 1, 48, 48)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(image).float()
    with torch.no_grad():
        full = network(image)
    assert (half - full).norm() < 0.03 * full.norm()  # bfloat16 keeps about three digits


@pytest.mark.parametrize("size", [(48, 33), (32, 32)])
def test_it_can_be_exported(size):
    network, image = small_network().eval(), torch.randn(2, 1, *size)
    exported = torch.export.export(network, (image,)).module()
    torch.testing.assert_close(exported(image), network(image))


def test_it_compiles_at_two_sizes_with_gradients():
    """One graph each, no part left to Python; the backend traces as the default does, but needs no compiler."""
    torch.compiler.reset()
    network = small_network()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    for size in [(48, 33), (32, 32)]:
        image = torch.randn(2, 1, *size, requires_grad=True)
        results = []
        for forward in (network, compiled):
            logits = forward(image)
            results.append([logits, *torch.autograd.grad((logits**2).sum(), image)])
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-4)


def test_it_overfits_one_batch():
    """A network that cannot learn four pictures by heart is broken somewhere."""
    network = UNETR(img_size=32, embed_dim=48, depth=3, num_heads=3, feature_size=8, patch_size=8)
    check_overfits_one_batch(network, lr=3e-3, steps=60)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, r"spatial_dims must be 2 \(images\) or 3 \(volumes\), got 4"),
        ({"patch_size": 12}, "patch_size must be a power of two, at least 2, got 12. Use 8 or 16"),
        ({"patch_size": 1}, "power of two, at least 2, got 1"),
        ({"attn_scale": "log"}, 'attn_scale must be "sqrt" or "head_dim", got \'log\''),
        ({"img_size": (32, 32, 32)}, r"img_size must be one integer or 2, each at least 1, got \(32, 32, 32\)"),
        ({"img_size": 0}, "each at least 1, got 0"),
        ({"num_heads": 5}, "num_heads=5 does not divide embed_dim=24"),
        (
            {"skip_layers": (3, 6, 9)},
            r"depth=4 need 3 skip_layers, ascending from 1 to 4, got \(3, 6, 9\). Evenly spread: \(1, 2, 3\)",
        ),
        ({"skip_layers": (0, 1, 2)}, "ascending from 1 to 4"),
        ({"skip_layers": (3, 2, 1)}, "ascending from 1 to 4"),
        ({"patch_size": 8, "skip_layers": (1, 2, 3)}, "patch_size=8 and depth=4 need 2 skip_layers"),
    ],
)
def test_what_cannot_be_built_is_an_error_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        small_network(**options)


def test_a_volume_for_a_network_of_images_is_an_error():
    with pytest.raises(ValueError, match=r"UNETR: the image has shape \(1, 1, 16, 16, 16\), but \(B, 1, H, W\)"):
        small_network()(torch.zeros(1, 1, 16, 16, 16))
