"""Charts with Pillow: curves, and bars with intervals, with axes, ticks and a legend."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lungseg.draw import GRID, INK, SERIES, font, text_size

ZOOM = 4  # charts are drawn larger by this factor and shrunk, because Pillow draws jagged lines


@dataclass(frozen=True)
class Axes:
    """Where the data are in a picture: the ranges of both axes, and the box between them in pixels."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: int
    right: int
    top: int
    bottom: int
    log: str = ""  # the axes whose values are log10 of what their ticks say: "", "x", "y" or "xy"

    def to_pixels(self, x: float, y: float) -> tuple[float, float]:
        """Data to pixels; values above or below the y axis are drawn on its ends."""
        (x_low, x_high), (y_low, y_high) = self.x_range, self.y_range
        right = (x - x_low) / (x_high - x_low)
        up = min(max((y - y_low) / (y_high - y_low), 0), 1)
        return self.left + right * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    size: tuple[int, int] = (640, 400),
    y_range: tuple[float, float] | None = None,
    log: str = "",
    scale: int = 1,
) -> Image.Image:
    """Draw curves with axes, ticks and a legend.

    Args:
        series: name -> (x, y) points in order. A point that is NaN or infinite leaves a gap in the line.
        size: (width, height) in pixels, of a chart whose text is 12 pixels high.
        y_range: (low, high) of the y axis; None fits the data.
        log: "x", "y" or "xy": the axes on which equal distances are equal ratios. There, a value that is not positive
            leaves a gap.
        scale: enlarge everything by this whole factor, up to ZOOM.
    """
    if log:
        series = {name: [to_log(point, log) for point in line] for name, line in series.items()}
        y_range = (math.log10(y_range[0]), math.log10(y_range[1])) if y_range and "y" in log else y_range
    width, height = ZOOM * size[0], ZOOM * size[1]
    picture = Image.new("RGB", (width, height), "white")
    draw, small, large = ImageDraw.Draw(picture), font(12 * ZOOM), font(15 * ZOOM)
    axes = place_axes(series, y_range, width, height, log)
    draw_axes(draw, axes)
    for number, (name, line) in enumerate(series.items()):
        colour = SERIES[number % len(SERIES)]
        draw_curve(draw, axes, line, colour)
        y = axes.top + (8 + 18 * number) * ZOOM  # the legend, to the right of the curves
        draw.line((axes.right + 8 * ZOOM, y, axes.right + 24 * ZOOM, y), colour, width=3 * ZOOM)
        draw.text((axes.right + 29 * ZOOM, y), name, INK, small, anchor="lm")
    middle = (axes.left + axes.right) / 2
    draw.text((middle, 10 * ZOOM), title, INK, large, anchor="ma")
    draw.text((middle, height - 8 * ZOOM), x_label, INK, small, anchor="md")
    strip = Image.new("RGB", (height, ZOOM * 22), "white")  # this text runs upwards: write it, then rotate it
    place = height - (axes.top + axes.bottom) / 2, ZOOM * 4
    ImageDraw.Draw(strip).text(place, y_label, INK, small, anchor="ma")
    picture.paste(strip.rotate(90, expand=True), (0, 0))
    return picture.resize((scale * size[0], scale * size[1]), Image.Resampling.LANCZOS)


def bar_chart(
    groups: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    title: str = "",
    x_label: str = "",
    size: tuple[int, int] = (800, 400),
    x_range: tuple[float, float] = (0.0, 1.0),
    scale: int = 1,
) -> Image.Image:
    """Draw horizontal bars in groups, each with its interval and its value.

    Args:
        groups: name of the group, which may hold line breaks -> name of the bar -> (value, low, high). The same bars in
            every group, each with its colour in the legend. No bar is drawn where the value is NaN, and no interval
            where low is NaN.
        size: (width, height) in pixels, of a chart whose text is 14 pixels high.
        x_range: (low, high) of the axis; bars begin at its low end.
        scale: enlarge everything by this whole factor, up to ZOOM.
    """
    width, height = ZOOM * size[0], ZOOM * size[1]
    picture = Image.new("RGB", (width, height), "white")
    draw, text = ImageDraw.Draw(picture), font(14 * ZOOM)
    left = ZOOM * 20 + max((text_size(name, text)[0] for name in groups), default=0)
    axes = Axes(x_range, (max(1, len(groups)), 0), left, width - ZOOM * 64, top=ZOOM * 66, bottom=height - ZOOM * 54)
    for value, words in labelled_ticks(*x_range):
        x, _ = axes.to_pixels(value, 0)
        draw.line((x, axes.top, x, axes.bottom), GRID, width=ZOOM)
        draw.text((x, axes.bottom + 6 * ZOOM), words, INK, text, anchor="ma")
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    draw_legend(draw, names, axes.left)
    for row, (group, bars) in enumerate(groups.items()):
        _, middle = axes.to_pixels(x_range[0], row + 0.5)
        draw.multiline_text((left - 10 * ZOOM, middle), group, INK, text, anchor="rm", align="right")
        for number, name in enumerate(names):
            draw_bar(draw, axes, bars[name], row + 0.1 + 0.8 * number / len(names), 0.8 / len(names), number)
    draw.line((axes.left, axes.top, axes.left, axes.bottom), INK, width=ZOOM)
    draw.text(((axes.left + axes.right) / 2, 10 * ZOOM), title, INK, font(17 * ZOOM), anchor="ma")
    draw.text(((axes.left + axes.right) / 2, height - 6 * ZOOM), x_label, INK, text, anchor="md")
    return picture.resize((scale * size[0], scale * size[1]), Image.Resampling.LANCZOS)


def draw_legend(draw: ImageDraw.ImageDraw, names: Sequence[str], x: int) -> None:
    """The names of the bars in one line above them, from x on, each behind its colour."""
    text = font(14 * ZOOM)
    for number, name in enumerate(names):
        draw.rectangle((x, 44 * ZOOM, x + 14 * ZOOM, 58 * ZOOM), SERIES[number % len(SERIES)])
        draw.text((x + 20 * ZOOM, 51 * ZOOM), name, INK, text, anchor="lm")
        x += 44 * ZOOM + text_size(name, text)[0]


def draw_bar(
    draw: ImageDraw.ImageDraw, axes: Axes, bar: tuple[float, float, float], y: float, thickness: float, number: int
) -> None:
    """One horizontal bar from y to y + thickness, in units of the axis; its interval, and its value to the right."""
    value, low, high = bar
    if math.isnan(value):
        return
    (x, top), (_, bottom) = axes.to_pixels(value, y), axes.to_pixels(value, y + 0.92 * thickness)
    draw.rectangle((axes.left, top, max(x, axes.left), bottom), SERIES[number % len(SERIES)])
    middle, right = (top + bottom) / 2, x
    if not math.isnan(low):
        start, right = axes.to_pixels(low, y)[0], axes.to_pixels(high, y)[0]
        draw.line((start, middle, right, middle), INK, width=2 * ZOOM)
        for end in (start, right):
            draw.line((end, middle - 5 * ZOOM, end, middle + 5 * ZOOM), INK, width=2 * ZOOM)
    draw.text((right + 8 * ZOOM, middle), f"{value:.2f}", INK, font(14 * ZOOM), anchor="lm")


def place_axes(
    series: Mapping[str, Sequence[tuple[float, float]]],
    y_range: tuple[float, float] | None,
    width: int,
    height: int,
    log: str = "",
) -> Axes:
    """Axes that hold all points, with room for the tick labels on the left and the legend on the right."""
    points = [p for line in series.values() for p in line if np.isfinite(p).all()]
    x_range = bounds([x for x, _ in points])
    if y_range is None:
        y_range = bounds([y for _, y in points])
        if "y" not in log:  # up to the next round number
            low, *_, high = ticks(*y_range)
            y_range = low, high
    small = font(12 * ZOOM)
    labelled = log_ticks(*y_range) if "y" in log else labelled_ticks(*y_range)
    left = ZOOM * 34 + max((text_size(words, small)[0] for _, words in labelled), default=0)
    right = width - ZOOM * 40 - max((text_size(name, small)[0] for name in series), default=0)
    return Axes(x_range, y_range, left, right, top=ZOOM * 36, bottom=height - ZOOM * 46, log=log)


def draw_axes(draw: ImageDraw.ImageDraw, axes: Axes) -> None:
    """Both axes with their labelled ticks, and a grid line at each tick of the y axis."""
    small = font(12 * ZOOM)
    for value, words in log_ticks(*axes.y_range) if "y" in axes.log else labelled_ticks(*axes.y_range):
        _, y = axes.to_pixels(axes.x_range[0], value)
        draw.line((axes.left, y, axes.right, y), GRID, width=ZOOM)
        draw.text((axes.left - 5 * ZOOM, y), words, INK, small, anchor="rm")
    for value, words in log_ticks(*axes.x_range) if "x" in axes.log else labelled_ticks(*axes.x_range):
        x, _ = axes.to_pixels(value, axes.y_range[0])
        draw.line((x, axes.bottom, x, axes.bottom + 4 * ZOOM), INK, width=ZOOM)
        draw.text((x, axes.bottom + 6 * ZOOM), words, INK, small, anchor="ma")
    draw.line((axes.left, axes.top, axes.left, axes.bottom, axes.right, axes.bottom), INK, width=ZOOM)


def draw_curve(
    draw: ImageDraw.ImageDraw, axes: Axes, line: Sequence[tuple[float, float]], colour: tuple[int, int, int]
) -> None:
    """One line through finite points; a point with gaps on both sides is a dot."""
    for piece in finite_pieces(line):
        pixels = [axes.to_pixels(x, y) for x, y in piece]
        draw.line(pixels, colour, width=2 * ZOOM, joint="curve")
        if len(pixels) == 1:  # a line of one point would be invisible
            (x, y), r = pixels[0], 3 * ZOOM
            draw.ellipse((x - r, y - r, x + r, y + r), colour)


def finite_pieces(line: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Cut a curve at its NaN and infinite points."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in line:
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append((float(x), float(y)))
        else:
            pieces.append([])
    return [piece for piece in pieces if piece]


def to_log(point: tuple[float, float], log: str) -> tuple[float, float]:
    """The point with log10 of its values on the axes named in `log`; NaN for a value that has none."""
    x, y = (math.log10(v) if axis in log and v > 0 else math.nan if axis in log else v
            for axis, v in zip("xy", point, strict=True))  # fmt: skip
    return x, y


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 2 and 5 times the powers of ten in [10**low, 10**high], or over more than three decades the powers alone."""
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    values = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    return [(math.log10(v), f"{v:g}") for v in values if low - 1e-9 <= math.log10(v) <= high + 1e-9]


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
