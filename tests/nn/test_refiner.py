"""The refiner: MedSAM bit for bit before training, whatever is added; candidates do not see each other."""

import pytest
import torch
from torch import nn

from lungseg.nn.biomedclip import BiomedCLIP, clip_input
from lungseg.nn.refiner import CandidateRefiner
from lungseg.nn.sam import MedSAM

SMALL = {
    "img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2, "window_size": 3,
    "global_blocks": (1,), "out_channels": 16, "mask_channels": 8, "decoder_heads": 2, "decoder_mlp_dim": 16,
    "iou_hidden_dim": 8,
}  # fmt: skip
SMALL_CLIP = {
    "embed_dim": 6, "img_size": 16, "patch_size": 8, "vision_dim": 12, "vision_depth": 1, "vision_heads": 2,
    "vocab_size": 9, "max_length": 4, "text_dim": 8, "text_depth": 1, "text_heads": 2,
}  # fmt: skip
P = 3


def clip():
    torch.manual_seed(2)
    return BiomedCLIP(**SMALL_CLIP)


def refiner(with_clip=True, channels=1, **options):
    torch.manual_seed(1)
    sam = MedSAM(channels, **SMALL)
    if with_clip:
        options = {"clip": clip(), "text_features": torch.eye(2, 6)} | options
    return CandidateRefiner(sam, **options).eval()


def candidates(channels=1, side=32):
    torch.manual_seed(0)
    low, extent = torch.rand(P, 2) * side / 2, torch.rand(P, 2) * side / 2
    return torch.rand(P, channels, side, side), torch.cat([low, low + extent], 1)


def trained(network):
    """Anything but zero where training begins with zero."""
    for p in network.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.3)
    return network


@pytest.mark.parametrize(
    ("options", "side"),
    [({}, 32), ({"rank": 2}, 32), ({"modalities": 2}, 32), ({"rank": 1, "modalities": 1}, 27)],
)
@pytest.mark.parametrize("with_clip", [False, True])
def test_untrained_it_is_medsam_bit_for_bit(with_clip, options, side):
    torch.manual_seed(1)
    medsam, (ct, boxes) = MedSAM(1, **SMALL).eval(), candidates(side=side)
    network = refiner(with_clip, **options)
    scans = torch.randn(P, options.get("modalities", 0), side, side) if "modalities" in options else None
    out = network(ct, boxes, extra=scans)
    assert torch.equal(out.mask_logits, medsam(ct, boxes))
    assert torch.equal(out.iou, medsam.decode(medsam.encode(ct), boxes=boxes)[1][:, 0])
    assert out.similarity.shape == (P,) and bool(out.similarity.any()) == with_clip


def test_the_prior_lies_on_the_crop_pixel_by_pixel_also_where_it_is_not_square():
    network, (_, boxes), ct, prior = refiner(False), candidates(), torch.rand(P, 1, 32, 45), torch.randn(P, 1, 32, 45)
    sam = network.sam
    low = nn.functional.interpolate(nn.functional.pad(prior, (0, 3)), size=(16, 24), mode="bilinear")
    expected, _ = sam.decode(sam.encode(ct), boxes=boxes, masks=low)
    expected = nn.functional.interpolate(expected, size=(32, 48), mode="bilinear")[..., :45]
    torch.testing.assert_close(network(ct, boxes, prior).mask_logits, expected)


def test_the_prior_is_sams_mask_prompt_and_can_be_withheld_from_some():
    network, (ct, boxes), prior = refiner(False), candidates(), torch.randn(P, 1, 32, 32)
    sam = network.sam
    out = network(ct, boxes, prior)
    low = nn.functional.interpolate(prior, size=(16, 16), mode="bilinear")
    expected, _ = sam.decode(sam.encode(ct), boxes=boxes, masks=low)
    assert torch.equal(out.mask_logits, nn.functional.interpolate(expected, size=(32, 32), mode="bilinear"))
    given = torch.tensor([True, False, True])
    some = network(ct, boxes, prior, prior_present=given)
    assert torch.equal(some.mask_logits[given], out.mask_logits[given])
    torch.testing.assert_close(some.mask_logits[~given], network(ct, boxes).mask_logits[~given])
    assert not torch.allclose(some.mask_logits[1], out.mask_logits[1], atol=1e-4)


def test_each_candidate_alone_gives_what_it_gives_in_a_batch():
    network, (ct, boxes) = trained(refiner(rank=2, modalities=2)), candidates()
    prior, scans, there = torch.randn(P, 1, 32, 32), torch.randn(P, 2, 32, 32), torch.rand(P, 2) > 0.5
    together = network(ct, boxes, prior, scans, there)
    for i in range(P):
        one = slice(i, i + 1)
        alone = network(ct[one], boxes[one], prior[one], scans[one], there[one])
        for value, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(value, expected[one], atol=1e-5, rtol=1e-5)


def test_the_similarity_is_the_scaled_difference_of_two_cosines():
    network, (ct, boxes) = refiner(channels=3), candidates(3)
    model = network.clip
    out = network(ct, boxes)
    for i in range(P):
        grey = nn.functional.interpolate(ct[i : i + 1, 1:2], size=(16, 16), mode="bilinear")
        z = model.encode_image(clip_input(grey))[0]
        cosines = z[:2] / z.norm()  # the sentences are the first two unit vectors
        assert out.similarity[i].item() == pytest.approx((cosines[0] - cosines[1]).item() / 0.07, rel=1e-4)
    assert not refiner(text_features=None)(*candidates()).similarity.any()


# What begins at zero learns at once


def test_gradients_reach_all_that_begins_at_zero_in_the_first_step():
    network, (ct, boxes) = refiner(rank=2, modalities=2).train(), candidates()
    network(ct, boxes, torch.randn(P, 1, 32, 32), torch.rand(P, 2, 32, 32)).mask_logits.pow(2).mean().backward()
    first = [network.add_patches, network.add_vector, network.add_scans, network.sam.prompt_encoder.mask_convs]
    assert all(p.grad is not None and p.grad.any() for module in first for p in module.parameters())
    assert all(block.attn.qkv.up.grad.any() for block in network.sam.image_encoder.blocks)
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert all(n.startswith("clip.") for n in frozen if not n.startswith("sam."))
    assert {n.split(".")[1] for n in frozen if n.startswith("sam.")} == {"image_encoder", "prompt_encoder"}
    assert not any("neck" in n or "mask_convs" in n for n in frozen)
    assert not any(p.requires_grad or p.grad is not None for p in network.clip.parameters())


def test_without_lora_the_image_encoder_trains_whole():
    assert all(p.requires_grad for p in refiner().sam.image_encoder.parameters())


# Further scans


def test_a_missing_scan_equals_no_scan_bit_for_bit_whatever_stands_there():
    network, (ct, boxes) = trained(refiner(modalities=2)), candidates()
    scans = torch.rand(P, 2, 32, 32)
    scans[:, 1] = torch.nan
    only_first = torch.tensor([True, False]).expand(P, 2)
    expected = network(ct, boxes, extra=torch.stack([scans[:, 0], torch.zeros(P, 32, 32)], 1))
    assert torch.equal(network(ct, boxes, extra=scans, present=only_first).mask_logits, expected.mask_logits)
    nothing = network(ct, boxes, extra=scans, present=torch.zeros(P, 2, dtype=torch.bool)).mask_logits
    assert torch.equal(nothing, network(ct, boxes).mask_logits)
    assert not torch.allclose(nothing, expected.mask_logits, atol=1e-3)
    network(ct, boxes, extra=scans, present=only_first).mask_logits.sum().backward()
    assert network.add_scans.weight.grad.isfinite().all()


# Mutants: what must differ


def test_a_zero_token_that_is_appended_is_not_nothing():
    """Its key is not zero, and even a key of zero would take its share of the softmax."""
    network, (ct, boxes) = refiner(False), candidates()
    sam = network.sam
    embedding = sam.encode(ct)
    sparse, dense = sam.prompt_encoder(boxes=boxes)
    added, appended = sparse + torch.zeros(P, 1, 16), torch.cat([sparse, torch.zeros(P, 1, 16)], dim=1)
    masks = [sam.mask_decoder(embedding, sam.prompt_encoder.dense_pe(), s, dense)[0] for s in (sparse, added, appended)]
    assert torch.equal(masks[0], masks[1])
    assert (masks[0] - masks[2]).abs().max() > 1e-3


def test_boxes_with_rows_first_and_additions_that_do_not_begin_at_zero_are_seen():
    network, (ct, boxes) = refiner(), candidates()
    expected = network.sam(ct, boxes)
    assert (network(ct, boxes[:, [1, 0, 3, 2]]).mask_logits - expected).abs().max() > 1e-3
    for name in ("add_patches", "add_vector"):
        network = refiner()
        nn.init.trunc_normal_(getattr(network, name).weight, std=0.02)
        assert not torch.equal(network(ct, boxes).mask_logits, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": torch.zeros(2, 4)}, r"a box for each of the 3 crops, \(3, 4\), got \(2, 4\)"),
        ({"extra": torch.zeros(P, 2, 32, 32)}, r"extra scans .* but \(3, 1, 32, 32\) .* modalities=2"),
        ({"prior": torch.zeros(P, 1, 16, 16)}, r"expected prior of shape \(3, 1, 32, 32\) .* got \(3, 1, 16, 16\)"),
        (
            {"present": torch.zeros(P, 2)},
            r"expected present of shape \(3, 1\) for crops \(3, 1, 32, 32\), got \(3, 2\)",
        ),
        ({"prior_present": torch.zeros(1)}, r"expected prior_present of shape \(3,\) .* got \(1,\)"),
        ({"ct": torch.zeros(P, 3, 32, 32)}, "CandidateRefiner: the image has shape"),
    ],
)
def test_what_does_not_belong_together_is_refused(arguments, message):
    ct, boxes = candidates()
    with pytest.raises(ValueError, match=message):
        refiner(modalities=1)(**({"ct": ct, "boxes": boxes} | arguments))


def test_sentences_without_biomedclip_or_of_another_space_are_refused():
    for options in ({"with_clip": False, "text_features": torch.eye(2, 6)}, {"text_features": torch.eye(3, 6)}):
        with pytest.raises(ValueError, match=r"text_features must be \(2, E\)"):
            refiner(**options)
    for options in ({"rank": -1}, {"modalities": 1.5}):
        with pytest.raises(ValueError, match="(rank|modalities) must be an integer of at least 0"):
            refiner(**options)
