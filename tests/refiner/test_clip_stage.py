"""BiomedCLIP: trained on captions here, taken from another run, or refused without its vocabulary."""

import pytest
import torch

from lungseg.checkpoint import save_checkpoint
from lungseg.data.phantoms.captions import VOCABULARY, captioned_crops
from lungseg.nn.biomedclip import TINY, BiomedCLIP
from lungseg.refiner import clip_stage
from lungseg.refiner.clip_stage import read_clip, train_clip
from lungseg.wordpiece import WordPiece


def test_it_is_trained_once_and_taken_by_another_run(context, tmp_path, capsys):
    first = context(tmp_path / "first")
    train_clip(first)
    line = capsys.readouterr().out
    assert line.startswith("clip: 1 steps, loss ") and "AUC" in line
    train_clip(first)  # finished: no phantom is drawn again
    assert capsys.readouterr().out == line
    second = context(tmp_path / "second", clip=str(first.stages.path("clip")))
    train_clip(second)
    assert "as it was trained in another run" in capsys.readouterr().out
    (arguments, weights, texts), other = read_clip(first), read_clip(second)
    assert arguments["vision_dim"] == 4 and other[0] == arguments
    assert all(torch.equal(weights[name], other[1][name]) for name in weights)
    assert texts.shape == (2, 64) and torch.allclose(texts.norm(dim=1), torch.ones(2)) and torch.equal(texts, other[2])


def test_captioned_crops_are_as_wide_as_those_of_the_refiner(context, monkeypatch):
    c, drawn = context(), []

    def record(rng, **how):
        drawn.append(how)
        return captioned_crops(rng, **how)

    monkeypatch.setattr(clip_stage, "captioned_crops", record)
    clip_stage.caption_pairs(c, WordPiece(VOCABULARY), range(12), TINY)
    for how in drawn:
        (diameter, same), shown = how["diameter_mm"], how["size"] * how["spacing_mm"]
        assert diameter == same and how["shift_mm"] == diameter / 4  # the nodule is near the middle
        least = 0.7 * c.settings.smallest  # mm: the phantoms of a refiner have pixels of 0.7 mm
        assert shown >= least * (1 - 1e-9)
        assert c.settings.context * diameter <= shown * (1 + 1e-9)
        assert shown <= max(least, 1.5 * c.settings.context * diameter) * (1 + 1e-9)
    assert len({how["diameter_mm"] for how in drawn}) == 12


def test_other_vocabularies_must_be_given(context, tmp_path):
    arguments = TINY | {"vocab_size": 170, "vision_dim": 4, "vision_depth": 1}
    save_checkpoint(tmp_path / "clip.pt", {"stage": "clip", "clip": arguments, "model": {}})
    with pytest.raises(ValueError, match="does not fit"):
        train_clip(context(clip=str(tmp_path / "clip.pt")))
    entries = {"stage": "clip", "clip": arguments, "model": BiomedCLIP(**arguments).state_dict()}
    save_checkpoint(tmp_path / "clip.pt", entries)
    with pytest.raises(ValueError, match=r"of 170 tokens, and that of the .* has 101. Give its own file: --vocabulary"):
        train_clip(context(clip=str(tmp_path / "clip.pt")))
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lung"]))
    with pytest.raises(ValueError, match=r"of 170 tokens, and .*vocab.txt has 5"):
        train_clip(context(clip=str(tmp_path / "clip.pt"), vocabulary=str(tmp_path / "vocab.txt")))
