"""Rows of a comparison: with a clock that says how long each side takes."""

import pytest
import torch

from lungseg.benchmark import comparison, sides
from lungseg.benchmark.comparison import COLUMNS, compare, ratio_text, weights_remark
from lungseg.benchmark.sides import Side, Subject
from lungseg.benchmark.timing import Timer
from lungseg.nn.unet import UNet

CPU, FLOAT = torch.device("cpu"), torch.float32
OURS = Subject(None, UNet, {"channels": (2, 4)})
THEIRS = Subject("p:f", UNet, {})


@pytest.fixture
def peer(monkeypatch):
    """A peer of the same sizes, with other weights."""

    def build(_):
        torch.manual_seed(1)
        return UNet(channels=(2, 4))

    monkeypatch.setattr(sides, "peer_network", build)


def test_a_row_holds_both_medians_and_the_ratio_of_theirs_to_ours(peer, monkeypatch):
    order, seconds = [], {None: iter([1.0, 2.0, 4.0]), "p:f": iter([2.0, 3.0, 8.0])}

    def time(side):
        order.append("ours" if side.subject.against is None else "theirs")
        return next(seconds[side.subject.against])

    monkeypatch.setattr(sides, "warm_up", lambda device: None)
    monkeypatch.setattr(Side, "time", time)
    monkeypatch.setattr(Side, "prepare", lambda *_: 3_000_000)
    works = [("unet forward b1", "forward", (1, 1, 8, 8), FLOAT)]
    (cells,) = compare(OURS, THEIRS, Timer(CPU, repeats=3), works, as_run=False)
    assert cells == ("unet forward b1", "2,000", "3,000", "2.00", "1.60 to 2.00", "3", "3", "3")
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"] and len(cells) == len(COLUMNS)


def test_equal_networks_differ_by_nothing_at_equal_weights(peer):
    remark = weights_remark(OURS, THEIRS, (1, 1, 8, 8), CPU)
    assert remark.startswith("At equal weights the logits differ by at most 0; the largest of theirs is ")


def test_what_the_weights_cannot_show_is_noted(peer, monkeypatch):
    monkeypatch.setattr(comparison, "give_weights", lambda *_: (True, "there may be other heads"))
    assert weights_remark(OURS, THEIRS, (1, 1, 8, 8), CPU).endswith(" (Note: there may be other heads.)")


def test_weights_that_do_not_fit_are_a_remark(monkeypatch):
    monkeypatch.setattr(sides, "peer_network", lambda _: UNet(channels=(3, 4)))
    assert weights_remark(OURS, THEIRS, (1, 1, 8, 8), CPU).startswith("Not compared at equal weights: ")


@pytest.mark.parametrize(("ratio", "text"), [(1.0, "1.00"), (12.345, "12.35"), (0.1, "0.10"), (0.0123, "0.012")])
def test_ratios_have_two_decimals_or_two_digits(ratio, text):
    assert ratio_text(ratio) == text
