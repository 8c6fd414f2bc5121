"""WordPiece: a sentence becomes the numbers of the words, and pieces of words, in a vocabulary.

The tokenizer of BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3; the algorithm is that of Wu et
al. 2016, https://arxiv.org/abs/1609.08144, section 4.1), lower-casing, as PubMedBERT and BiomedCLIP use it:

    "Spiculated nodules"  ->  [CLS] spiculated nodule ##s [SEP]

Four steps: clean the text, cut it into words at blanks and punctuation, lower-case them and drop accents, and cut each
word greedily into the longest pieces that the vocabulary has (a piece inside a word begins with ##).

open_clip, the library in which BiomedCLIP was published, cleans a text before its tokenizer sees it: html.unescape
twice, blanks stripped and made single, which `open_clip_clean` does too, and before that ftfy.fix_text, which it does
not: ftfy is a library. ftfy makes curly quotes straight, ligatures two letters and full-width letters ordinary ones,
and repairs text that was decoded wrongly. On plain English text it changes nothing.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lungseg.files import regular_file

PAD, UNKNOWN, START, END, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100  # characters; a longer word is unknown
CONTEXT = 256  # tokens of a sentence in BiomedCLIP
# Where the CJK ideographs are: Chinese has no blanks between words, so each ideograph is a word. Not kana, not hangul.
IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WordPiece:
    """Sentences -> token numbers.

    Args:
        vocabulary: a text file with one token per line, whose number is its line counted from 0 (such as vocab.txt of
            PubMedBERT), or the tokens themselves.

    Raises:
        ValueError: in one sentence, if the file cannot be read, or lacks [PAD] as its first token or one of [UNK],
            [CLS], [SEP], or has a token twice.
    """

    def __init__(self, vocabulary: str | Path | Sequence[str]):
        where = "the vocabulary"
        if isinstance(vocabulary, str | Path):
            where, vocabulary = str(vocabulary), read_vocabulary(vocabulary)
        self.tokens = list(vocabulary)
        self.number = {token: number for number, token in enumerate(self.tokens)}
        missing = [token for token in (PAD, UNKNOWN, START, END) if token not in self.number]
        if missing:
            raise ValueError(
                f"{where} has no token {', '.join(missing)}. Give the vocabulary file of a BERT, one token per line."
            )
        if self.number[PAD] != 0:
            raise ValueError(f"{where}: [PAD] is token {self.number[PAD]}, but the network takes token 0 for padding.")
        if len(self.number) < len(self.tokens):
            twice = next(token for number, token in enumerate(self.tokens) if self.number[token] != number)
            raise ValueError(f"{where} has the token {twice!r} twice. Each token needs one number.")
        self.special = re.compile("|".join(re.escape(token) for token in SPECIAL if token in self.number))

    def __len__(self) -> int:
        """Tokens in the vocabulary: the network's vocab_size."""
        return len(self.tokens)

    def __call__(self, texts: str | Iterable[str], *, context: int = CONTEXT) -> Tensor:
        """Token numbers of each text, (B, context) int64, cut or padded with 0; [CLS] first, [SEP] last.

        A text that is too long loses its end; [SEP] stays.
        """
        if context < 2:
            raise ValueError(f"WordPiece: context={context} has no room for [CLS] and [SEP]. Give at least 2.")
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            ids = self.encode(text)
            ids = ids[: context - 1] + [self.number[END]] if len(ids) > context else ids
            rows.append(ids + [0] * (context - len(ids)))
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), context)

    def encode(self, text: str) -> list[int]:
        """The token numbers of one text of any length, with those of [CLS] and [SEP]."""
        return [self.number[token] for token in (START, *self.split(text), END)]

    def split(self, text: str) -> list[str]:
        """Cut a text into tokens of the vocabulary: "Spiculated nodules" -> ["spiculated", "nodule", "##s"].

        A special token that stands in the text, such as [MASK], is taken as that token; [mask] is not.
        """
        if not isinstance(text, str):
            raise ValueError(f"WordPiece: expected a text, got {type(text).__name__}. Give a str or a list of them.")
        tokens, start = [], 0
        for found in self.special.finditer(text):
            tokens += self.split_plain(text[start : found.start()])
            tokens.append(found.group())
            start = found.end()
        return tokens + self.split_plain(text[start:])

    def split_plain(self, text: str) -> list[str]:
        """`split` of a text without special tokens."""
        return [piece for word in words(text) for piece in self.pieces(word)]

    def pieces(self, word: str) -> list[str]:
        """Cut a word into the longest pieces that the vocabulary has, from left to right.

        A word with a place where nothing fits is unknown as a whole: [UNK].
        """
        if len(word) > LONGEST_WORD:
            return [UNKNOWN]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)  # the longest piece first
            end = next((end for end in ends if prefix + word[start:end] in self.number), None)
            if end is None:
                return [UNKNOWN]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces


def open_clip_clean(text: str) -> str:
    """Clean a text as open_clip does before its tokenizer, except for ftfy (see the head of this file)."""
    text = html.unescape(html.unescape(text)).strip()
    return re.sub(r"\s+", " ", text).strip()


def read_vocabulary(path: str | Path) -> list[str]:
    """Read the tokens of a vocabulary file, one per line, in the order of their numbers."""
    try:
        text = regular_file(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Give a vocabulary file.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not a text in UTF-8. Give a vocabulary file, one token per line.") from None
    return text.removesuffix("\n").split("\n")  # not splitlines: a token may be a rarer kind of line break


# ---- a text becomes words ----------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Clean a text, and cut it into lower-case words without accents and single punctuation marks."""
    plain = "".join(f" {c} " if is_ideograph(c) else c for c in clean(text))
    return [part for word in plain.split() for part in cut_at_punctuation(strip_accents(word.lower()))]


def clean(text: str) -> str:
    """Drop control and other invisible characters, and make every kind of white space a blank."""
    kept = []
    for c in text:
        if c in "\t\n\r" or unicodedata.category(c) == "Zs":
            kept.append(" ")
        elif c != "\ufffd" and not unicodedata.category(c).startswith("C"):  # control, format, private, unassigned
            kept.append(c)
    return "".join(kept)


def strip_accents(text: str) -> str:
    """é -> e: take each letter apart (NFD) and drop the marks."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def cut_at_punctuation(word: str) -> list[str]:
    """Make each punctuation mark a word of its own: "ground-glass" -> ["ground", "-", "glass"]."""
    parts: list[str] = []
    open_word = False  # whether the next letter continues the last part
    for c in word:
        if open_word and not is_punctuation(c):
            parts[-1] += c
        else:
            parts.append(c)
        open_word = not is_punctuation(c)
    return parts


def is_punctuation(c: str) -> bool:
    """Unicode's punctuation, and all of ASCII that is neither letter nor digit nor control, also $ + < = > ^ ` | ~."""
    return unicodedata.category(c).startswith("P") or ("!" <= c <= "~" and not c.isalnum())


def is_ideograph(c: str) -> bool:
    """Whether a character is a CJK ideograph."""
    return any(low <= ord(c) <= high for low, high in IDEOGRAPHS)
