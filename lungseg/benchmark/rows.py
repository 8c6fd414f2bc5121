"""A row of the benchmark: what was measured of one work, as a line of a Markdown table."""

from dataclasses import dataclass

from lungseg.benchmark.costs import Costs
from lungseg.benchmark.limits import Limits
from lungseg.benchmark.timing import Spread

COLUMNS = ("row", "median ms", "10 % to 90 %", "calls", "per second", "peak MB", "GFLOP", "of the limit", "bound by")


@dataclass(frozen=True)
class Row:
    """One work.

    Attributes:
        name: what was done, "swin forward b8".
        seconds: of each call.
        items: images, slices, ... of a call, for the column "per second".
        peak: bytes; None is unknown.
        costs: what had to be computed; None for work outside torch.
        limits: of the machine, in the number type of the row.
        moved: bytes that work outside torch has to read and write; 0 is unknown.
    """

    name: str
    seconds: Spread
    items: int
    peak: int | None
    limits: Limits
    costs: Costs | None = None
    moved: int = 0

    def cells(self) -> tuple[str, ...]:
        """The texts of the columns."""
        times, flops = self.seconds, self.costs.flops if self.costs else 0
        share, bound = self.bound()
        return (
            self.name,
            milliseconds(times.median),
            f"{milliseconds(times.low)} to {milliseconds(times.high)}",
            str(len(times.values)),
            f"{self.items / times.median:,.1f}",
            megabytes(self.peak),
            f"{flops / 1e9:,.3g}" if flops else "–",
            "–" if share is None else f"{share:.0%}",
            bound,
        )

    def bound(self) -> tuple[float | None, str]:
        """The least time as a share of the median, and what it consists of: "matmul 80 %, copy 20 %"."""
        if self.costs is None:
            share = self.moved / self.limits.copy / self.seconds.median if self.moved else None
            return share, "–" if share is None else "copy"
        least = self.costs.least(self.limits)
        total = sum(least.values())
        parts = [f"{kind} {seconds / total:.0%}" for kind, seconds in least.items() if total and seconds >= total / 100]
        return total / self.seconds.median, ", ".join(parts) or "–"


def milliseconds(seconds: float) -> str:
    """Three digits: "0.512", "12.3", "1,230"."""
    ms = 1000 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:,.0f}"


def table_line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def table_head(columns: tuple[str, ...] = COLUMNS) -> str:
    """The two lines above the rows."""
    return f"{table_line(columns)}\n|{'---|' * len(columns)}"
