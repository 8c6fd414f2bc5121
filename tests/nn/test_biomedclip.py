"""BiomedCLIP: both towers together, equal to the published code in outputs and gradients; what a port gets wrong."""

import pytest
import torch
import torch.nn.functional as F
from clip_fixtures import FIXTURES, assert_near, departure, filled, recorded
from torch import nn

from lungseg.losses_contrastive import clip_loss
from lungseg.nn.biomedclip import BiomedCLIP, clip_input


@pytest.fixture
def network():
    return filled()[0]


def outputs(network):
    """What the published code gives at its end, of ours: features, logits, and the patches' cosines."""
    image, ids = recorded()["image"], recorded()["input_ids"]
    texts = network.encode_text(ids)
    patches = network.visual_head(network.patch_tokens(image)).flatten(1, 2)  # (B, N, E)
    return {
        "image_features": network.encode_image(image),
        "text_features": texts,
        "logits_per_image": network(image, ids),
        "patch_features": patches,
        "patch_similarity": network.patch_similarity(image, texts).flatten(2).transpose(1, 2),
    }


@torch.no_grad()
def test_the_published_features_logits_and_patch_similarities(network):
    for name, ours in outputs(network).items():
        assert_near(ours, recorded()[name], name)
    image, ids = recorded()["image"], recorded()["input_ids"]
    assert_near(network(image, ids).softmax(dim=-1), recorded()["probabilities"])
    hidden = network.text_head[0](network.text(ids)[:, 0])
    assert_near(hidden, recorded()["stages"]["text.proj.0"])


def test_float64_tells_that_nothing_but_rounding_is_different(network, in_both_precisions, assert_published):
    inputs = recorded()["image"], recorded()["input_ids"]
    assert_published(*in_both_precisions(network, *inputs), recorded()["logits_per_image"])


def test_the_published_gradients_of_the_clip_loss():
    network, report = filled()
    loss = clip_loss(network(recorded()["image"], recorded()["input_ids"]))
    assert loss.item() == pytest.approx(recorded()["clip_loss"], rel=1e-5)
    loss.backward()
    grads, table = {}, "visual.trunk.pos_embed"
    for name, parameter in network.named_parameters():  # our two tables of positions are one there
        grads.setdefault(report.loaded[name].removesuffix(".class"), []).append(parameter.grad)
    assert set(grads) == set(recorded()["grad_norm_sum"]) and len(grads[table]) == 2
    for key, parts in grads.items():
        flat = torch.cat([part.flatten() for part in parts])
        norm, total = recorded()["grad_norm_sum"][key]
        assert flat.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-5), key
        assert flat.sum().item() == pytest.approx(total, abs=1e-3 * norm + 1e-4), key


def tanh_pooler(network):
    pooler = nn.Sequential(nn.Linear(24, 24), nn.Tanh())
    nn.init.eye_(pooler[0].weight)
    nn.init.zeros_(pooler[0].bias)
    network.text_head.insert(0, pooler)


def a_bias_in_the_head(network):
    with_bias = nn.Linear(32, 20)
    with_bias.weight = network.visual_head.weight
    network.visual_head = with_bias


def an_activation_after_the_head(network):
    network.visual_head = nn.Sequential(network.visual_head, nn.GELU())


def relu_in_the_text_head(network):
    network.text_head[1] = nn.ReLU()


def tanh_gelu_in_the_text_head(network):
    network.text_head[1] = nn.GELU(approximate="tanh")


def not_normalised(network):
    network.logits = lambda images, texts: network.logit_scale.exp() * images @ texts.T


def scale_without_exp(network):
    network.logits = lambda images, texts: network.logit_scale * F.normalize(images) @ F.normalize(texts).T


def mean_of_the_patches(network):
    network.encode_image = lambda image: network.visual_head(network.patch_tokens(image).mean((1, 2)))


MUTANTS = [
    tanh_pooler, a_bias_in_the_head, an_activation_after_the_head, relu_in_the_text_head, tanh_gelu_in_the_text_head,
    not_normalised, scale_without_exp, mean_of_the_patches,
]  # fmt: skip


@pytest.mark.parametrize("mutate", MUTANTS)
@torch.no_grad()
def test_what_is_easily_got_wrong_is_told_from_the_published_network(network, mutate):
    mutate(network)
    assert max(departure(ours, recorded()[name]) for name, ours in outputs(network).items()) > 1e-4


def test_the_published_number_of_parameters_and_every_key():
    with torch.device("meta"):
        network = BiomedCLIP()
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in network.named_children()}
    assert counts["visual"] + counts["visual_head"] == 86_191_872
    assert counts["text"] + counts["text_head"] == 109_710_848
    assert sum(p.numel() for p in network.parameters()) == 195_902_721
    published = (FIXTURES / "biomedclip_open_clip.keys.txt").read_text().splitlines()[1:]
    assert len(published) + 1 == len(network.state_dict())  # the class token's position is a tensor of its own here


def test_the_tiny_network_and_what_changes_it():
    network = BiomedCLIP.tiny(vision_depth=1)
    assert len(network.visual.blocks) == 1 and network.img_size == 48
    image = torch.randn(2, 3, 48, 40)
    assert network.patch_tokens(image).shape == (2, 8, 7, 64)
    assert network(image, torch.tensor([[2, 7, 3]])).shape == (2, 1)


@torch.no_grad()
def test_class_features_are_the_normalised_mean_of_normalised_prompts(network):
    ids = recorded()["input_ids"]
    features = network.class_features([ids[:1], ids[1:]])
    texts = recorded()["text_normalised"].double()
    mean = texts[1:].mean(0)
    expected = torch.stack([texts[0], mean / mean.norm()])
    torch.testing.assert_close(features.double(), expected, rtol=0, atol=1e-5)
    plain = F.normalize(network.encode_text(ids)[1:].mean(0), dim=0)  # features averaged before they are normalised
    assert (plain - features[1]).abs().max() > 1e-3


def test_clip_input_makes_three_normalised_channels():
    grey = torch.rand(2, 1, 4, 5)
    out = clip_input(grey)
    assert torch.equal(out, clip_input(grey.expand(-1, 3, -1, -1)))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    torch.testing.assert_close(out * std + mean, grey.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match=r"expected \(B, 1, H, W\) or \(B, 3, H, W\), got \(4, 5\)"):
        clip_input(grey[0, 0])


def test_a_network_built_on_meta_and_filled_later_gives_the_same_numbers(network):
    with torch.device("meta"):
        empty = BiomedCLIP.tiny()
        assert empty(torch.empty(2, 3, 48, 48), torch.empty(3, 9, dtype=torch.int64)).shape == (2, 3)
    expected = BiomedCLIP.tiny().eval()
    empty.load_state_dict(expected.state_dict(), assign=True)
    image, ids = torch.randn(2, 3, 48, 48), torch.tensor([[2, 7, 3, 0]])
    with torch.no_grad():
        assert torch.equal(empty.eval()(image, ids), expected(image, ids))


def test_half_precision_and_autocast_run():
    network = BiomedCLIP.tiny(vision_depth=1, text_depth=1)
    image, ids = torch.randn(2, 3, 48, 48), torch.tensor([[2, 7, 3, 0], [2, 3, 0, 0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = clip_loss(network(image, ids))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert network.to(torch.bfloat16)(image.to(torch.bfloat16), ids).isfinite().all()
