"""Line charts with Pillow: curves with axes, ticks and a legend."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from lungseg.draw import GRID, INK, SERIES, font, text_size


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    size: tuple[int, int] = (640, 400),
    y_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Draw curves with axes, ticks and a legend.

    Args:
        series: name -> (x, y) points in order. A point that is NaN or infinite leaves a gap in the line.
        size: (width, height) in pixels.
        y_range: (low, high) of the y axis; None fits the data.
    """
    zoom = 2  # drawn at twice the size and shrunk, because Pillow draws jagged lines
    width, height = zoom * size[0], zoom * size[1]
    picture = Image.new("RGB", (width, height), "white")
    draw, small, large = ImageDraw.Draw(picture), font(12 * zoom), font(15 * zoom)
    points = [p for line in series.values() for p in line if np.isfinite(p).all()]
    x_low, x_high = bounds([x for x, _ in points])
    y_low, y_high = y_range or bounds([y for _, y in points])
    if y_range is None:  # up to the next round number
        y_low, *_, y_high = ticks(y_low, y_high)
    x_ticks, y_ticks = labelled_ticks(x_low, x_high), labelled_ticks(y_low, y_high)
    left = zoom * 34 + max(text_size(words, small)[0] for _, words in y_ticks)
    right = width - zoom * 40 - max((text_size(name, small)[0] for name in series), default=0)
    top, bottom = zoom * 36, height - zoom * 46

    def to_pixels(x: float, y: float) -> tuple[float, float]:
        """Data to pixels; values beyond the axes are drawn on their edge."""
        up = min(max((y - y_low) / (y_high - y_low), 0), 1)
        return left + (x - x_low) / (x_high - x_low) * (right - left), bottom - up * (bottom - top)

    for value, words in y_ticks:
        _, y = to_pixels(x_low, value)
        draw.line((left, y, right, y), GRID, width=zoom)
        draw.text((left - 5 * zoom, y), words, INK, small, anchor="rm")
    for value, words in x_ticks:
        x, _ = to_pixels(value, y_low)
        draw.line((x, bottom, x, bottom + 4 * zoom), INK, width=zoom)
        draw.text((x, bottom + 6 * zoom), words, INK, small, anchor="ma")
    draw.line((left, top, left, bottom, right, bottom), INK, width=zoom)

    for number, (name, line) in enumerate(series.items()):
        colour = SERIES[number % len(SERIES)]
        for piece in finite_pieces(line):
            pixels = [to_pixels(x, y) for x, y in piece]
            draw.line(pixels, colour, width=2 * zoom, joint="curve")
            if len(pixels) == 1:  # a line of one point would be invisible
                (x, y), r = pixels[0], 3 * zoom
                draw.ellipse((x - r, y - r, x + r, y + r), colour)
        y = top + (8 + 18 * number) * zoom  # the legend, to the right of the curves
        draw.line((right + 8 * zoom, y, right + 24 * zoom, y), colour, width=3 * zoom)
        draw.text((right + 29 * zoom, y), name, INK, small, anchor="lm")

    draw.text(((left + right) / 2, 10 * zoom), title, INK, large, anchor="ma")
    draw.text(((left + right) / 2, height - 8 * zoom), x_label, INK, small, anchor="md")
    strip = Image.new("RGB", (height, zoom * 22), "white")  # this text runs upwards: write it, then rotate it
    ImageDraw.Draw(strip).text((height - (top + bottom) / 2, zoom * 4), y_label, INK, small, anchor="ma")
    picture.paste(strip.rotate(90, expand=True), (0, 0))
    return picture.resize(size, Image.Resampling.LANCZOS)


def finite_pieces(line: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Cut a curve at its NaN and infinite points."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in line:
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append((float(x), float(y)))
        else:
            pieces.append([])
    return [piece for piece in pieces if piece]


def bounds(values: list[float]) -> tuple[float, float]:
    """(low, high) of the values, never equal; (0, 1) if there are none."""
    low, high = (float(min(values)), float(max(values))) if values else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers (steps of 1, 2 or 5 times a power of ten) that enclose [low, high]."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def labelled_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """The ticks inside [low, high], each with just as many decimals as keep neighbours apart."""
    values = ticks(low, high)
    step = values[1] - values[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(v, f"{v:.{decimals}f}") for v in values if low - 1e-9 * step <= v <= high + 1e-9 * step]
