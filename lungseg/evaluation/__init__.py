"""How good a prediction is: metrics, scores per image, detected lesions, tables, and baselines without a network."""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.evaluation.lesions import match_lesions as match_lesions
    from lungseg.evaluation.metrics import (
        class_counts as class_counts,
        confusion_counts as confusion_counts,
        hausdorff95 as hausdorff95,
        per_image as per_image,
        pooled as pooled,
        summarise as summarise,
        summarise_classes as summarise_classes,
    )
    from lungseg.evaluation.ranking import roc_auc as roc_auc
    from lungseg.evaluation.scores import ImageScore as ImageScore, score_all as score_all, score_image as score_image
    from lungseg.evaluation.tables import markdown_table as markdown_table, write_csv as write_csv

_EXPORTS = {
    "lesions": ("match_lesions",),
    "metrics": (
        "class_counts",
        "confusion_counts",
        "hausdorff95",
        "per_image",
        "pooled",
        "summarise",
        "summarise_classes",
    ),
    "ranking": ("roc_auc",),
    "scores": ("ImageScore", "score_all", "score_image"),
    "tables": ("markdown_table", "write_csv"),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
