"""How fast is it, on which machine, and why not faster? Times, peak memory, and shares of the machine's own limits."""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.benchmark.costs import Costs as Costs, count_costs as count_costs
    from lungseg.benchmark.limits import Limits as Limits, measure_limits as measure_limits
    from lungseg.benchmark.memory import PeakMemory as PeakMemory
    from lungseg.benchmark.timing import Spread as Spread, Timer as Timer

_EXPORTS = {
    "costs": ("Costs", "count_costs"),
    "limits": ("Limits", "measure_limits"),
    "memory": ("PeakMemory",),
    "timing": ("Spread", "Timer"),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
