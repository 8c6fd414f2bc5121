"""Neighbouring slices as the channels of an image: which slices, in which order, also at the ends of a scan.

    channel    0 .. n - 1           n                  n + 1 .. 2n
    slice      below it (feet)      the slice itself   above it (head)

In one slice a vessel and a nodule are both discs; the slices below and above tell them apart. The target is that of the
slice itself. Where a slice has no neighbour, the last one before the gap takes its place.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lungseg.data.manifest import ORDER, ImageRecord


def stack_indices(depth: int, neighbours: int) -> NDArray[np.int64]:
    """(depth, 2n + 1) the slices of a volume that are the channels of each of its slices; at the ends, the last one.

    stack_indices(3, 1) -> [[0, 0, 1], [0, 1, 2], [1, 2, 2]]       volume[stack_indices(3, 1)] is (3, 3, H, W)
    """
    offsets = np.arange(-neighbours, neighbours + 1)
    return (np.arange(depth)[:, None] + offsets).clip(0, depth - 1)


def series_indices(records: Sequence[ImageRecord], neighbours: int) -> NDArray[np.int64]:
    """(len(records), 2n + 1) the records that are the channels of each: of its `series`, next in `slice_index`.

    A gap in the numbers ends a stack as the end of a series does. A record without a series is its own neighbour.
    """
    index_of = {(r.series, r.slice_index): i for i, r in enumerate(records) if r.series}
    stacks = np.repeat(np.arange(len(records))[:, None], 2 * neighbours + 1, axis=1)
    for i, record in enumerate(records):
        for step in (-1, 1):
            for distance in range(1, neighbours + 1):
                place = record.series, (record.slice_index or 0) + step * distance
                if place not in index_of:
                    stacks[i, neighbours + step * distance :: step] = stacks[i, neighbours + step * (distance - 1)]
                    break
                stacks[i, neighbours + step * distance] = index_of[place]
    return stacks


def check_order_known(folder: object, records: Sequence[ImageRecord]) -> None:
    """Raise a ValueError if no record has a neighbour: then further channels would only repeat the slice."""
    if (series_indices(records, 1) == np.arange(len(records))[:, None]).all():
        missing = " and ".join(ORDER)
        why = "no two slices follow each other" if any(r.series for r in records) else "it does not say which slices do"
        raise ValueError(
            f"{folder}: --neighbours needs slices that follow each other, and {why}. Write the columns {missing} into "
            f"manifest.csv (the scan, and a number that grows by 1 from slice to slice; prepare_data.py writes them "
            f"with --order-from for pictures, --series and --slice-index for tables). If names and columns do not say "
            f"the order, it cannot be found: leave out --neighbours."
        )
