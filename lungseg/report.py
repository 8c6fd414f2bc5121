"""The table of the original report beside ours, and what its rows say about themselves (docs/report.md)."""

from collections.abc import Mapping

SCORES = ("dice", "iou", "rmse", "recall")
# Its Table 3, and what it quotes from others; None is not stated.
REPORT = {
    "Swin-UNet": (0.7969, 0.7143, 0.01193, 0.7927),
    "UNETR": (0.8063, 0.6772, 0.0223, 0.7727),
    "ResNet50-U-Net": (0.7558, 0.6754, 0.0147, 0.7760),
    "U-Net (quoted)": (0.862, None, None, None),
    "RRc-UNet 3D (quoted)": (0.8777, 0.7274, None, None),
}


def beside_the_report(ours: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table, and a paragraph on how to read it.

    Args:
        ours: name of a network, as in REPORT -> its mean scores by the names of SCORES.
    """
    lines = ["| network | " + " | ".join(f"{name}: report | ours" for name in SCORES) + " |", "|---" * 9 + "|"]
    for name, theirs in REPORT.items():
        here = [ours.get(name, {}).get(score) for score in SCORES]
        cells = [number for pair in zip(theirs, here, strict=True) for number in pair]
        lines.append(f"| {name} | " + " | ".join("–" if n is None else f"{n:.4f}" for n in cells) + " |")
    return (
        "\n".join(lines)
        + "\n\n"
        + (
            "The data differ, and so do size, training and averaging: the report's numbers (its Table 3, and what it "
            "quotes) stand here to be read, not to be beaten. For means over the same images, IoU <= Dice <= "
            "2 IoU / (1 + IoU) must hold. " + " ".join(contradiction(name, *row[:2]) for name, row in REPORT.items())
        )
    )


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
