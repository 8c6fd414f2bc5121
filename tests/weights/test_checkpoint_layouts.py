"""The layouts of published checkpoints: every key has its place, and equal weights compute equal tokens."""

import re
from pathlib import Path

import pytest
import torch
from clip_fixtures import FIXTURES as CLIP, SIZES as TINY_CLIP, filled as filled_clip, recorded as recorded_clip
from torch import nn

from lungseg.nn.biomedclip import BiomedCLIP
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.sam import SAM, MedSAM
from lungseg.nn.sam_encoder import SAMImageEncoder
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR, resize_positions
from lungseg.weights.checkpoint_layouts import LAYOUTS, encoder_names
from lungseg.weights.load import find_reading, load_published

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/unetr"


def state_dict_of(keys_file, folder=FIXTURES):
    """Random weights in the layout that a keys file lists (key, shape, dtype, Parameter or Buffer)."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for line in (folder / keys_file).read_text().splitlines()[1:]:
        key, shape, _, _ = line.split("\t")
        state[key] = 0.02 * torch.randn(tuple(int(n) for n in re.findall(r"\d+", shape)), generator=generator)
    return state


def small_network(in_channels=1, num_classes=1, **options):
    """A UNETR that the tiny ViT fits: 48 x 48 pixels are its 3 x 3 tokens."""
    sizes = {"img_size": 48, "embed_dim": 24, "depth": 3, "num_heads": 3, "feature_size": 2, "qkv_bias": True}
    return UNETR(in_channels, num_classes, **(sizes | options)).eval()


@pytest.fixture
def vit():
    return torch.load(FIXTURES / "tiny_timm_vit.pt", weights_only=True)


# All layouts


def test_names_are_distinct_within_a_network():
    names = [(layout.network, layout.name) for layout in LAYOUTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("network", "rest"),
    [
        (SwinUNet(embed_dim=8, depths=(1, 1), num_heads=(1, 2)),
         {"expanding", "fuse", "decoder", "norm_up", "final_expanding", "head"}),
        (UNETR(img_size=32, embed_dim=8, num_heads=1, depth=4, feature_size=2),
         {"skips", "image_block", "decoder", "head"}),
        (ResNet50UNet(widths=(2,) * 4, depths=(1,) * 4), {"decoder", "head"}),
        (UNet(channels=(4, 8)), {"pool", "up", "decoder", "head"}),
        (RRCUNet(channels=(4,)), {"pool", "up", "decoder", "head"}),
        (SAM.tiny(depth=1, global_blocks=()), {"prompt_encoder", "mask_decoder"}),
        (SAM.tiny(depth=1, global_blocks=()).image_encoder, set()),
        (BiomedCLIP(**TINY_CLIP), {"visual_head", "text_head", "logit_scale"}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_encoder_of_each_network_is_all_but_its_way_back_up(network, rest):
    names = {name for name, _ in [*network.named_children(), *network.named_parameters(recurse=False)]}
    assert set(encoder_names(network)) == names - rest


def test_the_encoder_of_another_network_is_unknown():
    with pytest.raises(ValueError, match="Linear is not a network of lungseg"):
        encoder_names(nn.Linear(1, 1))


# UNETR


def test_the_tiny_checkpoint_fills_every_tensor_and_says_what_is_dead():
    saved = torch.load(FIXTURES / "tiny_unetr3d.pt", weights_only=True)
    model = UNETR(1, 2, img_size=(32, 16, 48), spatial_dims=3, embed_dim=12, mlp_ratio=2.0, num_heads=3, feature_size=2,
                  skip_layers=(4, 7, 10))  # fmt: skip
    report = load_published(model, saved["state_dict"])
    assert report.layout == "UNETR" and not report.note
    assert not (report.adapted or report.fresh)
    assert len(report.loaded) == len(model.state_dict()) == 170
    assert set(report.skipped.values()) == {"made by the published code, but no forward pass uses it"}
    assert len(report.skipped) == 24 and all("norm_cross_attn" in key for key in report.skipped)
    positions = saved["state_dict"]["vit.patch_embedding.position_embeddings"]
    assert torch.equal(model.position_embedding.flatten(0, 2), positions[0])


def test_the_papers_skips_with_published_weights_are_remarked_on():
    saved = torch.load(FIXTURES / "tiny_unetr3d.pt", weights_only=True)
    model = UNETR(1, 2, img_size=(32, 16, 48), spatial_dims=3, embed_dim=12, mlp_ratio=2.0, num_heads=3, feature_size=2)
    report = load_published(model, saved["state_dict"])
    assert "note: these weights were trained with skip_layers=(4, 7, 10), this network has (3, 6, 9)" in str(report)


@pytest.mark.parametrize("name", ["unetr2d", "unetr3d"])
def test_a_linear_patch_embedding_gives_the_tokens_of_the_convolution(name):
    """As the paper writes it: flatten each patch, channels fastest, and multiply; the layout of older checkpoints."""
    saved = torch.load(FIXTURES / f"tiny_{name}.pt", weights_only=True)
    published = saved["state_dict"]
    dims, prefix = saved["input"].dim() - 2, "vit.patch_embedding.patch_embeddings."
    kernel, bias = published.pop(prefix + "weight"), published.pop(prefix + "bias")
    linear = torch.randn(len(kernel), kernel[0].numel(), dtype=torch.double)
    published |= {prefix + "1.weight": linear.float(), prefix + "1.bias": bias}
    sizes = {"embed_dim": len(kernel), "mlp_ratio": 2.0, "num_heads": 3, "feature_size": {2: 4, 3: 2}[dims]}
    options = {
        "img_size": saved["input"].shape[2:],
        "spatial_dims": dims,
        "qkv_bias": dims == 2,
        "norm_affine": dims == 2,
    }
    model = UNETR(saved["input"].shape[1], saved["output"].shape[1], **sizes, **options)
    report = load_published(model, published)
    assert report.loaded["patch_embed.proj.weight"] == prefix + "1.weight"
    patch = saved["input"].double()[(0, slice(None), *[slice(16)] * dims)]  # (C, 16, 16[, 16])
    expected = linear.float().double() @ patch.movedim(0, -1).flatten() + bias.double()  # (p1 p2 [p3] c)
    token = model.double().patch_embed(saved["input"].double())[(0, *[0] * dims)]
    torch.testing.assert_close(token, expected)


def test_a_checkpoint_for_another_image_size_and_more_channels_is_adapted():
    saved = torch.load(FIXTURES / "tiny_unetr2d.pt", weights_only=True)
    model = UNETR(1, 3, img_size=(96, 80), embed_dim=24, mlp_ratio=2.0, num_heads=3, feature_size=4, qkv_bias=True,
                  norm_affine=True)  # fmt: skip
    report = load_published(
        model, saved["state_dict"] | {"vit.patch_embedding.position_embeddings": torch.randn(1, 16, 24)}
    )
    assert report.adapted["position_embedding"] == "position table (4, 4, 24) -> (6, 5, 24), interpolated"
    assert "2 input channels -> 1" in report.adapted["image_block.conv3.weight"]
    assert set(report.adapted) == {
        "position_embedding",
        "patch_embed.proj.weight",
        "image_block.conv1.weight",
        "image_block.conv3.weight",
    }
    assert not report.fresh


def test_positions_that_fill_no_grid_are_left_out_and_said():
    saved = torch.load(FIXTURES / "tiny_unetr2d.pt", weights_only=True)
    model = UNETR(
        2, 3, img_size=96, embed_dim=24, mlp_ratio=2.0, num_heads=3, feature_size=4, qkv_bias=True, norm_affine=True
    )
    report = load_published(model, saved["state_dict"])  # 12 positions: 4 x 3, but nothing says so
    assert (
        "shape (12, 24) does not fit position_embedding (6, 6, 24)"
        in report.skipped["vit.patch_embedding.position_embeddings"]
    )
    assert report.fresh == ["position_embedding"]


# ViT


def test_a_full_size_vit_fills_the_encoder():
    model, published = UNETR(3, 1, qkv_bias=True, feature_size=2), state_dict_of("timm_vit_b16_224_k1000.keys.txt")
    report = load_published(model, published)
    assert report.layout == "ViT (timm)"
    assert report.adapted == {"position_embedding": "position table (14, 14, 768) -> (16, 16, 768), interpolated"}
    ours = model.state_dict()
    assert set(report.fresh) == {
        name for name in ours if name.startswith(("skips.", "decoder.", "image_block.", "head."))
    }
    assert set(report.skipped) == {"cls_token", "head.weight", "head.bias"}
    assert report.skipped["cls_token"] == "UNETR has no class token"
    for name, key in [
        ("blocks.11.attn.qkv.bias", "blocks.11.attn.qkv.bias"),
        ("patch_embed.proj.weight",) * 2,
        ("norm.bias",) * 2,
    ]:
        assert torch.equal(ours[name], published[key])


def test_our_blocks_with_a_vits_weights_classify_as_the_vit_did(vit, assert_published):
    """Every tensor of the encoder at once: put the class token back by hand, and ask its classifier."""
    model, weights = small_network(3), vit["state_dict"]
    report = load_published(model, weights)
    assert not report.adapted
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # timm's; UNETR has 1e-5
    logits = {}
    for dtype in (torch.float32, torch.float64):
        model, weights = model.to(dtype), {key: value.to(dtype) for key, value in weights.items()}
        with torch.no_grad():
            tokens = model.hidden_states(vit["input"].to(dtype))[0]  # (B, 9, K), positions added
            first = (weights["cls_token"] + weights["pos_embed"][:, :1]).expand(len(tokens), -1, -1)
            z = torch.cat([first, tokens], dim=1)
            for block in model.blocks:
                z = block(z)
            logits[dtype] = model.norm(z)[:, 0] @ weights["head.weight"].T + weights["head.bias"]
    assert_published(logits[torch.float64], logits[torch.float32], vit["output"])


def test_a_grey_image_gives_the_vits_tokens_of_three_equal_channels(vit):
    colour, grey = small_network(3), small_network(1)
    load_published(colour, vit["state_dict"])
    report = load_published(grey, vit["state_dict"])
    assert "3 input channels -> 1" in report.adapted["patch_embed.proj.weight"]
    image = torch.randn(2, 1, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(grey.hidden_states(image)[-1], colour.hidden_states(image.expand(-1, 3, -1, -1))[-1],
                                   rtol=1e-4, atol=1e-4)  # fmt: skip


def test_the_vits_positions_are_stretched_to_a_larger_image(vit):
    model = small_network(3, img_size=(96, 64))
    report = load_published(model, vit["state_dict"])
    assert "(3, 3, 24) -> (6, 4, 24)" in report.adapted["position_embedding"]
    expected = resize_positions(vit["state_dict"]["pos_embed"][0, 1:].view(3, 3, 24), (6, 4))
    assert torch.equal(model.position_embedding, expected)


def test_a_bias_that_the_network_lacks_is_skipped_with_the_reason(vit):
    report = load_published(small_network(3, qkv_bias=False), vit["state_dict"])
    assert report.skipped["blocks.0.attn.qkv.bias"] == "this network was built with qkv_bias=False"


def test_only_the_blocks_go_into_a_network_for_volumes(vit):
    model = small_network(3, spatial_dims=3, patch_size=4, img_size=12)
    report = load_published(model, vit["state_dict"])
    assert "does not fit patch_embed.proj.weight" in report.skipped["patch_embed.proj.weight"]
    assert "shape (3, 3, 24) does not fit position_embedding (3, 3, 3, 24)" in report.skipped["pos_embed"]
    assert torch.equal(model.state_dict()["blocks.2.mlp.fc2.bias"], vit["state_dict"]["blocks.2.mlp.fc2.bias"])


# SAM and MedSAM

SAM_FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/sam"


@pytest.mark.parametrize("wrapped", [False, True])
def test_every_tensor_of_the_published_sam_has_its_place(wrapped):
    """Names and shapes of the whole file, in tensors without memory; MedSAM's has the same, also under "model"."""
    lines = (SAM_FIXTURES / "sam_vit_b.keys.txt").read_text().splitlines()[1:]
    layout = next(layout for layout in LAYOUTS if layout.name == "SAM" and layout.network is SAM)
    with torch.device("meta"):
        model = MedSAM() if wrapped else SAM()
        published = {
            key: torch.empty(tuple(int(n) for n in re.findall(r"\d+", shape)))
            for key, shape, _, _ in (line.split("\t") for line in lines)
        }
    content = {"model": published, "optimizer": {"state": {}}, "epoch": 3} if wrapped else published
    found, table, _ = find_reading(model, content)
    assert found is layout and table.where == ("model" if wrapped else "")
    ours, places = model.state_dict(), []
    for key, tensor in layout.rearrange(table.tensors, model).items():
        (name,) = layout.rename(key, model)
        assert ours[name].shape == tensor.shape, key
        places.append(name)
    assert len(places) == 314 and set(places) == set(ours)


def tiny_sam(name="tiny_sam"):
    return torch.load(SAM_FIXTURES / f"{name}.pt", weights_only=True)


SAM_SIZES = {
    "img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "window_size": 4,
    "global_blocks": (1, 3), "out_channels": 16,
}  # fmt: skip
DECODER_SIZES = {"mask_channels": 8, "decoder_heads": 2, "decoder_mlp_dim": 40, "iou_hidden_dim": 24}


@pytest.mark.parametrize("ours", [False, True])
def test_the_image_encoder_of_a_sam_is_loaded_alone(ours):
    published = tiny_sam()["state_dict"]
    whole = SAM(**SAM_SIZES, **DECODER_SIZES)
    load_published(whole, published)
    encoder = SAMImageEncoder(**SAM_SIZES)
    report = load_published(encoder, whole.state_dict() if ours else {"model": published})
    assert not (report.adapted or report.fresh) and "image_encoder." in report.where
    assert report.layout == ("lungseg" if ours else "SAM")
    assert len(report.loaded) + len(report.skipped) == len(published)
    assert all(key.startswith(("prompt_encoder.", "mask_decoder.")) for key in report.skipped)
    assert set(report.skipped.values()) == {"outside the part of the file that is this network"}
    for name, value in whole.image_encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name


def test_another_image_size_interpolates_and_the_report_says_so():
    """The weights then compute what the network of their own size computes of the smaller image."""
    published = tiny_sam()["state_dict"]
    same, smaller = (
        SAM(**SAM_SIZES, **DECODER_SIZES).eval(),
        SAM(**SAM_SIZES | {"img_size": 40}, **DECODER_SIZES).eval(),
    )
    load_published(same, published)
    report = load_published(smaller, published)
    table = {f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (1, 3) for axis in "hw"}
    assert set(report.adapted) == table | {"image_encoder.position_embedding"} and not (report.skipped or report.fresh)
    assert report.adapted["image_encoder.position_embedding"] == (
        "position table (8, 8, 32) -> (5, 5, 32), interpolated"
    )
    assert report.adapted[min(table)] == "relative positions (15, 16) -> (9, 16), interpolated"
    image, boxes = torch.randn(1, 3, 40, 40), torch.tensor([[3.0, 4, 30, 20]])
    with torch.no_grad():
        torch.testing.assert_close(smaller(image, boxes=boxes), same(image, boxes=boxes))


def test_a_grey_sam_gives_what_three_equal_channels_gave():
    published = tiny_sam()["state_dict"]
    colour, grey = SAMImageEncoder(**SAM_SIZES).double(), SAMImageEncoder(1, **SAM_SIZES).double()
    load_published(colour, published)
    report = load_published(grey, published)
    assert "3 input channels -> 1" in report.adapted["patch_embed.proj.weight"]
    image = torch.randn(1, 1, 64, 64, dtype=torch.double)
    torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)))


def test_a_checkpoint_of_ours_keeps_medsams_frozen_part_and_its_frequencies(tmp_path):
    theirs, ours = MedSAM.tiny(), MedSAM.tiny()
    torch.save({"model": theirs.state_dict()}, tmp_path / "a.pt")
    report = load_published(ours, tmp_path / "a.pt")
    assert report.layout == "lungseg" and not (report.adapted or report.skipped or report.fresh)
    assert torch.equal(ours.prompt_encoder.positions.frequencies, theirs.prompt_encoder.positions.frequencies)
    assert not any(p.requires_grad for p in ours.prompt_encoder.parameters())


def test_a_sam_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="only .* numbers were found in this SAM checkpoint"):
        load_published(SAM(**SAM_SIZES | {"embed_dim": 36}, **DECODER_SIZES), tiny_sam()["state_dict"])


# BiomedCLIP


def test_open_clips_file_fills_every_tensor_and_says_what_the_buffer_is():
    network, published = BiomedCLIP(**TINY_CLIP), dict(recorded_clip()["state_dict"])
    published |= {"text.transformer.embeddings.position_ids": torch.arange(40)[None],
                  "text.transformer.pooler.dense.bias": torch.zeros(24)}  # fmt: skip
    report = load_published(network, {"state_dict": {f"module.{key}": value for key, value in published.items()}})
    assert report.layout == "BiomedCLIP (open_clip)" and not (report.adapted or report.fresh)
    assert len(report.loaded) == len(network.state_dict()) == len(recorded_clip()["state_dict"]) + 1
    assert report.skipped == {
        "text.transformer.embeddings.position_ids": "the numbers 0 to 511, no weights: we count positions",
        "text.transformer.pooler.dense.bias": "BERT's pooler, which BiomedCLIP does not use",
    }
    table = published["visual.trunk.pos_embed"][0]
    assert torch.equal(network.visual.class_position, table[0])
    assert torch.equal(network.visual.position_embedding.flatten(0, 1), table[1:])


def test_every_key_of_the_full_size_file_has_a_place_of_its_shape():
    """On the meta device: shapes without numbers. (`load_published` refuses a file without numbers.)"""
    layout = next(layout for layout in LAYOUTS if layout.name == "BiomedCLIP (open_clip)")
    with torch.device("meta"):
        network, published = BiomedCLIP(), {}
        for line in (CLIP / "biomedclip_open_clip.keys.txt").read_text().splitlines()[1:]:
            key, shape, _, _ = line.split("\t")
            published[key] = torch.empty(tuple(int(n) for n in re.findall(r"\d+", shape)))
    placed = {}
    for key, tensor in layout.rearrange(published, network).items():
        (name,) = layout.rename(key, network)
        placed[name] = tensor.shape
    assert placed == {name: tensor.shape for name, tensor in network.state_dict().items()}


def test_a_biomedclip_for_larger_images_takes_interpolated_positions():
    network = BiomedCLIP(**(TINY_CLIP | {"img_size": 80}))
    report = load_published(network, recorded_clip()["state_dict"])
    assert report.adapted == {"visual.position_embedding": "position table (3, 3, 32) -> (5, 5, 32), interpolated"}


def test_a_biomedclip_of_ours_is_loaded_whole_and_another_vocabulary_refused():
    saved = filled_clip()[0].state_dict()
    report = load_published(BiomedCLIP(**TINY_CLIP), saved)
    assert report.layout == "lungseg" and not (report.fresh or report.skipped)
    with pytest.raises(ValueError, match="in other sizes: shape"):
        load_published(BiomedCLIP(**(TINY_CLIP | {"vocab_size": 391})), saved)
