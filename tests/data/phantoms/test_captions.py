"""Captioned crops: reproducible, and each sentence is true of its crop."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from lungseg.data.phantoms.captions import NORMAL, PROMPTS, SIZES, TYPES, VOCABULARY, captioned_crops
from lungseg.data.phantoms.nodules import KINDS
from lungseg.nn.biomedclip import TINY
from lungseg.wordpiece import WordPiece


@cache
def patient(seed, **options):
    return captioned_crops(np.random.default_rng(seed), **({"num": 4, "size": 32} | options))


def test_the_same_seed_gives_the_same_crops_and_another_seed_others():
    again = captioned_crops(np.random.default_rng(3), num=4, size=32)
    for one, other in zip(patient(3), again, strict=True):
        np.testing.assert_array_equal(one.hu, other.hu)
        assert one.caption == other.caption and one.lesion == other.lesion
    assert (patient(3)[0].hu != patient(4)[0].hu).mean() > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_label_target_and_sentence_agree(seed):
    for crop in patient(seed):
        assert crop.hu.shape == crop.target.shape == (32, 32) and crop.hu.dtype == np.int16
        assert crop.lesion == bool(crop.target.any()) == ("nodule" in crop.caption)
        assert crop.lesion or crop.caption in NORMAL
    assert [crop.lesion for crop in patient(seed)] == [True, False, True, False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("diameter", "size"), [(5.0, "small"), (12.0, "medium-sized"), (25.0, "large")])
def test_a_sentence_names_size_and_type(kind, diameter, size):
    (crop,) = patient(1, num=1, kinds=(kind,), diameter_mm=(diameter, diameter))
    type_ = "solid" if kind == "pleural" else kind
    assert crop.caption.startswith(f"a {size} {type_} nodule")
    assert kind != "pleural" or crop.caption.endswith(" at the pleura")


def test_the_nodule_is_in_the_middle_and_every_second_crop_without_it_shows_its_place():
    crops = patient(2, kinds=("solid",), diameter_mm=(12.0, 12.0), size=48)
    rows, columns = np.nonzero(crops[2].target)
    assert abs(rows.mean() - 23.5) < 6 and abs(columns.mean() - 23.5) < 6  # 3 mm are 4.3 pixels
    outside = crops[2].target == 0
    assert np.corrcoef(crops[2].hu[outside], crops[3].hu[outside])[0, 1] > 0.6  # all but the noise is the same
    assert np.corrcoef(crops[0].hu[outside], crops[1].hu[outside])[0, 1] < 0.3
    assert crops[2].hu[~outside].mean() > crops[3].hu[~outside].mean() + 200


def test_every_sentence_and_prompt_is_made_of_whole_words_of_the_vocabulary():
    tokenizer = WordPiece(VOCABULARY)
    sentences = [crop.caption for seed in range(5) for crop in patient(seed)] + [*PROMPTS["lesion"], *PROMPTS["normal"]]
    for sentence in sentences:
        pieces = tokenizer.split(sentence)
        assert "".join(pieces) == sentence.replace(" ", "") and not any(p.startswith("##") for p in pieces)
    assert len(tokenizer) == TINY["vocab_size"]
    assert tokenizer.split("x-ray") == ["x", "-", "r", "##a", "##y"]


def test_prompts_have_every_type_and_size_once():
    words = Counter(word for sentence in PROMPTS["lesion"] for word in sentence.split())
    assert {words[type_] for type_ in TYPES} == {3} and {words[size] for size in SIZES} == {4}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num": 0}, "expected num >= 1"), ({"shift_mm": -1.0}, "shift_mm >= 0"), ({"size": 0}, "empty"),
     ({"kinds": ("cyst",)}, "kinds"), ({"diameter_mm": (9.0, 3.0)}, "smallest <= largest")],
)  # fmt: skip
def test_what_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        captioned_crops(np.random.default_rng(0), **options)
