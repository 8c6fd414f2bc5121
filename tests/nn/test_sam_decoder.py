"""The mask decoder: equal to the published one after each step, and what a prompt may not see."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from sam_fixtures import assert_near, departure, filled, record_outputs, recorded

from lungseg.nn import sam_decoder
from lungseg.nn.attention import attention
from lungseg.nn.sam_decoder import CrossAttention, MaskDecoder, TwoWayBlock, TwoWayTransformer

STEPS = {f"layers.{i}.{norm}": f"transformer.blocks.{i}.{norm}"
         for i in (0, 1) for norm in ("self_attn", "norm1", "norm2", "norm3", "norm4")}  # fmt: skip
STEPS |= {"norm_final_attn": "transformer.norm"}
STEPS |= {f"output_upscaling.{i}": f"upscaling.{i}" for i in range(5)}
STEPS |= {f"output_hypernetworks_mlps.{i}": f"mask_heads.{i}" for i in range(4)}


@pytest.fixture(scope="module")
def saved():
    return recorded("tiny_sam")


@pytest.fixture
def sam(saved):
    return filled(saved)[0]


def parts(saved, sam, name):
    """What the decoder is given for a recorded prompt, all of it recorded."""
    case = saved["prompts"][name]
    return saved["encoder"]["image_embedding"], saved["image_pe"], case["sparse"], case["dense"]


@torch.no_grad()
def test_every_step_of_the_published_decoder(saved, sam):
    published, decoder = saved["decoder[points_and_boxes]"], sam.mask_decoder
    found, hooks = record_outputs(decoder, STEPS.values())
    masks, iou = decoder.all_masks(*parts(saved, sam, "points_and_boxes"))
    for hook in hooks:
        hook.remove()
    found |= {"all_masks": masks, "all_iou": iou}
    for name, value in published.items():
        assert_near(found[STEPS.get(name, name)], value, name)


@pytest.mark.parametrize("name", ["box", "boxes", "points", "points_and_boxes", "mask", "box_and_mask", "none"])
@torch.no_grad()
def test_every_recorded_prompt(saved, sam, name):
    case = saved["prompts"][name]
    for kind in ("multi", "single"):
        masks, iou = sam.mask_decoder(*parts(saved, sam, name), multimask=kind == "multi")
        assert_near(masks, case[f"low_res_{kind}"], kind)
        assert_near(iou, case[f"iou_{kind}"], kind)


def a_residual(block, tokens, token_pe):
    return tokens + block.self_attn(tokens, tokens, tokens) if block.first else mix_tokens(block, tokens, token_pe)


def positions_in_the_first_block(block, tokens, token_pe):
    placed = tokens + token_pe
    return block.self_attn(placed, placed, tokens) if block.first else mix_tokens(block, tokens, token_pe)


def positions_in_the_values(block, tokens, token_pe):
    placed = tokens + token_pe
    return mix_tokens(block, tokens, token_pe) if block.first else tokens + block.self_attn(placed, placed, placed)


mix_tokens = TwoWayBlock.mix_tokens


@pytest.mark.parametrize("mutant", [a_residual, positions_in_the_first_block, positions_in_the_values])
@torch.no_grad()
def test_another_self_attention_is_told_from_the_published_one(saved, sam, monkeypatch, mutant):
    monkeypatch.setattr(TwoWayBlock, "mix_tokens", mutant)
    masks, _ = sam.mask_decoder(*parts(saved, sam, "box"))
    assert departure(masks, saved["prompts"]["box"]["low_res_single"]) > 1e-3


@torch.no_grad()
def test_sigmoid_on_the_iou_and_another_epsilon_are_told(saved, sam):
    published = saved["prompts"]["box"]
    masks, iou = sam.mask_decoder(*parts(saved, sam, "box"))
    assert departure(iou.sigmoid(), published["iou_single"]) > 1
    exact = departure(masks.double(), published["low_res_single"].double())
    for module in sam.mask_decoder.transformer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-4
    assert departure(sam.mask_decoder(*parts(saved, sam, "box"))[0], published["low_res_single"]) > 3 * exact


# Properties


def small_decoder(**options):
    return MaskDecoder(16, **({"num_heads": 2, "mlp_dim": 8, "iou_hidden_dim": 8} | options)).eval()


@settings(max_examples=10)
@given(count=st.integers(1, 4), tokens=st.integers(0, 3), multimask=st.booleans())
@torch.no_grad()
def test_prompts_do_not_see_each_other_and_one_image_is_the_same_image_repeated(count, tokens, multimask):
    decoder = small_decoder()
    image, pe = torch.randn(1, 16, 3, 5), torch.randn(1, 16, 3, 5)
    sparse, dense = torch.randn(count, tokens, 16), torch.randn(count, 16, 3, 5)
    together = decoder(image, pe, sparse, dense, multimask=multimask)
    repeated = decoder(image.expand(count, -1, -1, -1), pe, sparse, dense, multimask=multimask)
    alone = [decoder(image, pe, sparse[i : i + 1], dense[i : i + 1], multimask=multimask) for i in range(count)]
    assert together[0].shape == (count, 3 if multimask else 1, 12, 20) and together[1].shape == together[0].shape[:2]
    for part in (0, 1):
        torch.testing.assert_close(together[part], repeated[part])
        torch.testing.assert_close(together[part], torch.cat([out[part] for out in alone]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_order_of_the_prompts_tokens_does_not_matter():
    """What a token is lies in its numbers, not in its place: so points may come in any order."""
    decoder = small_decoder()
    image, sparse = torch.randn(1, 16, 2, 2), torch.randn(2, 3, 16)
    ours = decoder(image, image, sparse, image.expand(2, -1, -1, -1))
    other = decoder(image, image, sparse.flip(1), image.expand(2, -1, -1, -1))
    torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cross_attention_is_the_formula():
    ours = CrossAttention(6, 4, 2)
    q, k, v = torch.randn(2, 3, 6), torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    heads = []
    for h in (slice(0, 2), slice(2, 4)):
        heads.append(attention(ours.q_proj(q)[..., h], ours.k_proj(k)[..., h], ours.v_proj(v)[..., h])[0])
    torch.testing.assert_close(ours(q, k, v), ours.out_proj(torch.cat(heads, dim=-1)))


def test_the_positions_of_the_tokens_are_the_tokens_as_they_entered(monkeypatch):
    given_pe = []
    forward = TwoWayBlock.forward
    monkeypatch.setattr(
        sam_decoder.TwoWayBlock, "forward", lambda self, *args: given_pe.append(args[2]) or forward(self, *args)
    )
    tokens, image = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    TwoWayTransformer(8, 3, 2, 8)(tokens, image, image)
    assert len(given_pe) == 3 and all(torch.equal(pe, tokens) for pe in given_pe)


def test_gradients_reach_every_parameter():
    decoder, image = small_decoder(), torch.randn(1, 16, 2, 2)
    masks, iou = decoder.all_masks(image, image, torch.randn(2, 2, 16), image.expand(2, -1, -1, -1))
    (masks.square().sum() + iou.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 12}, "dim must be a multiple of 8"),
        ({"num_heads": 3}, "dim / 2 of num_heads, got dim=16 and num_heads=3"),
        ({"depth": 0}, "depth must be"),
        ({"num_masks": 0}, "num_masks must be"),
    ],
)
def test_what_cannot_be_built_is_refused(options, words):
    with pytest.raises(ValueError, match=f"MaskDecoder: .*{words}"):
        small_decoder(**options) if "dim" not in options else MaskDecoder(**options)


def test_images_and_prompts_that_cannot_be_paired_are_refused():
    image = torch.zeros(2, 16, 2, 2)
    with pytest.raises(ValueError, match="MaskDecoder: 2 images and 3 prompts. Give one image"):
        small_decoder()(image, image[:1], torch.zeros(3, 2, 16), image[:1].expand(3, -1, -1, -1))
