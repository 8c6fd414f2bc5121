"""Attention: the formula, torch's fused twin, whole images and windows, each held to an independent reference."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lungseg.checks.networks.attention import check_attention
from lungseg.checks.networks.self_attention import check_window_attention
from lungseg.nn.attention import SelfAttention, WindowAttention, attention, fused_attention
from lungseg.nn.windows import shifted_window_mask

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/swin_unet/tiny_timm_window_attention.pt"


def test_attention_is_the_formula():
    check_attention(attention)


@pytest.mark.parametrize("fused", [True, False])
def test_self_attention_is_torchs_multihead_attention(fused):
    ours = SelfAttention(dim=8, num_heads=2, qkv_bias=True, fused=fused).double().eval()
    nn.init.normal_(ours.qkv.bias)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    theirs.in_proj_weight, theirs.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.proj.weight, ours.proj.bias
    x = torch.randn(3, 11, 8, dtype=torch.double)  # (B, N, K)
    expected, expected_weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(x), expected)
    out, weights = ours(x, return_weights=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights, expected_weights)  # (B, heads, N, N)


@pytest.mark.parametrize("scale", [None, 0.25, 1.0])
def test_self_attention_takes_the_same_scale_fused_or_not(scale):
    attn = SelfAttention(dim=8, num_heads=2, scale=scale).double().eval()
    nn.init.normal_(attn.qkv.weight)
    x = torch.randn(2, 5, 8, dtype=torch.double)
    q, k, _ = attn.qkv(x).view(2, 5, 3, 2, 4).unbind(2)  # (B, N, heads, d)
    out, weights = attn(x, return_weights=True)
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * (0.5 if scale is None else scale)  # 1 / sqrt(4) = 0.5
    torch.testing.assert_close(weights, logits.softmax(-1))
    torch.testing.assert_close(attn(x), out)


@pytest.mark.parametrize("fused", [True, False])
def test_dropped_self_attention_keeps_the_mean(fused):
    attn = SelfAttention(4, 1, attn_drop=0.5, fused=fused).double()
    x = torch.randn(1, 4, 4, dtype=torch.double)
    many = attn(x.expand(20_000, -1, -1))
    assert not torch.equal(many[0], many[1])
    torch.testing.assert_close(many.mean(0), attn.eval()(x)[0], atol=0.02, rtol=0)


def test_heads_that_do_not_divide_are_an_error_for_self_attention():
    with pytest.raises(ValueError, match="SelfAttention: num_heads=3 does not divide dim=8"):
        SelfAttention(8, 3)


def test_window_attention_is_equation_four():
    check_window_attention(WindowAttention)


def test_the_fused_function_equals_the_formula_in_value_and_gradient():
    bias = torch.randn(3, 9, 9, dtype=torch.double)
    bias[:, 4, 5:] = -torch.inf
    tensors = [torch.randn(2, 3, 9, 4, dtype=torch.double) for _ in range(3)] + [bias]
    cotangent = torch.randn(2, 3, 9, 4, dtype=torch.double)
    results = []
    for f in (lambda *a, bias: attention(*a, bias=bias)[0], fused_attention):
        leaves = [t.clone().requires_grad_() for t in tensors]
        out = f(*leaves[:3], bias=leaves[3])
        results.append([out, *torch.autograd.grad((out * cotangent).sum(), leaves)])
    for formula, fused in zip(*results, strict=True):
        torch.testing.assert_close(formula, fused)


@pytest.mark.parametrize("function", [lambda *qkv, drop: attention(*qkv, drop=drop)[0], fused_attention])
def test_the_function_and_its_twin_drop_weights_and_keep_the_mean(function):
    q, k, v = (torch.randn(1, 1, 4, 4, dtype=torch.double).expand(20_000, -1, -1, -1) for _ in range(3))
    many = function(q, k, v, drop=0.5)
    assert not torch.equal(many[0], many[1])
    torch.testing.assert_close(many.mean(0), function(q[:1], k[:1], v[:1], drop=0.0)[0], atol=0.05, rtol=0)


def test_weights_sum_to_one_and_blocked_weights_are_exactly_zero():
    attn = WindowAttention(8, 4, 2).double().eval()
    mask = shifted_window_mask(7, 6, 4, 2)  # (4, 16, 16)
    x = torch.randn(2 * 4, 16, 8, dtype=torch.double)
    out, weights = attn(x, mask, return_weights=True)
    assert weights.shape == (8, 2, 16, 16)
    torch.testing.assert_close(weights.sum(-1), torch.ones(8, 2, 16, dtype=torch.double))
    assert torch.equal(weights[:4, 0] > 0, mask)  # image 0: every allowed weight is used, no other
    assert torch.equal(weights[4:, 1] > 0, mask)
    torch.testing.assert_close(out, attn(x, mask))


def test_one_window_without_bias_is_ordinary_multihead_attention():
    ours = WindowAttention(dim=8, window_size=4, num_heads=2).double().eval()
    nn.init.zeros_(ours.relative_position_bias_table)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    theirs.in_proj_weight, theirs.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.proj.weight, ours.proj.bias
    x = torch.randn(6, 16, 8, dtype=torch.double)  # (B*nW, N, C)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_equal_to_timm_with_and_without_a_mask(in_both_precisions, assert_published):
    """Reference: timm's WindowAttention, whose mask adds -100; the difference is below rounding in float32."""
    saved = torch.load(FIXTURE, weights_only=True)
    ours = WindowAttention(dim=8, window_size=7, num_heads=2).eval()
    ours.load_state_dict(saved["state_dict"])
    assert_published(*in_both_precisions(ours, saved["x"]), saved["out_nomask"])
    assert_published(*in_both_precisions(ours, saved["x"], saved["mask"] == 0), saved["out"])


def test_a_smaller_window_uses_the_centre_of_the_bias_table():
    full, small = WindowAttention(8, 4, 2), WindowAttention(8, 2, 2)
    centre = full.relative_position_bias_table.view(7, 7, 2)[2:5, 2:5].reshape(9, 2)
    small.relative_position_bias_table = nn.Parameter(centre)
    assert torch.equal(full.relative_position_bias(2), small.relative_position_bias(2))


def test_dropped_weights_keep_the_mean():
    attn = WindowAttention(4, 2, 1, attn_drop=0.5).double()
    x = torch.randn(1, 4, 4, dtype=torch.double)
    many = attn(x.expand(20_000, -1, -1)).mean(0)
    torch.testing.assert_close(many, attn.eval()(x)[0], atol=0.02, rtol=0)


def test_a_checkpoint_holds_no_table_of_indices():
    assert "relative_position_index" not in WindowAttention(8, 4, 2).state_dict()


def test_heads_that_do_not_divide_are_an_error():
    with pytest.raises(ValueError, match="num_heads=3 does not divide dim=8"):
        WindowAttention(8, 4, 3)


@pytest.mark.parametrize(
    ("build", "option"),
    [(SelfAttention, "dim"), (SelfAttention, "num_heads")]
    + [(WindowAttention, option) for option in ("dim", "window_size", "num_heads")],
)
def test_sizes_below_one_are_an_error(build, option):
    sizes = {"dim": 8, "num_heads": 2} | ({"window_size": 4} if build is WindowAttention else {})
    with pytest.raises(ValueError, match=f"{build.__name__}: {option} must be an integer of at least 1, got 0"):
        build(**(sizes | {option: 0}))


@pytest.mark.parametrize("tokens", [3, 25])
def test_tokens_that_are_no_window_are_an_error(tokens):
    with pytest.raises(ValueError, match=f"{tokens} tokens are not a square window"):
        WindowAttention(8, 4, 2)(torch.zeros(1, tokens, 8))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_fused_path_equals_the_formula(dtype, device):
    attn = WindowAttention(64, 7, 2).to(device)
    x = torch.randn(2 * 4, 49, 64, device=device)
    mask = shifted_window_mask(14, 14, 7, 3, device=x.device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        fused = attn(x, mask)
        attn.fused = False
        formula = attn(x, mask)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(fused.float(), formula.float(), rtol=tolerance, atol=tolerance)


def test_one_export_serves_any_number_of_windows():
    attn, windows = WindowAttention(4, 2, 2).eval(), torch.export.Dim("windows")

    def inputs(count):
        mask = torch.rand(count, 4, 4, generator=torch.Generator().manual_seed(count)) < 0.5
        return torch.randn(count, 4, 4), mask | torch.eye(4, dtype=torch.bool)

    exported = torch.export.export(attn, inputs(6), dynamic_shapes=({0: windows}, {0: windows})).module()
    x, mask = inputs(15)
    torch.testing.assert_close(exported(x, mask), attn(x, mask))


@pytest.mark.gpu
def test_on_a_gpu_the_fused_path_drops_weights_and_keeps_the_mean(device):
    attn = WindowAttention(4, 2, 1, attn_drop=0.5).to(device)
    x = torch.randn(1, 4, 4, device=device)
    many = attn(x.expand(20_000, -1, -1))
    assert not torch.equal(many[0], many[1])
    torch.testing.assert_close(many.mean(0), attn.eval()(x)[0], atol=0.05, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_fused_self_attention_equals_the_formula(dtype, device):
    attn = SelfAttention(64, 2, scale=0.1).to(device)
    x = torch.randn(2, 100, 64, device=device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        fused = attn(x)
        attn.fused = False
        formula = attn(x)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(fused.float(), formula.float(), rtol=tolerance, atol=tolerance)
