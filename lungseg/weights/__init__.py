"""Checkpoints, published or your own, into our networks, with a report of what became of each tensor."""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.weights.load import LoadReport as LoadReport, load_published as load_published

_EXPORTS = {
    "load": ("LoadReport", "load_published"),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
