"""SwinBlock and SwinUNet: who sees whom, parity with the published network, and what a network owes its user."""

import copy
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from lungseg.checks.networks.network import check_segmentation_network
from lungseg.checks.networks.overfitting import check_overfits_one_batch
from lungseg.nn.swin_unet import SwinBlock, SwinUNet
from lungseg.nn.windows import shifted_window_mask, window_partition, window_reverse
from lungseg.weights.load import load_published
from lungseg.weights.renaming import rename_swin_unet

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/swin_unet"


def block(window_size, shift_size, **options):
    return SwinBlock(8, 2, window_size, shift_size, **options).double().eval()


def small_network(in_channels=1, num_classes=1, **options):
    return SwinUNet(in_channels, num_classes, embed_dim=8, num_heads=(1, 2, 4, 8), window_size=4, **options)


# Who sees whom


@settings(max_examples=60)
@given(H=st.integers(1, 11), W=st.integers(1, 11), ws=st.integers(1, 4), data=st.data())
def test_a_token_sees_exactly_its_cell_of_the_shifted_grid(H, W, ws, data):
    """Roll, pad, cut, mask, attention and un-roll at once: the gradient's footprint, with exact zeros."""
    shift = data.draw(st.integers(0, ws - 1))
    row, col = data.draw(st.integers(0, H - 1)), data.draw(st.integers(0, W - 1))
    x = torch.randn(1, H, W, 8, dtype=torch.double, requires_grad=True)
    out = block(ws, shift)(x)[0, row, col]
    grad = torch.autograd.grad((out * torch.randn(8, dtype=torch.double)).sum(), x)[0]
    seen = grad[0].abs().sum(-1) > 0  # (H, W)

    def same_cell(side, at):
        """Which of `side` rows (columns) lie in one cell with number `at`. One window that holds all does not move."""
        s = shift if side > ws else 0
        return torch.tensor([(i - s) // ws == (at - s) // ws for i in range(side)])

    assert torch.equal(seen, same_cell(H, row)[:, None] & same_cell(W, col)[None, :])


@pytest.mark.parametrize("side", [1, 3, 4])
@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize(("token", "first", "last"), [(5, 0, 11), (0, 0, 7), (23, 16, 23)])
def test_shifts_carry_information_along_a_strip_one_window_wide(side, upright, token, first, last):
    """Windows of 4, shifted by 2: token 5 sees 4-7, then 2-9, then 0-11. The two ends do not meet."""
    stage = torch.nn.Sequential(block(4, 0), block(4, 2), block(4, 0))
    x = torch.randn(1, side, 24, 8, dtype=torch.double, requires_grad=True)
    out = stage(x.transpose(1, 2)).transpose(1, 2) if upright else stage(x)
    grad = torch.autograd.grad((out[0, 0, token] * torch.randn(8, dtype=torch.double)).sum(), x)[0]
    seen = grad[0].abs().sum(-1) > 0  # (side, 24)
    assert torch.equal(seen, ((torch.arange(24) >= first) & (torch.arange(24) <= last)).expand(side, 24))


@settings(max_examples=30)
@given(H=st.integers(5, 11), W=st.integers(5, 11), shift=st.integers(0, 3))
def test_where_both_sides_are_longer_than_a_window_both_are_shifted_as_published(H, W, shift):
    """Bit for bit what one shift of both axes, written out, gives."""
    ours, x = block(4, shift), torch.randn(1, H, W, 8, dtype=torch.double)
    padded = F.pad(x, (0, 0, 0, -W % 4, 0, -H % 4))
    windows = window_partition(padded.roll((-shift, -shift), (1, 2)), 4).flatten(1, 2)
    windows = ours.attn(windows, shifted_window_mask(H, W, 4, shift) if shift or padded.shape != x.shape else None)
    by_hand = window_reverse(windows.unflatten(1, (4, 4)), *padded.shape[1:3]).roll((shift, shift), (1, 2))
    assert torch.equal(ours.window_attention(x), by_hand[:, :H, :W])


@given(H=st.integers(5, 11), W=st.integers(5, 11), shift=st.integers(0, 3))
def test_what_the_padding_holds_changes_no_real_output(H, W, shift):
    ours = block(4, shift)
    x = torch.randn(1, H, W, 8, dtype=torch.double)
    padded = F.pad(x, (0, 0, 0, -W % 4, 0, -H % 4), value=7.0)  # by hand, with sevens
    mask = shifted_window_mask(H, W, 4, shift)
    windows = window_partition(padded.roll((-shift, -shift), (1, 2)), 4).flatten(1, 2)
    by_hand = ours.attn(windows, mask).view(-1, padded.shape[2] // 4, 4, 4, 8)
    by_hand = by_hand.transpose(1, 2).reshape(1, *padded.shape[1:]).roll((shift, shift), (1, 2))
    torch.testing.assert_close(ours.window_attention(x), by_hand[:, :H, :W])


def test_a_small_map_equals_a_full_window_with_masked_padding():
    ours = block(4, 2)
    x = torch.randn(2, 2, 3, 8, dtype=torch.double)
    windows = F.pad(x, (0, 0, 0, 1, 0, 2), value=7.0).flatten(1, 2)  # (2, 16, 8)
    by_hand = ours.attn(windows, shifted_window_mask(2, 3, 4, 0)).view(2, 4, 4, 8)[:, :2, :3]
    torch.testing.assert_close(ours.window_attention(x), by_hand)


def test_a_small_image_leaves_no_trace_in_the_block():
    ours = block(4, 2)
    small, large = torch.randn(1, 4, 4, 8).double(), torch.randn(1, 8, 8, 8).double()
    before = ours(large)
    ours(small)
    assert torch.equal(ours(large), before)


# Parity with the published network


@pytest.fixture(scope="module")
def published():
    """The authors' code at f48f623, embed_dim 8, window 4, on 64 x 64: their weights in our network."""
    saved = torch.load(FIXTURES / "tiny_swin_unet_w4.pt", weights_only=True)
    ours = small_network(3, 2, mlp_ratio=2.0).eval()
    load_published(ours, saved["state_dict"])
    return saved, ours


def test_equal_weights_give_the_published_output(published, in_both_precisions, assert_published):
    saved, ours = published
    assert_published(*in_both_precisions(ours, saved["input"]), saved["output"])


def test_equal_weights_give_the_published_gradients(published):
    saved, ours = published
    ours = copy.deepcopy(ours).double()  # float32 would add this processor's rounding to that of the published norms
    image = saved["input"].double().requires_grad_()
    seed = torch.Generator().manual_seed(zlib.crc32(b"swin_unet_w4/cotangent"))
    (ours(image) * torch.randn(saved["output"].shape, generator=seed)).sum().backward()
    assert image.grad.norm().item() == pytest.approx(saved["input_grad_norm"], rel=1e-5)
    parameters = dict(ours.named_parameters())
    assert len(saved["grad_norm_sum"]) == len(parameters)
    for key, (norm, _) in saved["grad_norm_sum"].items():
        (name,) = rename_swin_unet(key, ours)
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=1e-4), name


def stages_of(ours, image):
    """name of a stage in the published code -> what the same place of ours gives."""
    seen = {}

    def keep(name):
        return lambda module, args, out: seen.update({name: out.flatten(1, 2)})  # (B, H, W, C) -> (B, H*W, C)

    names = {"patch_embed": ours.patch_embed, "norm": ours.norm, "norm_up": ours.norm_up, "up": ours.final_expanding}
    names |= {f"layers.{i}": ours.merging[i] for i in range(3)} | {"layers.3": ours.bottleneck}
    names |= {"layers_up.0": ours.expanding[0], "layers_up.3": ours.decoder[2]}
    names |= {f"layers_up.{i}": ours.expanding[i] for i in (1, 2)}
    names |= {f"concat_back_dim.{i + 1}": ours.fuse[i] for i in range(3)}
    hooks = [module.register_forward_hook(keep(name)) for name, module in names.items()]
    with torch.no_grad():
        ours(image)
    for hook in hooks:
        hook.remove()
    return seen


def test_each_stage_equals_the_published_one(published, assert_published):
    saved, ours = published
    stages = torch.load(FIXTURES / "tiny_swin_unet_w4_stages.pt", weights_only=True)["stages"]
    image = saved["input"][:1]
    exact, single = stages_of(copy.deepcopy(ours).double(), image.double()), stages_of(ours, image)
    assert set(single) == set(stages)
    for name, expected in stages.items():
        assert_published(exact[name].view(expected.shape), single[name].view(expected.shape), expected, name=name)


@pytest.mark.parametrize(("in_channels", "num_classes", "count"), [(1, 1, 27_165_060), (3, 9, 27_168_900)])
def test_the_published_number_of_parameters(in_channels, num_classes, count):
    with torch.device("meta"):
        network = SwinUNet(in_channels, num_classes)
    assert sum(p.numel() for p in network.parameters()) == count


def test_stochastic_depth_climbs_and_the_decoder_mirrors_it():
    network = SwinUNet(embed_dim=8, num_heads=(1, 2, 4, 8), drop_path_rate=0.7)

    def rates(stages):
        return [[round(b.drop_path.rate, 4) for b in stage] for stage in stages]

    assert rates([*network.encoder, network.bottleneck]) == [[0.0, 0.1], [0.2, 0.3], [0.4, 0.5], [0.6, 0.7]]
    assert rates(network.decoder) == [[0.4, 0.5], [0.2, 0.3], [0.0, 0.1]]


# What a network owes its user


def test_it_keeps_sizes_images_and_calls_apart_and_uses_every_parameter():
    check_segmentation_network(lambda i, k: small_network(i, k, drop_path_rate=0.0), full_size=(160, 160), max_side=70)


def test_two_eval_calls_agree_even_with_dropout():
    network = small_network(drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5).eval()
    image = torch.randn(1, 1, 40, 40)
    assert torch.equal(network(image), network(image))
    network.train()
    assert not torch.equal(network(image), network(image))


@pytest.mark.parametrize("option", [{"patch_size": 2}, {"depths": (1, 2, 3, 1)}, {"mlp_ratio": 2.0},
                                    {"qkv_bias": False}, {"head_bias": True}, {"window_size": 5},
                                    {"embed_dim": 16}])  # fmt: skip
def test_every_option_changes_the_network_and_it_still_runs(option):
    plain = {"embed_dim": 8, "num_heads": (1, 2, 4, 8), "window_size": 4}
    network, changed = SwinUNet(**plain), SwinUNet(**(plain | option))
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (network, changed)]
    assert shapes[0] != shapes[1]
    assert changed(torch.randn(1, 1, 33, 47)).shape == (1, 1, 33, 47)


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_any_number_of_stages(stages):
    network = SwinUNet(embed_dim=4, depths=(2,) * stages, num_heads=(1,) * stages, window_size=3)
    assert network(torch.randn(1, 1, 21, 50)).shape == (1, 1, 21, 50)


def test_a_state_dict_fits_networks_for_every_image_size_and_has_no_buffers():
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


def two_stages(embed_dim=8, **options):
    """Every kind of layer, in four blocks, one of them shifted: tracing takes long, and as long for each block."""
    return SwinUNet(embed_dim=embed_dim, depths=(1, 2), num_heads=(1, 2), window_size=4, **options)


@pytest.mark.parametrize("size", [(32, 32), (16, 90)])  # without padding; with padding, lower than a window
def test_it_can_be_exported(size):
    network, image = two_stages().eval(), torch.randn(2, 1, *size)
    exported = torch.export.export(network, (image,)).module()
    torch.testing.assert_close(exported(image), network(image))


def test_it_compiles_at_two_sizes_with_gradients():
    """One graph each, no part left to Python; the backend traces as the default does, but needs no compiler."""
    torch.compiler.reset()
    network = two_stages(drop_path_rate=0.0)
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
    network = two_stages(embed_dim=16, patch_size=2, drop_path_rate=0.0)
    check_overfits_one_batch(network, lr=3e-3, steps=200)


def test_different_lengths_of_depths_and_heads_are_an_error():
    with pytest.raises(ValueError, match="same number of stages, got 4 and 3"):
        SwinUNet(num_heads=(3, 6, 12))


def test_a_shift_of_a_whole_window_is_an_error():
    with pytest.raises(ValueError, match=r"shift_size must be in \[0, window_size=4\), got 4"):
        SwinBlock(8, 2, 4, 4)
