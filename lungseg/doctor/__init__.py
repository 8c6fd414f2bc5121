"""Why does it not learn? Examinations of data and networks: each finding has a verdict, a likely cause and a cure."""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.doctor.examine import (
        examine_batches as examine_batches,
        examine_network as examine_network,
        examine_trained as examine_trained,
    )
    from lungseg.doctor.finding import Finding as Finding, has_fault as has_fault, report as report
    from lungseg.doctor.folder import examine_folder as examine_folder
    from lungseg.doctor.picture import input_sheet as input_sheet

_EXPORTS = {
    "examine": ("examine_batches", "examine_network", "examine_trained"),
    "finding": ("Finding", "has_fault", "report"),
    "folder": ("examine_folder",),
    "picture": ("input_sheet",),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
