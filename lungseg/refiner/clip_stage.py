"""The second stage of a refiner: BiomedCLIP, tiny and trained on phantoms with their captions, or published weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lungseg.checkpoint import is_sealed, load_checkpoint
from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.captions import PROMPTS, VOCABULARY, captioned_crops
from lungseg.evaluation.ranking import roc_auc
from lungseg.files import regular_file
from lungseg.losses_contrastive import clip_loss
from lungseg.nn.biomedclip import MOST_SCALE, TINY, BiomedCLIP, clip_input
from lungseg.refiner.context import Context
from lungseg.refiner.recipe import RefinerRecipe
from lungseg.refiner.stages import read_stage
from lungseg.training.contrastive import turn_each
from lungseg.training.resume import load_parts
from lungseg.weights.load import load_published
from lungseg.wordpiece import WordPiece
from lungseg.zero_shot import text_features

CROPS = 4  # of each phantom
HELD_OUT = 40  # phantoms on which it is measured, at most as many as it learns from
DIAMETER_MM = (3.0, 30.0)
PIXEL_MM = 0.7  # of a slice: `smallest` is so many pixels
WIDER = 1.5  # a proposed box is up to so many times as wide as its nodule


def train_clip(c: Context) -> None:
    """Write clip.pt: its weights and its sizes ("clip")."""
    if c.stages.read_finished("clip"):
        return
    if c.recipe.clip:
        model, given, told = given_clip(c.recipe, c.recipe.clip)
        c.stages.finish("clip", model.state_dict(), f"clip: {c.recipe.clip}, {told}", clip=given)
        return
    arguments = TINY | {"vision_dim": c.recipe.clip_dim, "vision_depth": c.recipe.clip_depth}
    tokenizer = WordPiece(VOCABULARY)
    images, ids, _ = caption_pairs(c, tokenizer, range(c.recipe.clip_patients), arguments)

    def loss_of(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        assert isinstance(model, BiomedCLIP)
        with torch.no_grad():
            model.logit_scale.clamp_(max=MOST_SCALE)
        drawn = torch.from_numpy(rng.choice(len(images), min(c.recipe.clip_batch, len(images)), replace=False))
        image = turn_each(images[drawn], torch.Generator().manual_seed(int(rng.integers(2**62))))
        return clip_loss(model(clip_input(image.to(c.stages.device)), ids[drawn].to(c.stages.device)))

    c.stages.train(
        "clip", lambda: BiomedCLIP(**arguments), loss_of, steps=c.recipe.clip_steps, lr=c.recipe.clip_lr,
        describe=lambda model: told_of_clip(c, model, tokenizer), clip=arguments,
    )  # fmt: skip


def caption_pairs(
    c: Context, tokenizer: WordPiece, patients: range, arguments: dict[str, Any]
) -> tuple[Tensor, Tensor, list[bool]]:
    """Crops of phantoms (n, 1, S, S) in [0, 1], the tokens of their sentences (n, N), whether each shows a lesion.

    They are as wide as the refiner's around a nodule of that size. Those of normal lung, of the same patients, are as
    wide as those with the nodule, so their scale tells nothing.
    """
    crops = []
    for patient in patients:
        rng, size = c.stages.rng("captions", patient), arguments["img_size"]
        diameter = float(np.exp(rng.uniform(*np.log(DIAMETER_MM))))
        shown = max(PIXEL_MM * c.settings.smallest, c.settings.context * diameter * rng.uniform(1, WIDER))  # mm
        crops += captioned_crops(
            rng, num=CROPS, size=size, spacing_mm=shown / size, diameter_mm=(diameter, diameter), shift_mm=diameter / 4
        )
    images = torch.from_numpy(np.stack([hu_to_unit(crop.hu) for crop in crops]))[:, None]
    ids = tokenizer([crop.caption for crop in crops], context=arguments["max_length"])
    return images, ids, [crop.lesion for crop in crops]


@torch.no_grad()
def told_of_clip(c: Context, model: nn.Module, tokenizer: WordPiece) -> str:
    """How well its sentences tell crops of new phantoms with a nodule from those without."""
    assert isinstance(model, BiomedCLIP)
    arguments = {"img_size": model.img_size, "max_length": model.text.position_embedding.num_embeddings}
    first = c.recipe.clip_patients
    new = range(first, first + min(HELD_OUT, first))
    images, _, lesion = caption_pairs(c, tokenizer, new, arguments)
    texts = text_features(model, PROMPTS, tokenizer)  # of lesions and of normal lung
    lesion_logit, normal = model.logits(model.encode_image(clip_input(images.to(texts.device))), texts).unbind(dim=1)
    return f"new phantoms: AUC {roc_auc((lesion_logit - normal).cpu().numpy(), np.array(lesion)):.3f}"


def given_clip(r: RefinerRecipe, file: str) -> tuple[BiomedCLIP, dict[str, Any], str]:
    """The network of a file, its arguments, and what is said of it.

    The file is clip.pt of another run, or published weights, which are of the full size.

    Raises:
        ValueError: if it is another file, or --vocabulary is not that of the network.
    """
    if is_sealed(regular_file(file)):
        other = read_stage(file, "clip", "clip")
        model, arguments, told = BiomedCLIP(**other["clip"]), other["clip"], "as it was trained in another run"
        load_parts({"model": model}, other, Path(file))
    else:
        arguments, model = {}, BiomedCLIP()
        told = str(load_published(model, file)).splitlines()[0]
    known, tokens = model.text.word_embedding.num_embeddings, len(WordPiece(r.vocabulary or VOCABULARY))
    if tokens != known:
        ours = r.vocabulary or "that of the phantoms' captions"
        raise ValueError(
            f"{file} was trained with a vocabulary of {known:,} tokens, and {ours} has {tokens:,}. Give its own file: "
            f"--vocabulary vocab.txt."
        )
    return model, arguments, told


def read_clip(c: Context) -> tuple[dict[str, Any], dict[str, Tensor], Tensor]:
    """The arguments and weights of BiomedCLIP from clip.pt, and the features (2, E) of the sentences."""
    saved = load_checkpoint(c.stages.path("clip"))
    model = BiomedCLIP(**saved["clip"])
    load_parts({"model": model}, saved, c.stages.path("clip"))
    tokenizer = WordPiece(c.recipe.vocabulary or VOCABULARY)
    return saved["clip"], saved["model"], text_features(model.eval(), PROMPTS, tokenizer)
