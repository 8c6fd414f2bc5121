"""Pictures with Pillow: overlays, heat maps, contact sheets, and small grids of numbers.

Every function is pure: arrays in, an RGB array (H, W, 3) uint8 or a PIL image out; nothing is shown or saved. An
`image` is (H, W) float in [0, 1], or (H, W) or (H, W, 3) uint8, or a PIL image. Maps of lesion classes are label maps
(lungseg.data.classes): 0 is background, and each class has a colour.
"""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from lungseg.data.classes import to_labels

TARGET = (0, 210, 90)  # green: what the radiologist drew
PRED = (255, 140, 0)  # orange: what the network drew
MISSED = (60, 130, 255)  # blue: lesion that the network missed
CONFUSED = (200, 60, 220)  # purple: lesion that the network assigned to another class
# Black, purple, orange, pale yellow: each step brighter than the last, so it can be printed in grey.
HEAT = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)])
# Okabe and Ito's palette, which colour-blind readers can distinguish too.
SERIES = [
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (90, 90, 90),
]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, GRID = (40, 40, 40), (225, 225, 225)


# ---- one picture -------------------------------------------------------------------------------------------


def to_rgb(image: ArrayLike | Image.Image) -> NDArray[np.uint8]:
    """Any `image` -> (H, W, 3) uint8. Floats beyond [0, 1] are clipped, NaN is black."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    array = np.asarray(image)
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"to_rgb: expected (H, W) or (H, W, 3), got shape {array.shape}. Index batch and channel first."
        )
    if array.dtype != np.uint8:
        array = np.rint(255 * np.clip(np.nan_to_num(array.astype(np.float64)), 0, 1)).astype(np.uint8)
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array  # (H, W, 3)


def heatmap(values: ArrayLike, low: float = 0.0, high: float = 1.0) -> NDArray[np.uint8]:
    """Colour (H, W) values from `low` (black) through purple and orange to `high` (pale yellow); NaN is grey."""
    values = np.asarray(values, dtype=np.float64)
    position = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1) * (len(HEAT) - 1)  # (H, W)
    colours = [np.interp(position, np.arange(len(HEAT)), HEAT[:, c]) for c in range(3)]
    rgb = np.rint(np.stack(colours, axis=-1)).astype(np.uint8)  # (H, W, 3)
    rgb[np.isnan(values)] = 128
    return rgb


def overlay(
    image: ArrayLike,
    target: ArrayLike | None = None,
    pred: ArrayLike | None = None,
    *,
    scale: int = 1,
    by_class: bool = False,
) -> NDArray[np.uint8]:
    """Draw the outline of the target in green and of the prediction in orange.

    The target's line runs just outside its pixels and the prediction's just inside, so a perfect prediction
    shows two touching lines and a small lesion is not painted over.

    Args:
        target, pred: (H, W) maps; a pixel belongs to the region where the value is above 0.5.
        scale: enlarge by this whole factor first, so that the lines are thin: (scale*H, scale*W, 3).
        by_class: both are label maps, and each line has the colour of its class (`class_colour`): outside for the
            target, inside for the prediction.
    """
    rgb = enlarge(to_rgb(image), scale)
    for region, colour, outside in ((target, TARGET, True), (pred, PRED, False)):
        if region is None:
            continue
        labels = enlarge(np.asarray(region), scale)  # (scale*H, scale*W)
        if by_class:
            for k in np.unique(labels[labels > 0]).astype(int).tolist():
                rgb[outline(labels == k, outside=outside)] = class_colour(k)
        else:
            rgb[outline(labels > 0.5, outside=outside)] = colour
    return rgb


def class_colour(k: int) -> tuple[int, int, int]:
    """The colour of class k, counted from 1: those of `SERIES`, then hues far apart."""
    if k < len(SERIES):  # except its last, a grey like the image
        return SERIES[k - 1]
    red, green, blue = colorsys.hsv_to_rgb(k * 0.618 % 1, 0.65, 1)  # steps of the golden ratio
    return round(255 * red), round(255 * green), round(255 * blue)


def class_picture(labels: ArrayLike) -> NDArray[np.uint8]:
    """(H, W) label map -> (H, W, 3): each class in its colour on black."""
    labels = np.asarray(labels).astype(np.int64)
    palette = np.array([(0, 0, 0), *map(class_colour, range(1, labels.max(initial=0) + 1))], np.uint8)
    return palette[labels]


def enlarge(array: NDArray, scale: int) -> NDArray:
    """Each pixel becomes a block of scale x scale pixels; always a copy."""
    return array.repeat(scale, axis=0).repeat(scale, axis=1)


def outline(region: NDArray[np.bool_], *, outside: bool) -> NDArray[np.bool_]:
    """Pixels that touch the border of a region (H, W): its outer neighbours, or its own outermost pixels."""
    inner = ~region if outside else region
    other = np.pad(~inner, 1)  # beyond the picture there is no border to draw
    touches = other[:-2, 1:-1] | other[2:, 1:-1] | other[1:-1, :-2] | other[1:-1, 2:]
    return inner & touches


def error_map(target: ArrayLike, pred: ArrayLike, *, by_class: bool = False) -> NDArray[np.uint8]:
    """(H, W) maps -> colours: found green, false alarm orange, missed blue, true background black.

    With `by_class` they are label maps, and lesion pixels assigned to another class are purple.
    """
    confused = by_class & (np.asarray(target) != pred)
    target, pred = np.asarray(target) > 0.5, np.asarray(pred) > 0.5
    rgb = np.zeros((*target.shape, 3), np.uint8)
    rgb[target & pred], rgb[~target & pred], rgb[target & ~pred] = TARGET, PRED, MISSED
    rgb[target & pred & confused] = CONFUSED
    return rgb


def label_map(labels: ArrayLike, *, cell: int = 16, text: bool = True) -> Image.Image:
    """Draw a small grid of whole numbers (H, W): one coloured square of `cell` pixels each, with its number.

    Equal numbers have equal colours, and a dark line runs where neighbours differ.
    """
    labels = np.asarray(labels).astype(np.int64)
    H, W = labels.shape
    palette = np.array([(245, 245, 245), *(((2 * np.array(c) + 3 * 255) / 5) for c in SERIES)]).astype(np.uint8)
    picture = Image.fromarray(enlarge(palette[labels % len(palette)], cell))
    draw = ImageDraw.Draw(picture)
    for i in range(H):
        for j in range(W):
            x, y = j * cell, i * cell
            if text:
                draw.text((x + cell / 2, y + cell / 2), str(labels[i, j]), INK, font(0.55 * cell), anchor="mm")
            if j and labels[i, j] != labels[i, j - 1]:
                draw.line((x, y, x, y + cell), INK, width=2)
            if i and labels[i, j] != labels[i - 1, j]:
                draw.line((x, y, x + cell, y), INK, width=2)
    draw.rectangle((0, 0, W * cell - 1, H * cell - 1), outline=INK)
    return picture


def font(size: float) -> Font:
    """The font that comes with Pillow, so every machine has it; size in pixels."""
    return ImageFont.load_default(size=max(6, round(size)))


# ---- many pictures -----------------------------------------------------------------------------------------


def contact_sheet(
    rows: Sequence[Sequence[ArrayLike | Image.Image | None]],
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    scale: int = 1,
    font_size: int = 13,
) -> Image.Image:
    """Arrange pictures in rows and columns on white.

    Args:
        rows: pictures of any sizes; None leaves a gap.
        row_labels: text to the left of each row; may hold line breaks.
        column_labels: text above each column.
        captions: text under each picture, in the same layout as `rows`.
        scale: enlarge each picture by this whole factor.
        font_size: of all text, in pixels.
    """
    tiles = [[None if t is None else Image.fromarray(enlarge(to_rgb(t), scale)) for t in row] for row in rows]
    gap, text = 6, font(font_size)
    widths = column_widths(tiles, column_labels or [], captions, text)
    heights = [max((t.height for t in row if t), default=0) for row in tiles]
    under = [
        max((text_size(w, text)[1] + 2 for w in captions[r]), default=0) if captions else 0 for r in range(len(rows))
    ]
    left = gap + max((text_size(words, text)[0] + gap for words in row_labels or []), default=0)
    top = gap + (max(text_size(words, text)[1] for words in column_labels) + gap if column_labels else 0)
    size = (left + sum(widths) + gap * len(widths), top + sum(heights) + sum(under) + gap * len(rows))

    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for c, words in enumerate(column_labels or []):
        x = left + sum(widths[:c]) + gap * c + widths[c] / 2
        draw.multiline_text((x, top - gap), words, INK, text, anchor="md", align="center")
    for r, row in enumerate(tiles):
        y = top + sum(heights[:r]) + sum(under[:r]) + gap * r
        if row_labels:
            draw.multiline_text((gap, y + heights[r] / 2), row_labels[r], INK, text, anchor="lm")
        for c, tile in enumerate(row):
            x = left + sum(widths[:c]) + gap * c
            if tile:
                sheet.paste(tile, (x + (widths[c] - tile.width) // 2, y))
            if captions:
                place = (x + widths[c] / 2, y + heights[r] + 2)
                draw.multiline_text(place, captions[r][c], INK, text, anchor="ma", align="center")
    return sheet


def column_widths(
    tiles: Sequence[Sequence[Image.Image | None]],
    column_labels: Sequence[str],
    captions: Sequence[Sequence[str]] | None,
    text: Font,
) -> list[int]:
    """The width in pixels of each column of a `contact_sheet`: that of its widest picture, caption or label."""
    widths = [0] * max((len(row) for row in tiles), default=0)
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            words = captions[r][c] if captions else ""
            widths[c] = max(widths[c], tile.width if tile else 0, text_size(words, text)[0])
    for c, words in enumerate(column_labels):
        widths[c] = max(widths[c], text_size(words, text)[0])
    return widths


def text_size(words: str, text: Font) -> tuple[int, int]:
    """(width, height) in pixels that `multiline_text` needs."""
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), words, text)
    return math.ceil(box[2]), math.ceil(box[3])


def prediction_sheet(
    rows: Sequence[tuple[str, ArrayLike | None, ArrayLike, ArrayLike]],
    *,
    threshold: float = 0.5,
    scale: int = 1,
    font_size: int = 13,
    classes: Sequence[str] = (),
) -> Image.Image:
    """Show predictions of a network, one slice per row.

    Args:
        rows: (caption, image, target, probs), each (H, W). If every image is None, the sheet shows only target,
            probability and errors: results can be shown without the images they come from.
        threshold: the prediction is where probs > threshold.
        scale: enlarge by this whole factor.
        font_size: of all text, in pixels.
        classes: names of lesion classes, if there are several. Then each target is a label map (H, W) and probs are
            (K, H, W), whose largest value at each pixel is shown; the outlines have the colours of the classes.
    """
    by_class = len(classes) > 1
    with_images = any(image is not None for _, image, _, _ in rows)
    columns = ["image", "target", "prediction"] if with_images else ["target"]
    errors = "errors: green found,\norange false alarm,\nblue missed"
    columns += ["probability", errors + ",\npurple other class" * by_class]
    sheet = []
    for _, image, target, probs in rows:
        target, probs = np.asarray(target, dtype=np.float64), np.asarray(probs, dtype=np.float64)
        pred = to_labels(probs, threshold) if by_class else probs > threshold
        tiles: list[NDArray[np.uint8] | None]
        if not with_images:
            tiles = [enlarge(class_picture(target) if by_class else to_rgb(target), scale)]
        elif image is None:
            tiles = [None, None, None]
        else:
            outlines = ((), (target,), (None, pred))
            tiles = [overlay(image, *maps, scale=scale, by_class=by_class) for maps in outlines]
        heat = heatmap(probs.max(axis=0) if by_class else probs)
        sheet.append([*tiles, enlarge(heat, scale), enlarge(error_map(target, pred, by_class=by_class), scale)])
    picture = contact_sheet(sheet, row_labels=[row[0] for row in rows], column_labels=columns, font_size=font_size)
    return with_legend(picture, classes, font_size) if by_class else picture


def with_legend(picture: Image.Image, classes: Sequence[str], font_size: int = 13) -> Image.Image:
    """The picture with a legend below it: each class with its colour, in as many lines as needed."""
    text, gap, swatch = font(font_size), 6, font_size - 1
    entries, x, y = [], gap, gap  # (left, top, name)
    for name in classes:
        width = 2 * swatch + gap + text_size(name, text)[0]
        if x > gap and x + width > picture.width:
            x, y = gap, y + 2 * swatch
        entries.append((x, y, name))
        x += width
    room = max(picture.width, *(x + 2 * swatch + text_size(name, text)[0] for x, _, name in entries))
    sheet = Image.new("RGB", (room, picture.height + y + 2 * swatch), "white")
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for k, (x, y, name) in enumerate(entries, start=1):
        top = picture.height + y
        draw.rectangle((x, top, x + swatch, top + swatch), class_colour(k))
        draw.text((x + swatch + gap / 2, top + swatch / 2), name, INK, text, anchor="lm")
    return sheet
