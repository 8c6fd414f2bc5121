"""SAM and MedSAM whole: published outputs, gradients, a training step, and the way to the frame and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from sam_fixtures import assert_gradients, assert_near, cotangent, departure, filled, prompt_of, recorded

from lungseg.losses import bce_loss, dice_bce_loss, dice_loss
from lungseg.nn.sam import (
    SAM,
    TINY,
    MedSAM,
    frame_size,
    logits_to_original,
    places_to_frame,
    resize_bilinear,
    sam_input,
)

SMALL = {
    "img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2, "window_size": 3,
    "global_blocks": (1,), "out_channels": 16, "mask_channels": 8, "decoder_heads": 2, "decoder_mlp_dim": 16,
    "iou_hidden_dim": 8,
}  # fmt: skip


def small(kind=SAM, in_channels=1, **options):
    return kind(in_channels, **(SMALL | options)).eval()


@pytest.fixture(scope="module")
def saved():
    return recorded("tiny_sam")


@pytest.fixture(scope="module")
def med():
    return recorded("tiny_medsam")


# Parity: SAM


@torch.no_grad()
def test_from_the_picture_to_masks_of_its_size(saved):
    network, _ = filled(saved)
    image = saved["image"].permute(2, 0, 1)[None]
    frame = sam_input(image, 64)
    assert torch.equal(frame, saved["input"])
    embedding = network.encode(frame)
    for name, case in saved["prompts"].items():
        for kind in ("multi", "single"):
            logits, iou = network.decode(embedding, *prompt_of(case), multimask=kind == "multi")
            assert_near(logits, case[f"low_res_{kind}"], name)
            assert_near(iou, case[f"iou_{kind}"], name)
            if f"post_{kind}" in case:
                assert_near(logits_to_original(logits, saved["original_size"], 64), case[f"post_{kind}"], name)
    whole = network(frame, boxes=saved["prompts"]["boxes"]["boxes"])
    assert torch.equal(whole[0], network.decode(embedding, boxes=saved["prompts"]["boxes"]["boxes"])[0])


def test_gradients_reach_every_parameter_as_published(saved):
    network, report = filled(saved)
    embedding, total = network.encode(saved["input"]), 0
    for name, output in saved["grad_terms"]:
        kind = output.rpartition("_")[2]
        logits, iou = network.decode(embedding, *prompt_of(saved["prompts"][name]), multimask=kind == "multi")
        value = logits if output.startswith("low_res") else iou
        total = total + (value * cotangent(f"tiny_sam/{name}/{output}", value.shape)).sum()
    assert total.item() == pytest.approx(saved["grad_scalar"], rel=1e-4)
    total.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert_gradients(network, report, saved["grad_norm_sum"])


def test_coordinates_of_the_original_in_the_frame(saved):
    places = saved["coordinates"]
    original, frame = saved["original_size"], frame_size(*saved["original_size"], 64)
    assert list(frame) == saved["input_size"]
    for kind in ("boxes", "points"):
        ours = places_to_frame(places[kind], original, frame)
        torch.testing.assert_close(ours, places[f"{kind}_resized"], rtol=1e-12, atol=0)


# Parity: MedSAM


@torch.no_grad()
def test_every_stage_of_medsam(med):
    network, _ = filled(med, MedSAM)
    embedding = network.encode(med["image"])
    sparse, dense = network.prompt_encoder(boxes=med["boxes"])
    low_res, iou = network.decode(embedding, boxes=med["boxes"])
    found = {"image_embedding": embedding, "sparse": sparse, "dense": dense, "low_res": low_res, "iou": iou}
    found |= {"image_pe": network.prompt_encoder.dense_pe()}
    for name, value in med["stages"].items():
        assert_near(found[name], value, name)
    assert_near(network(med["image"], med["boxes"]), med["output"])


def test_loss_gradients_and_one_step_of_training(med):
    network, report = filled(med, MedSAM)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained = [*network.image_encoder.parameters(), *network.mask_decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    target = med["target"].float()

    def loss():
        return dice_bce_loss(network(med["image"], med["boxes"]), target, squared=True, smooth=1e-5)

    with torch.no_grad():
        logits = network(med["image"], med["boxes"])
        dice = dice_loss(logits, target, squared=True, smooth=1e-5).item()
        assert dice == pytest.approx(med["loss"]["dice"], rel=1e-5)
        assert bce_loss(logits, target).item() == pytest.approx(med["loss"]["bce"], rel=1e-5)
    first = loss()
    assert first.item() == pytest.approx(med["loss"]["total"], rel=1e-5)
    first.backward()
    assert_gradients(network, report, med["grad_norm_sum"])
    optimizer.step()
    for name, value in network.state_dict().items():
        norm, change = med["step"]["norm_and_change"][report.loaded[name]]
        if "k_proj.bias" not in name:  # its gradient is zero but for rounding, and Adam steps by its sign
            assert value.norm().item() == pytest.approx(norm, rel=1e-5), name
            assert (value - before[name]).norm().item() == pytest.approx(change, rel=2e-2, abs=1e-9), name
    assert loss().item() == pytest.approx(med["step"]["loss_after"], abs=1e-4)


@torch.no_grad()
def test_inference_at_the_size_of_the_original(med):
    network, _ = filled(med, MedSAM)
    case = med["inference"]
    box = places_to_frame(case["box"], case["original_size"], (64, 64))
    torch.testing.assert_close(box, case["box_resized"])
    probability = network.probabilities(med["image"][:1], box, case["original_size"])
    assert_near(probability, case["probability"])
    assert torch.equal(probability > 0.5, case["mask"])


@torch.no_grad()
def test_boxes_as_rows_and_columns_are_told_from_the_published_ones(med):
    network, _ = filled(med, MedSAM)
    assert departure(network(med["image"], med["boxes"][:, [1, 0, 3, 2]]), med["output"]) > 1e-3


# Sizes


def test_parameters_at_the_published_size(med):
    with torch.device("meta"):
        network = MedSAM()
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    assert sum(p.numel() for p in network.parameters()) == 93_735_472 and frozen == 6_220
    tiny = filled(med, MedSAM)[0]
    assert sum(p.numel() for p in tiny.parameters()) == med["params"]
    assert sum(p.numel() for p in tiny.parameters() if p.requires_grad) == med["trainable"]
    assert all(p.requires_grad for p in SAM.tiny().parameters())


@torch.no_grad()
def test_the_tiny_network_draws_crops_of_64_pixels_at_full_resolution():
    network = MedSAM.tiny().eval()
    assert isinstance(network, MedSAM) and len(network.image_encoder.blocks) == TINY["depth"] == 6
    embedding = network.encode(torch.rand(1, 1, 64, 64))
    assert embedding.shape == (1, 64, 16, 16)
    assert network.decode(embedding, boxes=torch.tensor([[9.0, 9, 20, 20]]))[0].shape == (1, 1, 64, 64)
    assert MedSAM.tiny(3, depth=3, global_blocks=(2,)).image_encoder.in_channels == 3


# Properties


@settings(max_examples=10)
@given(count=st.integers(1, 3), height=st.integers(1, 40), width=st.integers(1, 40))
@torch.no_grad()
def test_a_batch_of_images_with_a_box_each_is_a_loop_and_any_size_works(count, height, width):
    network = small(MedSAM)
    image, boxes = torch.rand(count, 1, height, width), torch.rand(count, 4) * min(height, width)
    together = network(image, boxes)
    assert together.shape == (count, 1, height, width)
    alone = torch.cat([network(image[i : i + 1], boxes[i : i + 1]) for i in range(count)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_prompts_on_one_image_do_not_see_each_other():
    network, image, boxes = small(), torch.rand(1, 1, 32, 32), torch.rand(4, 4) * 32
    together, iou = network(image, boxes=boxes, multimask=True)
    for i in range(4):
        alone, its_iou = network(image, boxes=boxes[i : i + 1], multimask=True)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(iou[i : i + 1], its_iou, rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_the_input_is_pillows_resized_image_with_zeros_at_the_right_and_bottom(height, width):
    pixels = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = sam_input(torch.from_numpy(pixels).permute(2, 0, 1)[None], 32)[0]
    high, wide = frame_size(height, width, 32)
    assert max(high, wide) == 32 and ours.shape == (3, 32, 32)
    resized = np.asarray(Image.fromarray(pixels).resize((wide, high), Image.Resampling.BILINEAR), np.float32)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    back = ours[:, :high, :wide].permute(1, 2, 0).numpy() * std + mean
    assert np.abs(back - resized).max() < 1.01  # both round to whole grey levels, torch with fewer bits before it
    assert not ours[:, high:].any() and not ours[:, :, wide:].any()


@settings(max_examples=20)
@given(height=st.integers(2, 60), width=st.integers(2, 60), row=st.floats(0, 1), column=st.floats(0, 1))
def test_the_corners_of_the_original_are_those_of_the_frame(height, width, row, column):
    frame = frame_size(height, width, 32)
    box = torch.tensor([[0.0, 0.0, width, height], [column * width, row * height, width, height]], dtype=torch.double)
    got = places_to_frame(box, (height, width), frame)
    expected = torch.tensor([column * frame[1], row * frame[0], frame[1], frame[0]], dtype=torch.double)
    torch.testing.assert_close(got, torch.stack([got.new_tensor([0, 0, frame[1], frame[0]]), expected]))


def test_a_blob_in_the_frame_returns_to_its_place_in_the_original():
    original = (40, 80)  # in a frame of 32: 16 x 32, at the top
    low_res = torch.full((1, 1, 16, 16), -8.0)  # each logit is 2 x 2 pixels of the frame, 5 x 5 of the original
    low_res[..., 2:4, 10:12] = 8
    y, x = (logits_to_original(low_res, original, 32)[0, 0] > 0).nonzero().T
    assert (y.min(), y.max(), x.min(), x.max()) == (10, 19, 50, 59)


def test_bilinear_resizing_keeps_a_constant():
    torch.testing.assert_close(resize_bilinear(torch.full((1, 2, 3, 4), 5.0), (7, 6)), torch.full((1, 2, 7, 6), 5.0))


# What is refused


def test_what_is_no_picture_is_refused():
    for image in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8).byte(), torch.zeros(3, 8, 8).byte()):
        with pytest.raises(ValueError, match=r"sam_input: the image is torch.\w+ of shape .* uint8 of \(B, 3, H, W\)"):
            sam_input(image)


def test_the_parts_refuse_in_their_own_words():
    with pytest.raises(ValueError, match="MedSAM: the image has shape"):
        small(MedSAM)(torch.zeros(32, 32), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="PromptEncoder: boxes have shape"):
        small(MedSAM)(torch.zeros(1, 1, 32, 32), torch.zeros(4))
    with pytest.raises(ValueError, match="MaskDecoder: dim must be a multiple of 8"):
        small(out_channels=20)
    with pytest.raises(ValueError, match="MaskDecoder: 2 images and 3 prompts"):
        small(MedSAM)(torch.zeros(2, 1, 32, 32), torch.zeros(3, 4))
