"""Contrastive training: the step by hand, what repeats, turned images, and that a tiny network learns."""

import copy

import pytest
import torch
from torch import nn

from lungseg.losses_contrastive import clip_loss
from lungseg.nn.biomedclip import MOST_SCALE, BiomedCLIP, clip_input
from lungseg.training.contrastive import train_clip_epoch, turn_each

SIZES = {"img_size": 12, "vision_dim": 24, "vision_depth": 1, "text_dim": 16, "text_depth": 1, "embed_dim": 16}


def pairs():
    """Bright and dark images with the sentences 7 8 and 9: (8, 1, 12, 12), (8, 4)."""
    bright = torch.arange(8) % 2
    image = bright[:, None, None, None] * 0.6 + 0.2 * torch.rand(8, 1, 12, 12)
    return image, torch.tensor([[2, 9, 3, 0], [2, 7, 8, 3]])[bright]


def test_one_step_is_that_written_out():
    torch.manual_seed(1)
    model = BiomedCLIP.tiny(**SIZES)
    by_hand, (image, ids) = copy.deepcopy(model), pairs()
    loss = train_clip_epoch(model, [(image, ids)], torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    expected = clip_loss(by_hand(clip_input(image), ids))
    expected.backward()
    nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    optimizer.step()
    assert loss == pytest.approx(expected.item())
    torch.testing.assert_close(dict(model.named_parameters()), dict(by_hand.named_parameters()))


def test_a_network_learns_to_tell_bright_from_dark_and_repeats_itself():
    def trained():
        torch.manual_seed(1)
        model = BiomedCLIP.tiny(**SIZES)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        turns = torch.Generator().manual_seed(0)
        losses = [train_clip_epoch(model, [batch], optimizer, turns=turns) for _ in range(25)]
        return model.eval(), losses

    batch = pairs()
    (model, losses), (again, _) = trained(), trained()
    image, ids = batch
    best = model(clip_input(image), ids[:2]).argmax(dim=1)
    assert best.tolist() == [0, 1] * 4 and losses[-1] < losses[0] - 0.2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_the_temperature_is_kept_above_a_hundredth():
    model = BiomedCLIP.tiny(**SIZES)
    nn.init.constant_(model.logit_scale, 9.0)
    train_clip_epoch(model, [pairs()], torch.optim.SGD(model.parameters(), lr=1e-9))
    assert model.logit_scale.item() == pytest.approx(MOST_SCALE)


def test_an_image_is_turned_in_one_of_eight_ways():
    image = torch.rand(200, 1, 3, 3)
    turned = turn_each(image, torch.Generator().manual_seed(0))
    ways = [lambda x, k=k, m=m: (x.flip(-1) if m else x).rot90(k, (-2, -1)) for k in range(4) for m in (0, 1)]
    found = [[i for i, way in enumerate(ways) if torch.equal(way(a), b)] for a, b in zip(image, turned, strict=True)]
    assert {len(f) for f in found} == {1} and {f[0] for f in found} == set(range(8))
    assert torch.equal(turned, turn_each(image, torch.Generator().manual_seed(0)))


def test_no_batch_and_a_loss_that_is_not_finite_are_refused():
    model = BiomedCLIP.tiny(**SIZES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="there is no batch"):
        train_clip_epoch(model, [], optimizer)
    before, (image, ids) = copy.deepcopy(model.state_dict()), pairs()
    with pytest.raises(FloatingPointError, match="is nan. Lower the rate"):
        train_clip_epoch(model, [(image * torch.nan, ids)], optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
