"""SAM's image encoder: equal to the published one stage by stage, and its windows attend to their padding."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from sam_fixtures import (
    assert_gradients,
    assert_near,
    cotangent,
    departure,
    filled,
    filled_encoder,
    record_outputs,
    recorded,
)

from lungseg.nn import sam_encoder
from lungseg.nn.sam_encoder import (
    DecomposedAttention,
    SAMBlock,
    SAMImageEncoder,
    decomposed_bias,
    relative_vectors,
    resize_relative_positions,
)
from lungseg.weights.load import load_published

WINDOWS = ("window5", "window11")


def small_encoder(in_channels=1, **options):
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "window_size": 3}
    network = SAMImageEncoder(in_channels, **(sizes | {"global_blocks": (1,), "out_channels": 8} | options)).eval()
    for name, parameter in network.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter)
    return network


# Parity


def stages(encoder, image):
    """Every recorded stage, by its published name."""
    blocks = [f"blocks.{i}{part}" for i in range(len(encoder.blocks)) for part in ("", ".norm1", ".attn")]
    found, hooks = record_outputs(encoder, ["patch_embed", *blocks, *[f"neck.{i}" for i in range(4)]])
    before = encoder.blocks[0].register_forward_pre_hook(
        lambda _, args: found.update({"patch_embed+pos_embed": args[0]})
    )
    for i, block in enumerate(encoder.blocks):
        own = block.attn.bias

        def kept(q, grid, own=own, name=f"blocks.{i}.attn.rel_pos_bias"):
            found[name] = own(q, grid).flatten(0, 1)  # windows x heads
            return own(q, grid)

        block.attn.bias = kept
    with torch.no_grad():
        found["image_embedding"] = encoder(image)
    for hook in [*hooks, before]:
        hook.remove()
    return found


def test_every_stage_of_the_published_encoder():
    saved = recorded("tiny_sam")
    found = stages(filled(saved)[0].image_encoder, saved["input"])
    for name, published in saved["encoder"].items():
        assert_near(found[name], published, name)


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_that_do_not_divide_the_map_and_one_larger_than_it(case):
    saved = recorded("tiny_sam_padded")["cases"][case]
    encoder, report = filled_encoder(saved)
    assert not (report.adapted or report.skipped or report.fresh) and len(report.loaded) == len(saved["state_dict"])
    found = stages(encoder, saved["input"])
    for name, published in saved["encoder"].items():
        assert_near(found[name], published, name)
    del encoder.blocks[0].attn.bias, encoder.blocks[1].attn.bias  # the recorders
    (encoder(saved["input"]) * cotangent(f"tiny_sam_padded/{case}", saved["output"].shape)).sum().backward()
    assert_gradients(encoder, report, saved["grad_norm_sum"])


def test_the_output_is_the_published_one_to_rounding(assert_published, in_both_precisions):
    """Far closer than 1e-4: an epsilon of 1e-5 in the norms for 1e-6 would show."""
    for case in WINDOWS:
        saved = recorded("tiny_sam_padded")["cases"][case]
        encoder, _ = filled_encoder(saved)
        assert_published(*in_both_precisions(encoder, saved["input"]), saved["output"])


def test_tables_of_another_length_are_interpolated_as_published():
    """Queries and keys are as many in SAM, so the recorded cases of different numbers have no place here."""
    cases = [case for case in recorded("tiny_sam_padded")["get_rel_pos"] if case["q_size"] == case["k_size"]]
    assert len(cases) == 3
    for case in cases:
        assert_near(relative_vectors(case["table"], case["q_size"]), case["output"])


class MaskedPadding(DecomposedAttention):
    """Swin's way: nobody attends to padding, which is zero after the norm."""

    def forward(self, x):
        self.padding = (x == 0).all(-1).flatten(1)[:, None, None]  # (B, 1, 1, N)
        return super().forward(x)

    def bias(self, q, grid):
        return super().bias(q, grid).masked_fill(self.padding & ~self.padding.all(-1, keepdim=True), -torch.inf)


class ScaledQuery(DecomposedAttention):
    def bias(self, q, grid):
        return super().bias(q * q.shape[-1] ** -0.5, grid)


class SwappedTables(DecomposedAttention):
    def bias(self, q, grid):
        return decomposed_bias(q, self.rel_pos_w, self.rel_pos_h, grid)


class ReversedOffsets(DecomposedAttention):
    def bias(self, q, grid):
        return decomposed_bias(q, self.rel_pos_h.flip(0), self.rel_pos_w.flip(0), grid)


@pytest.mark.parametrize("mutant", [MaskedPadding, ScaledQuery, SwappedTables, ReversedOffsets])
def test_another_network_is_told_from_the_published_one(mutant, monkeypatch):
    saved = recorded("tiny_sam_padded")["cases"]["window5"]
    monkeypatch.setattr(sam_encoder, "DecomposedAttention", mutant)
    encoder, _ = filled_encoder(saved)
    with torch.no_grad():
        assert departure(encoder(saved["input"]), saved["output"]) > 1e-2


def test_zeros_before_the_norm_are_told_from_zeros_after_it(monkeypatch):
    saved = recorded("tiny_sam_padded")["cases"]["window5"]
    encoder, _ = filled_encoder(saved)
    inner = SAMBlock.mix_tokens
    shift = encoder.blocks[0].norm1.bias  # what the norm would make of a token of zeros

    def padded_before(block, x):
        if not block.window_size:
            return inner(block, x)
        x = sam_encoder.pad_to_multiple(x - shift, block.window_size) + shift
        return inner(block, x)[:, :8, :8]

    monkeypatch.setattr(SAMBlock, "mix_tokens", padded_before)
    with torch.no_grad():
        assert departure(encoder(saved["input"]), saved["output"]) > 1e-2


# The pieces


@settings(max_examples=15)
@given(height=st.integers(1, 4), width=st.integers(1, 4))
def test_the_bias_is_its_formula_pair_by_pair(height, width):
    q = torch.randn(1, 2, height * width, 3)
    rows, columns = torch.randn(2 * height - 1, 3), torch.randn(2 * width - 1, 3)
    bias = decomposed_bias(q, rows, columns, (height, width))
    for i in range(height * width):
        for j in range(height * width):
            (y, x), (y2, x2) = divmod(i, width), divmod(j, width)
            vector = rows[y - y2 + height - 1] + columns[x - x2 + width - 1]
            torch.testing.assert_close(bias[0, :, i, j], q[0, :, i] @ vector, rtol=1e-4, atol=1e-5)


def test_a_table_of_the_right_length_is_left_alone_and_a_straight_line_stays_one():
    line = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([[1.0, -2.0]])
    assert resize_relative_positions(line, 9) is line
    middles = (torch.arange(27) + 0.5) / 27 * 2 * 9 / 8 - 9 / 8  # of 27 equal parts, on the scale of the 9
    longer = resize_relative_positions(line, 27)
    torch.testing.assert_close(longer[2:-2, 0], middles[2:-2])
    half = resize_relative_positions(line.bfloat16(), 27)
    assert half.dtype == torch.bfloat16 and torch.equal(
        half, resize_relative_positions(line.bfloat16().float(), 27).bfloat16()
    )


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_torchs_fused_attention_gives_the_same_and_runs_where_no_gradient_is_wanted(grid, monkeypatch):
    layer, calls = DecomposedAttention(12, 3, (4, 4)), []
    torch.nn.init.normal_(layer.rel_pos_h)
    torch.nn.init.normal_(layer.rel_pos_w)
    for name in ("attention", "fused_attention"):
        own = getattr(sam_encoder, name)
        monkeypatch.setattr(
            sam_encoder, name, lambda *args, own=own, name=name, **bias: calls.append(name) or own(*args, **bias)
        )
    x = torch.randn(2, *grid, 12)
    formula = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), formula)
        layer.fused = False
        torch.testing.assert_close(layer(x), formula)
    assert calls == ["attention", "fused_attention", "attention"]


@settings(max_examples=10)
@given(height=st.integers(1, 7), width=st.integers(1, 7))
def test_a_window_sees_its_own_tokens_and_no_other_window(height, width):
    block = SAMBlock(6, 2, (8, 8), 3)
    x = torch.randn(1, height, width, 6)
    changed = x.clone()
    changed[:, 0, 0] = torch.randn(6)
    moved = (block(x) != block(changed)).any(-1)[0]
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[:3, :3] = True
    assert torch.equal(moved, inside)


def test_a_lone_token_attends_to_the_padding_of_its_window():
    """One token in a window of 2 x 2: with equal logits three quarters of the output come from the padding."""
    attention = SAMBlock(2, 1, (1, 1), 2)
    with torch.no_grad():
        attention.attn.qkv.weight.zero_()  # queries and keys are 0, values are the tokens, plus 1
        attention.attn.qkv.weight[4:].copy_(torch.eye(2))
        attention.attn.qkv.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0]))
        attention.attn.proj.weight.copy_(torch.eye(2))
        attention.attn.proj.bias.zero_()
        token = torch.tensor([[[[4.0, 8.0]]]])
        torch.testing.assert_close(attention.mix_tokens(token), token / 4 + 1)


# The network


def test_another_image_size_interpolates_positions_and_global_tables():
    """The same as loading the weights into a network of that size."""
    built, other = small_encoder(img_size=32), small_encoder(img_size=48)
    report = load_published(other, built.state_dict())
    assert set(report.adapted) == {"position_embedding", "blocks.1.attn.rel_pos_h", "blocks.1.attn.rel_pos_w"}
    assert report.adapted["blocks.1.attn.rel_pos_h"] == "relative positions (15, 4) -> (23, 4), interpolated"
    assert not (report.skipped or report.fresh)
    image = torch.randn(2, 1, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(built(image), other(image))
        assert built(image).shape == (2, 8, 12, 12)


@settings(max_examples=10)
@given(height=st.integers(1, 50), width=st.integers(1, 50), batch=st.integers(1, 3))
def test_any_size_and_a_batch_is_its_images_one_by_one(height, width, batch):
    encoder, image = small_encoder(), torch.randn(batch, 1, height, width)
    with torch.no_grad():
        embedding = encoder(image)
        assert embedding.shape == (batch, 8, -(-height // 4), -(-width // 4))
        alone = torch.cat([encoder(one) for one in image.split(1)])
    torch.testing.assert_close(embedding, alone, rtol=1e-4, atol=1e-5)


def test_half_precision_and_a_network_built_without_memory():
    encoder, image = small_encoder(), torch.randn(1, 1, 40, 33)
    with torch.device("meta"):
        empty = small_encoder()
    empty.load_state_dict(encoder.state_dict(), assign=True)
    with torch.no_grad():
        expected = encoder(image)
        assert torch.equal(empty(image), expected)
        got = encoder.bfloat16()(image.bfloat16()).float()
    assert (got - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 5}, "num_heads=5 does not divide embed_dim=12"),
        ({"window_size": 0}, "window_size must be an integer of at least 1, got 0"),
        ({"depth": 0}, "depth must be"),
        ({"global_blocks": (2,)}, r"global_blocks must name blocks from 0 to depth - 1 = 1, got \(2,\)"),
        ({"global_blocks": (-1,)}, "global_blocks must"),
        ({"global_blocks": 1}, "global_blocks must"),
    ],
)
def test_what_cannot_be_built_is_refused(options, words):
    with pytest.raises(ValueError, match=f"SAMImageEncoder: {words}"):
        small_encoder(**options)


def test_what_cannot_be_an_image_is_refused():
    with pytest.raises(ValueError, match=r"SAMImageEncoder: the image has shape \(1, 2, 8, 8\), but \(B, 1, H, W\)"):
        small_encoder()(torch.zeros(1, 2, 8, 8))
