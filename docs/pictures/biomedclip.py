"""Draw docs/img/biomedclip*.png: both towers, and a tiny network, trained here in a minute, asked about phantoms.

It also prints the scores that docs/nn/biomedclip.md quotes.
"""

import sys
import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from shapes import BLUE, GREEN, ORANGE, Colour, arrow, box, canvas, cells, frame, save, words
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lungseg.data.ct import hu_to_grey, hu_to_unit
from lungseg.data.phantoms.captions import PROMPTS, VOCABULARY, CaptionedCrop, captioned_crops
from lungseg.draw import contact_sheet, enlarge, heatmap, overlay
from lungseg.evaluation.ranking import roc_auc
from lungseg.nn.biomedclip import BiomedCLIP, clip_input
from lungseg.training.contrastive import train_clip_epoch
from lungseg.wordpiece import WordPiece
from lungseg.zero_shot import text_features

IMG = Path(__file__).resolve().parents[1] / "img"
PATIENTS, TESTED, EPOCHS, RATE = 400, 60, 9, 2e-3
CONTEXT = 16  # tokens; no caption of a phantom is longer
TOKENIZER = WordPiece(VOCABULARY)
STRONG = (86, 180, 233)  # the colour of probability 1; 0 is white
SENTENCES = (
    "a small solid nodule", "a medium-sized ground-glass nodule", "a large spiculated nodule",
    "a medium-sized solid nodule at the pleura", "normal lung with vessels", "normal lung at the pleura",
)  # fmt: skip


# ---- a tiny network on phantoms -------------------------------------------------------------------------------


def draw_crops(first: int, patients: int, num: int) -> list[CaptionedCrop]:
    seeds = range(first, first + patients)
    return [crop for seed in seeds for crop in captioned_crops(np.random.default_rng([7, seed]), num=num)]


def images_of(crops: list[CaptionedCrop]) -> Tensor:
    return torch.from_numpy(hu_to_unit(np.stack([[crop.hu] for crop in crops])))  # (B, 1, 48, 48)


def train() -> BiomedCLIP:
    """Learn from pairs of crop and sentence alone: no label, no outline."""
    crops = draw_crops(0, PATIENTS, num=4)
    pairs = TensorDataset(images_of(crops), TOKENIZER([crop.caption for crop in crops], context=CONTEXT))
    torch.manual_seed(0)
    model, random = BiomedCLIP.tiny(), torch.Generator().manual_seed(0)
    batches = DataLoader(pairs, batch_size=32, shuffle=True, drop_last=True, generator=random)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.15)
    for epoch in range(EPOCHS):
        loss = train_clip_epoch(model, batches, optimizer, schedule=schedule, turns=random)
        print(f"epoch {epoch}: loss {loss:.3f}", flush=True)
    return model.eval()


@torch.no_grad()
def print_scores(model: BiomedCLIP, crops: list[CaptionedCrop]) -> None:
    """The area under the ROC curve of lesion against normal, by sentences alone, and that by the size of the lesion."""
    logits = model.logits(model.encode_image(clip_input(images_of(crops))), text_features(model, PROMPTS, TOKENIZER))
    score = (logits[:, 0] - logits[:, 1]).numpy()
    lesion = np.array([crop.lesion for crop in crops])
    diameter = np.array([2 * np.sqrt(crop.target.sum() * 0.7**2 / np.pi) for crop in crops])  # of an equal disc, mm
    print(f"{len(crops)} crops of {TESTED} further patients, zero-shot: AUC {roc_auc(score, lesion):.3f}")
    for low, high in [(0, 5), (5, 10), (10, 99)]:
        kept = ~lesion | ((diameter >= low) & (diameter < high))
        print(f"  {(kept & lesion).sum()} of {low} to {high} mm: AUC {roc_auc(score[kept], lesion[kept]):.3f}")


# ---- pictures -------------------------------------------------------------------------------------------------


def towers_picture() -> Image.Image:
    """Both towers of the published size, with what leaves each step."""
    left, right, width, step, top = 400, 1200, 700, 132, 130
    picture, draw = canvas(1600, 1060)

    def column(x: int, fill: Colour, steps: list[str]) -> None:
        for row, text in enumerate(steps):
            y = top + step * row
            box(draw, x, y, width, 92, text, fill)
            if row + 1 < len(steps):
                arrow(draw, (x, y + 46), (x, y + step - 46))

    words(draw, left, 34, "image 3 x 224 x 224", size=30)
    words(draw, right, 34, '"a solid nodule"', size=30)
    for x in (left, right):
        arrow(draw, (x, 54), (x, top - 46))
    column(left, BLUE, [
        "patches of 16 x 16: 14 x 14 = 196 tokens x 768",
        "class token in front, + positions: 197 x 768",
        "12 blocks, norm before each (pre-norm):\n197 x 768",
        "LayerNorm, keep the class token: 768",
        "Linear, no bias: 512",
    ])  # fmt: skip
    column(right, ORANGE, [
        "WordPiece: [CLS] a solid nodule [SEP] [PAD] ...\n256 numbers",
        "word + position + type vectors, norm: 256 x 768",
        "12 blocks, norm after each (post-norm),\n[PAD] kept out of attention: 256 x 768",
        "keep [CLS]: 768",
        "Linear, GELU, Linear, no biases: 640, 512",
    ])  # fmt: skip
    y = top + 4 * step
    for x in (left, right):
        arrow(draw, (x, y + 46), (x, y + 100), (800 + (x - 800) // 4, y + 140))
    box(draw, 800, y + 190, 900, 100, "divide each by its length: cosine; times exp(logit_scale):\na logit", GREEN)
    words(draw, 800, y + 290, "B images and B sentences: a B x B table of logits", size=28)
    return picture


@torch.no_grad()
def pairs_picture(model: BiomedCLIP, crops: list[CaptionedCrop]) -> Image.Image:
    """For one held-out crop of each sentence: how the network shares its belief over the sentences."""
    shown = [next(crop for crop in crops if crop.caption == sentence) for sentence in SENTENCES]
    share = model(clip_input(images_of(shown)), TOKENIZER(SENTENCES, context=CONTEXT)).softmax(dim=1).numpy()  # (6, 6)
    cell = 200
    table = cells(255 - share[..., None] * (255 - np.array(STRONG)), cell=cell)
    draw = ImageDraw.Draw(table)
    for i, row in enumerate(share.tolist()):
        for j, p in enumerate(row):
            words(draw, cell * (j + 0.5), cell * (i + 0.5), f"{p:.2f}", size=44)
        frame(table, i, i, cell=cell)
    images = [Image.fromarray(enlarge(hu_to_grey(crop.hu), 4)) for crop in shown]
    picture, draw = canvas(240 + table.width, 170 + table.height)
    for i, (image, sentence) in enumerate(zip(images, SENTENCES, strict=True)):
        picture.paste(image, (20, 154 + cell * i))
        words(draw, 230 + cell * (i + 0.5), 75, textwrap.fill(sentence, 14), size=26)
    picture.paste(table, (230, 150))
    return picture


@torch.no_grad()
def patch_maps(model: BiomedCLIP, crops: list[CaptionedCrop]) -> np.ndarray:
    """(B, 8, 8): for each patch its cosine with "lesion" less that with "normal"."""
    similarity = model.patch_similarity(clip_input(images_of(crops)), text_features(model, PROMPTS, TOKENIZER))
    return (similarity[:, 0] - similarity[:, 1]).numpy()


def print_maps(maps: np.ndarray, crops: list[CaptionedCrop]) -> None:
    """In how many crops the patches on the nodule have the higher mean than those beside it."""
    higher = []
    for values, crop in zip(maps, crops, strict=True):
        covered = crop.target.reshape(8, 6, 8, 6).mean((1, 3))  # (8, 8), the share of each patch
        if (covered > 0.5).any():
            higher.append(values[covered > 0.5].mean() > values[covered == 0].mean())
    print(f"patches on the nodule are more like 'lesion' than those beside it in {sum(higher)} of {len(higher)} crops")


@torch.no_grad()
def patches_picture(model: BiomedCLIP, crops: list[CaptionedCrop]) -> Image.Image:
    """Five crops with a nodule, their probabilities, and the maps of their patches."""
    shown, maps = crops[:5], patch_maps(model, crops[:5])
    features = model.encode_image(clip_input(images_of(shown)))
    p = model.logits(features, text_features(model, PROMPTS, TOKENIZER)).softmax(dim=1)[:, 0].tolist()
    crops_row = [overlay(hu_to_grey(crop.hu), crop.target, scale=6) for crop in shown]
    maps_row = [enlarge(heatmap(values, -1, 1), 36) for values in maps]
    labels = ["crop, outline of\nits nodule; below,\nits probability",
              "of each patch:\ncosine with\n'lesion' less that\nwith 'normal';\n-1 black,\n1 pale yellow"]  # fmt: skip
    captions = [[f"lesion: {value:.3f}" for value in p], [""] * len(p)]
    return contact_sheet([crops_row, maps_row], row_labels=labels, captions=captions, font_size=28)


def main() -> int:
    save(towers_picture(), IMG / "biomedclip.png")
    model, crops = train(), draw_crops(10_000, TESTED, num=2)
    print_scores(model, crops)
    save(pairs_picture(model, crops), IMG / "biomedclip_pairs.png")
    large = [crop for crop in crops if crop.target.sum() > 60]  # 30 mm^2: nodules of 6 mm and more
    print_maps(patch_maps(model, large), large)
    patches_picture(model, large).save(IMG / "biomedclip_patches.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
