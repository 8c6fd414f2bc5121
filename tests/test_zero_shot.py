"""Pictures as open_clip prepares them, and classes named in sentences."""

import copy

import numpy as np
import pytest
import torch
from clip_fixtures import FIXTURES, filled, recorded
from hypothesis import given, settings, strategies as st

from lungseg.nn.biomedclip import clip_input
from lungseg.wordpiece import WordPiece
from lungseg.zero_shot import clip_image, text_features, zero_shot


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece(FIXTURES / "tiny_vocab.txt")


def test_a_picture_is_prepared_as_published():
    saved = recorded()["preprocess"]
    ours = clip_image(saved["image"].numpy(), saved["size"])
    torch.testing.assert_close(ours, saved["output"], rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 24), colour=st.booleans())
def test_every_picture_becomes_a_square_and_one_colour_stays(height, width, size, colour):
    image = np.full((height, width, 3)[: 2 + colour], 77, np.uint8)
    expected = clip_input(torch.full((1, 1, size, size), 77 / 255))[0]
    torch.testing.assert_close(clip_image(image, size), expected)


def test_a_square_of_the_networks_size_is_only_normalised():
    image = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    torch.testing.assert_close(
        clip_image(image, 16), clip_input(torch.from_numpy(image / np.float32(255))[None, None])[0]
    )


def test_classes_named_by_one_sentence_each_are_the_recorded_probabilities(tokenizer):
    network, _ = filled()
    prompts = {caption: [caption] for caption in recorded()["captions"]}
    ours = zero_shot(network, recorded()["image"], prompts, tokenizer)
    torch.testing.assert_close(ours, recorded()["probabilities"], rtol=1e-3, atol=1e-4)


def test_the_order_and_repetition_of_sentences_do_not_matter(tokenizer):
    network, _ = filled()
    one = text_features(network, {"a": ["a nodule", "a mass"], "b": ["normal lung"]}, tokenizer)
    other = text_features(network, {"a": ["a mass", "a nodule"] * 2, "b": ["Normal  LUNG"]}, tokenizer)
    assert one.shape == (2, 20) and not one.requires_grad
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(2))


def test_sentences_go_to_the_device_of_the_network(tokenizer):
    network = copy.deepcopy(filled()[0]).to("meta")  # which cannot read tokens of the CPU
    assert text_features(network, {"a": ["a nodule"], "b": ["normal lung"]}, tokenizer).is_meta


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4), np.float32), r"expected \(H, W\) or \(H, W, 3\) uint8, got \(4, 4\) float32"),
        (np.zeros((4, 4, 2), np.uint8), r"got \(4, 4, 2\) uint8"),
        (np.zeros((0, 4), np.uint8), r"got \(0, 4\)"),
    ],
)
def test_what_is_no_picture_is_refused(image, words):
    with pytest.raises(ValueError, match=words):
        clip_image(image, 8)


@pytest.mark.parametrize(("prompts", "words"), [({}, "none for any"), ({"a": []}, "for a"), ({"a": "text"}, "for a")])
def test_a_class_without_sentences_is_refused(tokenizer, prompts, words):
    with pytest.raises(ValueError, match=words):
        text_features(filled()[0], prompts, tokenizer)
