"""The table of the original report beside ours, and what its rows say about themselves (docs/report.md)."""

import math
from collections.abc import Mapping

SCORES = ("dice", "iou", "rmse", "recall")
REPORT = {  # network -> its SCORES, with the digits of its Table 3 and of what it quotes; None is not stated
    "Swin-UNet": (0.7969, 0.7143, 0.01193, 0.7927),
    "UNETR": (0.8063, 0.6772, 0.0223, 0.7727),
    "ResNet50-U-Net": (0.7558, 0.6754, 0.0147, 0.7760),
    "U-Net": (0.862, None, None, None),
    "RRC-U-Net": (0.8777, 0.7274, None, None),
}
TITLES = {"U-Net": "U-Net (quoted)", "RRC-U-Net": "RRc-UNet 3D (quoted)"}  # of what it quotes from others


def beside_the_report(ours: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table, and a paragraph on how to read it.

    Args:
        ours: name of a network -> its mean scores by the names of SCORES, or NaN. Those not in REPORT have a row too.
    """
    lines = ["| network | " + " | ".join(f"{name}: report | ours" for name in SCORES) + " |", "|---" * 9 + "|"]
    for name in {**REPORT, **ours}:
        here = [ours.get(name, {}).get(score, math.nan) for score in SCORES]
        cells = [TITLES.get(name, name)]
        for theirs, mine in zip(REPORT.get(name, (None,) * len(SCORES)), here, strict=True):
            cells += ["–" if theirs is None else f"{theirs}", "–" if math.isnan(mine) else f"{mine:.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    possible = [contradiction(TITLES.get(name, name), *theirs[:2]) for name, theirs in REPORT.items()]
    paragraph = (
        "The data differ, and so do size, training and averaging: the report's numbers (its Table 3, and what it "
        "quotes) stand here to be read, not to be beaten. For means over the same images, IoU <= Dice <= "
        "2 IoU / (1 + IoU) must hold."
    )
    return "\n".join([*lines, "", " ".join([paragraph, *possible])])


def contradiction(name: str, dice: float, iou: float | None) -> str:
    """One sentence: can this mean Dice and this mean IoU be of the same images?

    Of one image Dice = 2 IoU / (1 + IoU), which is concave: the mean Dice is at most that of the mean IoU (Jensen).
    """
    if iou is None:
        return f"{name} states no IoU."
    bound = 2 * iou / (1 + iou)
    if iou <= dice <= bound:
        return f"{name} may be: {iou} <= {dice} <= {bound:.4f}."
    return f"{name} contradicts itself: {dice} lies outside {iou} to {bound:.4f}."
