"""The CLIP loss and DHN-NCE: the recorded values and gradients, loops of plain numbers, and half precision."""

import math

import pytest
import torch
from clip_fixtures import recorded
from hypothesis import given, settings, strategies as st

from lungseg.losses_contrastive import clip_loss, dhn_nce_loss

BETAS = {"image_beta": 0.15, "text_beta": 0.15}


def test_the_recorded_clip_loss():
    assert clip_loss(recorded()["logits_per_image"]).item() == pytest.approx(recorded()["clip_loss"], rel=1e-6)


def test_dhn_nce_is_the_papers_and_not_that_of_the_published_file():
    saved = recorded()["dhn_nce"]
    options = {"temperature": saved["temperature"], "image_beta": saved["beta1"], "text_beta": saved["beta2"]}
    images, texts = (recorded()[f"{name}_features"].clone().requires_grad_() for name in ("image", "text"))
    loss = dhn_nce_loss(images, texts, **options)
    loss.backward()
    assert loss.item() == pytest.approx(saved["paper"], rel=1e-5)
    torch.testing.assert_close(images.grad, saved["paper_grad_image"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(texts.grad, saved["paper_grad_text"], rtol=1e-3, atol=1e-6)
    assert abs(loss.item() - saved["code"]) > 1


def clip_by_hand(s):
    """The loss with loops: -log of the share of the right partner in each row and each column."""
    total, n = 0.0, len(s)
    for rows in (s, [list(column) for column in zip(*s, strict=True)]):
        for i in range(n):
            total -= math.log(math.exp(rows[i][i]) / sum(math.exp(x) for x in rows[i])) / n / 2
    return total


def decoupled_by_hand(s, b):
    n, total = len(s), 0.0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        weights = sum(math.exp(b * s[i][k]) for k in others)
        hard = sum((n - 1) * math.exp(b * s[i][j]) / weights * math.exp(s[i][j]) for j in others)
        total += (-s[i][i] + math.log(hard)) / n
    return total


@settings(max_examples=30)
@given(n=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_clip_loss_is_that_of_the_loops(n, seed):
    generator = torch.Generator().manual_seed(seed)
    s = 3 * torch.randn(n, n, generator=generator, dtype=torch.double)
    assert clip_loss(s).item() == pytest.approx(clip_by_hand(s.tolist()))


@settings(max_examples=30)
@given(n=st.integers(2, 6), seed=st.integers(0, 99), b=st.sampled_from([0.0, 0.15, 2.0]))
def test_dhn_nce_is_that_of_the_loops(n, seed, b):
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, n, 5, generator=generator, dtype=torch.double)
    s = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1) / 0.6
    expected = decoupled_by_hand(s.tolist(), b) + decoupled_by_hand(s.T.tolist(), 0.5)
    ours = dhn_nce_loss(images, texts, temperature=0.6, image_beta=b, text_beta=0.5)
    assert ours.item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_lowest_temperature_in_half_precision(dtype):
    """exp(100) is beyond float16, and beyond bfloat16's sums; losses and gradients stay finite."""
    features = torch.eye(4, 8).to(dtype).requires_grad_()
    for loss in (clip_loss(100 * features @ features.T), clip_loss(-100 * features @ features.T),
                 dhn_nce_loss(features, features, temperature=0.01, **BETAS),
                 dhn_nce_loss(features, -features, temperature=0.01, image_beta=0, text_beta=0)):  # fmt: skip
        (grad,) = torch.autograd.grad(loss, features)
        assert loss.dtype == torch.float32 and loss.isfinite() and grad.isfinite().all()


def test_the_order_of_the_pairs_does_not_matter():
    s, order = torch.randn(6, 6, dtype=torch.double), torch.randperm(6)
    torch.testing.assert_close(clip_loss(s[order][:, order]), clip_loss(s))


def test_pairs_with_one_sentence_pull_no_image_away_from_it():
    """The gradient is that of a target spread evenly over the equal sentences."""
    images, sentences = torch.randn(6, 4, dtype=torch.double), torch.randn(3, 4, dtype=torch.double)
    which = torch.tensor([0, 1, 0, 2, 0, 2])
    same = (which[:, None] == which).double()
    images.requires_grad_()
    logits = images @ sentences[which].T
    spread = same / same.sum(dim=1)
    other = -(spread * (logits.log_softmax(0) + logits.log_softmax(1))).sum() / 12
    (ours,), (theirs,) = (torch.autograd.grad(loss, images, retain_graph=True) for loss in (clip_loss(logits), other))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: clip_loss(torch.zeros(3, 4)), r"expected logits \(B, B\).* got \(3, 4\)"),
        (lambda: clip_loss(torch.zeros(0, 0)), "expected logits"),
        (lambda: dhn_nce_loss(torch.zeros(1, 4), torch.zeros(1, 4), temperature=1, **BETAS), "has no negatives"),
        (lambda: dhn_nce_loss(torch.zeros(3, 4), torch.zeros(3, 5), temperature=1, **BETAS), r"got \(3, 4\) and \(3"),
        (lambda: dhn_nce_loss(torch.ones(3, 4), torch.ones(3, 4), temperature=0, **BETAS), "temperature > 0"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
