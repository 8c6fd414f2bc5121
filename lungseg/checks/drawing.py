"""`--draw`: the first mistake as a picture, large enough for a projector."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lungseg.draw import INK, enlarge, font, heatmap, overlay, to_rgb

PANEL, GAP, TEXT = 520, 40, 30  # pixels
YES, NO, WRONG = (150, 215, 170), (70, 70, 70), (230, 60, 60)


def draw(name: str, picture: Sequence[Any]) -> Image.Image:
    """Expected, the student's and the difference, side by side.

    Args:
        name: of the function or class.
        picture: ("matrix", expected, got): numbers (n, m);
            ("mask", expected, got, tokens): bool (N, N), and the window's tokens as rows of text;
            ("outlines", target, bright): bool (H, W), where the student's target and image show the lesion.
    """
    kind, *parts = picture
    if kind == "outlines":
        target, bright = (np.asarray(part, dtype=float) for part in parts)
        shown = overlay(0.6 * bright, target, bright, scale=max(1, 2 * PANEL // max(target.shape)))
        title = "green: the new target, orange: the lesion in the new image"
        return panels(name, [title], [Image.fromarray(shown)])
    if kind == "mask":
        want, got = (np.asarray(part, dtype=bool) for part in parts[:2])
        tokens = [word for line in parts[2] for word in line]
        pictures = [numbered_window(parts[2]), *(mask_panel(m, m != want, tokens) for m in (want, got))]
        titles = ["the window's map tokens", "expected (light: may attend)", "yours (red: differs)"]
        return panels(name, titles, pictures)
    want, got = (np.asarray(part, dtype=float) for part in parts)
    if want.shape != got.shape:
        return panels(name, ["expected", "yours (another shape)"], [matrix_panel(want, want), matrix_panel(got, got)])
    pictures = [matrix_panel(want, want), matrix_panel(got, want), matrix_panel(got - want, got - want)]
    return panels(name, ["expected", "yours", "yours - expected"], pictures)


def panels(name: str, titles: Sequence[str], pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row under their titles."""
    width = sum(max(p.width, PANEL) for p in pictures) + GAP * (len(pictures) + 1)
    sheet = Image.new("RGB", (width, max(p.height for p in pictures) + 3 * GAP + 2 * TEXT), "white")
    ink, x = ImageDraw.Draw(sheet), GAP
    ink.text((GAP, GAP / 2), name, INK, font(TEXT * 1.2))
    for title, picture in zip(titles, pictures, strict=True):
        ink.text((x, GAP + 1.3 * TEXT), title, INK, font(TEXT))
        sheet.paste(picture, (x, 2 * GAP + 2 * TEXT))
        x += max(picture.width, PANEL) + GAP
    return sheet


def matrix_panel(values: NDArray, scale_of: NDArray) -> Image.Image:
    """A matrix as coloured cells with their numbers, as far as there is room for them."""
    finite = scale_of[np.isfinite(scale_of)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    cell = max(8, PANEL // max(values.shape))
    colours = heatmap(values, low, high if high > low else low + 1)
    picture = Image.fromarray(enlarge(colours, cell))
    ink = ImageDraw.Draw(picture)
    for (i, j), value in np.ndenumerate(values):
        if cell >= 56:
            dark = int(colours[i, j].sum()) < 380
            place = ((j + 0.5) * cell, (i + 0.5) * cell)
            ink.text(place, f"{value:.2g}", "white" if dark else "black", font(min(TEXT, cell * 0.3)), anchor="mm")
    return picture


def numbered_window(rows: Sequence[Sequence[str]]) -> Image.Image:
    """The tokens of a window, numbered as on the map."""
    cell = PANEL // len(rows)
    picture = Image.new("RGB", (PANEL, PANEL), (245, 245, 245))
    ink = ImageDraw.Draw(picture)
    for i, row in enumerate(rows):
        for j, word in enumerate(row):
            box = (j * cell, i * cell, (j + 1) * cell - 1, (i + 1) * cell - 1)
            ink.rectangle(box, outline=INK, width=2, fill=(200, 200, 200) if word == "pad" else None)
            ink.text(((j + 0.5) * cell, (i + 0.5) * cell), word, INK, font(min(TEXT * 1.4, cell * 0.4)), anchor="mm")
    return picture


def mask_panel(mask: NDArray, wrong: NDArray, tokens: Sequence[str]) -> Image.Image:
    """(N, N): rows are queries, columns keys, both with the numbers of their map tokens; wrong cells framed in red."""
    n, margin = len(mask), 100
    cell = (PANEL - margin) // n
    colours = np.where(mask[..., None], np.array(YES), np.array(NO)).astype(np.uint8)
    picture = Image.new("RGB", (PANEL, PANEL), "white")
    picture.paste(Image.fromarray(enlarge(to_rgb(colours), cell)), (margin, margin))
    ink, text = ImageDraw.Draw(picture), font(min(TEXT * 0.8, cell * 0.6))
    ink.text((margin, 0), "keys", INK, font(TEXT * 0.8))
    ink.text((0, margin / 2), "queries", INK, font(TEXT * 0.8))
    for i, word in enumerate(tokens):
        ink.text((margin - 6, margin + (i + 0.5) * cell), word, INK, text, anchor="rm")
        ink.text((margin + (i + 0.5) * cell, margin - 4), word, INK, text, anchor="mb")
    for i, j in np.argwhere(wrong):
        x, y = margin + j * cell, margin + i * cell
        ink.rectangle((x, y, x + cell - 1, y + cell - 1), outline=WRONG, width=max(3, cell // 10))
    return picture
