"""One of our networks beside another implementation: times in turn, ratio, and difference at equal weights."""

from collections.abc import Callable, Iterator, Sequence

import torch

from lungseg.benchmark.peers import check_output, give_weights, largest_difference, peer_code
from lungseg.benchmark.rows import megabytes, milliseconds
from lungseg.benchmark.sides import Kind, Subject, two_sides
from lungseg.benchmark.timing import Timer
from lungseg.benchmark.works import random_image

COLUMNS = ("row", "ours ms", "theirs ms", "theirs / ours", "10 % to 90 %", "rounds", "peak MB, ours", "theirs")


def weights_remark(ours: Subject, theirs: Subject, shape: tuple[int, ...], device: torch.device) -> str:
    """Check that both take an image (B, C, *spatial) alike, and say how far their logits are apart at equal weights.

    Raises:
        ValueError: if the peer cannot be built, fails on the image, or returns another shape.
    """
    assert theirs.against is not None
    mine, peer = ours.build(device).eval(), theirs.build(device).eval()
    image = random_image(shape, device)
    check_output(theirs.against, peer, mine, image)
    fit, remark = give_weights(mine, peer)
    if not fit:
        return f"Not compared at equal weights: {remark}"
    with peer_code(theirs.against, "fails with other weights or when it is called again"):
        difference, largest = largest_difference(mine, peer, image)
    equal = f"At equal weights the logits differ by at most {difference:.2g}; the largest of theirs is {largest:.3g}."
    return f"{equal} (Note: {remark}.)" if remark else equal


def compare(
    ours: Subject,
    theirs: Subject,
    timer: Timer,
    works: Sequence[tuple[str, Kind, tuple[int, ...], torch.dtype]],
    *,
    as_run: bool,
) -> Iterator[tuple[str, ...]]:
    """The cells of one row after the other (`COLUMNS`).

    Args:
        works: name of the row, kind of work, shape of the images, number type.
        as_run: each side in its own process (`lungseg.benchmark.sides`).
    """
    with two_sides(ours, theirs, timer, as_run=as_run) as sides:
        for name, kind, shape, dtype in works:
            peaks = {whose: side.prepare(kind, shape, dtype) for whose, side in sides.items()}
            measures: dict[str, Callable[[], float]] = {whose: side.time for whose, side in sides.items()}
            seconds = timer.rounds(measures)
            ratio = seconds["theirs"].over(seconds["ours"])
            yield (
                name,
                milliseconds(seconds["ours"].median),
                milliseconds(seconds["theirs"].median),
                ratio_text(ratio.median),
                f"{ratio_text(ratio.low)} to {ratio_text(ratio.high)}",
                str(len(ratio.values)),
                *map(megabytes, (peaks["ours"], peaks["theirs"])),
            )


def ratio_text(ratio: float) -> str:
    """Two decimals, of a small ratio two digits: "1.10", "0.034"."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
