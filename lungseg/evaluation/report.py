"""The scores that the original report states and quotes, next to ours.

print(report_table({"U-Net": {"dice": 0.79, "iou": 0.70, "rmse": 0.09, "recall": 0.82}}))
"""

import math
from collections.abc import Mapping, Sequence

from lungseg.evaluation.comparison import dice_iou_remark

SCORES = ("dice", "iou", "rmse", "recall")
Stated = Sequence[float | None]  # one per score, with the digits of the report; None: not stated

SLICES: dict[str, Stated] = {  # Table 3 of the report, and what it quotes
    "Swin-UNet": (0.7969, 0.7143, 0.01193, 0.7927),
    "UNETR": (0.8063, 0.6772, 0.0223, 0.7727),
    "ResNet50-U-Net": (0.7558, 0.6754, 0.0147, 0.7760),
    "U-Net": (0.862, None, None, None),
    "RRC-U-Net": (0.8777, 0.7274, None, None),
}
VOLUMES: dict[str, Stated] = {"RRC-U-Net 3-D": SLICES["RRC-U-Net"]}  # Table 4: the only row that is about volumes
TITLES = {
    "U-Net": "U-Net (quoted)",
    "RRC-U-Net": "RRc-UNet 3D (quoted)",
    "RRC-U-Net 3-D": "RRC-U-Net 3-D (report: RRc-UNet 3D, quoted)",
}
DIFFERS = (
    "Data, size, training and averaging differ, so the numbers of the report (its Table 3, and what it quotes) are no "
    "target to beat."
)
DIFFERS_3D = (
    "The report quotes RRc-UNet 3D from another paper, in its Table 4. It does not say which scans were segmented, "
    "whole or in pieces around a lesion, whether its Dice is a mean over volumes or pooled, nor whether patients were "
    "kept apart; and our network is our reading of its name. So the two numbers stand side by side, and neither "
    "confirms the other."
)


def report_table(ours: Mapping[str, Mapping[str, float]], *, volumes: bool = False) -> str:
    """The table of the original report next to ours, in Markdown, and a paragraph on how to read it.

    Args:
        ours: name of a network -> its mean scores by the names of SCORES, or NaN. Networks not in the report get a row
            too.
        volumes: ours are scores of volumes.
    """
    report, differs = (VOLUMES, DIFFERS_3D) if volumes else (SLICES, DIFFERS)
    lines = ["| network | " + " | ".join(f"{name}: report | ours" for name in SCORES) + " |", "|---" * 9 + "|"]
    for name in {**report, **ours}:
        here = [ours.get(name, {}).get(score, math.nan) for score in SCORES]
        cells = [TITLES.get(name, name) if name in report else name]
        for theirs, mine in zip(report.get(name, (None,) * len(SCORES)), here, strict=True):
            cells += ["–" if theirs is None else f"{theirs}", "–" if math.isnan(mine) else f"{mine:.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    stated = [(TITLES.get(name, name), dice, iou) for name, (dice, iou, *_) in report.items() if dice is not None]
    remarks = [dice_iou_remark(*row) for row in stated]
    paragraph = f"{differs} For means over the same images, IoU <= Dice <= 2 IoU / (1 + IoU) must hold."
    return "\n".join([*lines, "", " ".join([paragraph, *remarks])])
