"""WordPiece: equal to the published tokenizers, to a second way of computing it, and clear about a bad vocabulary."""

import itertools
import json
import re
import unicodedata

import pytest
import torch
from clip_fixtures import FIXTURES, recorded
from hypothesis import given, settings, strategies as st

from lungseg.wordpiece import WordPiece, open_clip_clean

VOCAB = FIXTURES / "tiny_vocab.txt"
SAVED = json.loads((FIXTURES / "tiny_tokenizer.json").read_text(encoding="utf-8"))
ROWS = SAVED["rows"]
TOKENIZER = WordPiece(VOCAB)
TOKENS = VOCAB.read_text(encoding="utf-8").split("\n")[:-1]


def test_there_are_41_texts_and_390_tokens():
    assert len(ROWS) == 41 and len(TOKENIZER) == SAVED["vocab_size"] == 390
    assert {token: TOKENIZER.number[token] for token in SAVED["special"]} == SAVED["special"]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_a_text_becomes_the_published_tokens(row):
    ids = TOKENIZER.encode(row["text"])
    assert ids == row["ids"]
    assert [TOKENS[number] for number in ids] == row["tokens"]
    assert TOKENIZER(row["text"], context=32).tolist() == [row["ids_32"]]
    if not row["open_clip_needs_ftfy"]:
        assert TOKENIZER(open_clip_clean(row["text"]), context=32).tolist() == [row["open_clip_32"]]


def test_the_three_texts_that_need_ftfy_are_those_the_docstring_names():
    texts = " ".join(row["text"] for row in ROWS if row["open_clip_needs_ftfy"])
    assert all(example in texts for example in ("“", "ﬁ", "Ｃ"))


def test_contexts_of_256():
    texts, ids = zip(*((row["text"], row["ids"]) for row in SAVED["context_256"]), strict=True)
    assert TOKENIZER(texts).tolist() == list(ids)


def test_the_recorded_captions_of_the_network():
    assert torch.equal(TOKENIZER(recorded()["captions"], context=32), recorded()["input_ids"])


# A second way: regular expressions and grouping, where the tokenizer has loops


def same_kind(c):
    """Characters of one kind stay together; a mark, an ideograph and a blank each have a kind of their own."""
    category = unicodedata.category(c)
    return "blank" if c.isspace() else "mark" if category[0] == "P" or re.fullmatch(r"[!-/:-@\[-`{-~]", c) else "letter"


def oracle(text):
    """The tokens of a text without CJK ideographs or special tokens."""
    text = "".join(c for c in text if c in "\t\n\r" or unicodedata.category(c)[0] != "C").replace("\ufffd", "")
    text = unicodedata.normalize("NFD", text.lower())
    text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    found = []
    for kind, group in itertools.groupby(text, key=same_kind):
        group = "".join(group)
        found += [] if kind == "blank" else list(group) if kind == "mark" else [group]
    return [piece for word in found for piece in oracle_pieces(word)]


BY_LENGTH = sorted(TOKENS, key=len, reverse=True)  # of several alternatives, a pattern takes the first
FIRST = re.compile("|".join(re.escape(token) for token in BY_LENGTH if not token.startswith("##")))
INNER = re.compile("|".join(re.escape(token[2:]) for token in BY_LENGTH if token.startswith("##")))


def oracle_pieces(word):
    start = FIRST.match(word)
    if len(word) > 100 or not start:
        return ["[UNK]"]
    pieces, place = [start.group()], start.end()
    while place < len(word):
        found = INNER.match(word, place)
        if not found:
            return ["[UNK]"]
        pieces.append("##" + found.group())
        place = found.end()
    return pieces


WORDS = [token.removeprefix("##") for token in TOKENS[5:] if token not in "肺癌结节片"]
WORD = st.sampled_from([*WORDS, "nodul", "Z", "é", "Ø", "J", "##"])
LETTER = st.one_of(st.integers(1, 0x33FF).map(chr), st.sampled_from("AéµΣİ￼\ufffd\ufeff한か😀\U000e0041\ue000"))
ANY_TEXT = st.one_of(  # without ideographs, which begin at 0x3400
    st.lists(LETTER, max_size=12).map("".join),
    st.lists(st.tuples(WORD, st.sampled_from(["", " ", "-", "\t", ", "])).map("".join), max_size=8).map("".join),
)


@settings(max_examples=100)
@given(text=ANY_TEXT)
def test_any_text_becomes_the_tokens_of_the_second_way(text):
    assert TOKENIZER.split_plain(text) == [token for token in oracle(text) if token]


@settings(max_examples=40)
@given(texts=st.lists(ANY_TEXT, max_size=4), context=st.integers(2, 40))
def test_every_row_begins_and_ends_and_is_padded(texts, context):
    ids = TOKENIZER(texts, context=context)
    assert ids.shape == (len(texts), context) and ids.dtype == torch.int64
    for row, text in zip(ids.tolist(), texts, strict=True):
        length = sum(number != 0 for number in row)
        assert row[0] == 2 and row[length - 1] == 3 and not any(row[length:])
        assert row[: length - 1] == TOKENIZER.encode(text)[: length - 1]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Spiculated nodules", "Spiculated nodules"),
        ("a &lt;b&gt; &amp;amp; 3 mm", "a <b> & 3 mm"),
        ("  a \n\t b ", "a b"),
    ],
)
def test_open_clips_cleaning(text, cleaned):
    assert open_clip_clean(text) == cleaned


def test_tokens_may_be_given_instead_of_a_file():
    assert WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])("A b", context=5).tolist() == [[2, 4, 1, 3, 0]]


def vocabulary_file(path, tokens):
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["[PAD]", "[CLS]", "[SEP]"], r"vocab.txt has no token \[UNK\]\. Give the vocabulary file of a BERT"),
        (["a", "b"], r"has no token \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        (["[UNK]", "[PAD]", "[CLS]", "[SEP]"], r"\[PAD\] is token 1, but the network takes token 0 for padding"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "a"], "has the token 'a' twice"),
    ],
)
def test_a_bad_vocabulary_is_refused_in_a_sentence(tmp_path, tokens, words):
    with pytest.raises(ValueError, match=words):
        WordPiece(vocabulary_file(tmp_path / "vocab.txt", tokens))


def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"none.txt: cannot be read \(No such file or directory\)\. Give a vocabulary"):
        WordPiece(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="binary: is not a text in UTF-8"):
        WordPiece(str(tmp_path / "binary"))


def test_what_is_no_text_and_a_context_too_short_are_refused():
    with pytest.raises(ValueError, match="expected a text, got int"):
        TOKENIZER([3])
    with pytest.raises(ValueError, match="context=1 has no room"):
        TOKENIZER("a", context=1)
