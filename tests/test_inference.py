"""Sliding windows against a loop that knows no grids; and the promises: no seams, one window exact, bounded memory."""

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from torch import nn

from lungseg.inference import (
    SKIPPED,
    SlidingWindow,
    WindowCount,
    blending_weights,
    resize_logits,
    sliding_window,
    window_starts,
)
from lungseg.losses import bce_loss
from lungseg.training.step import evaluate

OVERLAPS = st.sampled_from([0.0, 0.25, 0.5, 0.77]) | st.floats(0, 0.9)


@st.composite
def cases(draw, channels=1):
    """(image, window size, overlap, batch size), in 2-D or 3-D; a window may be longer than the image."""
    spatial = draw(st.lists(st.integers(1, 12), min_size=2, max_size=3))
    sides = st.integers(1, 9)
    window = draw(sides | st.tuples(*[sides] * len(spatial)))
    batch, seed = draw(st.integers(1, 2)), draw(st.integers(0, 99))
    image = torch.rand(batch, channels, *spatial, generator=torch.Generator().manual_seed(seed))
    return image, window, draw(OVERLAPS), draw(st.integers(1, 5))


class Watch(nn.Module):
    """Give back what comes in, and note it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, windows):
        self.seen.append(windows.clone())
        return windows


class Slope(nn.Module):
    """Logits that depend on where in its window a pixel lies, so that windows disagree."""

    def forward(self, windows):
        place = sum(torch.arange(n).reshape(-1, *[1] * k) for k, n in enumerate(reversed(windows.shape[2:])))
        return windows.mean(dim=1, keepdim=True) * (1 + place.sqrt())


# ---- where windows lie ------------------------------------------------------------------------------------------


@given(side=st.integers(1, 200), window=st.integers(1, 200), overlap=OVERLAPS)
def test_windows_cover_the_side_evenly_and_none_is_needless(side, window, overlap):
    window = min(side, window)
    starts = window_starts(side, window, overlap)
    assert starts[0] == 0 and starts[-1] + window == side  # flush with both ends
    gaps = np.diff(starts)
    largest = max(1, math.floor(window * (1 - overlap) + 1e-9))
    assert (gaps >= 1).all() and (gaps <= largest).all() and largest <= window  # so nothing is left out
    assert len(gaps) == math.ceil((side - window) / largest)  # one fewer would leave a gap too large
    assert np.ptp(gaps) <= 1 if len(gaps) else side == window


@given(side=st.integers(1, 200), window=st.integers(1, 200), overlap=OVERLAPS)
@example(side=20, window=7, overlap=0.5)
def test_neighbours_overlap_at_least_as_asked(side, window, overlap):
    window = min(side, window)
    shared = window - np.diff(window_starts(side, window, overlap))  # pixels; of windows one pixel apart, all but one
    assert all(n >= min(overlap * window - 1e-6, window - 1) for n in shared)


def test_a_rounding_error_adds_no_windows():
    assert window_starts(side=40, window=20, overlap=0.9) == list(range(0, 21, 2))  # 20 * (1 - 0.9) < 2


@given(side=st.integers(1, 60), window=st.integers(1, 60), overlap=OVERLAPS)
def test_weights_are_positive_and_sum_to_one_at_each_pixel(side, window, overlap):
    window = min(side, window)
    starts = window_starts(side, window, overlap)
    weights = blending_weights(side, window, starts)
    assert weights.shape == (len(starts), window) and (weights > 0).all()
    total = torch.zeros(side, dtype=torch.float64)
    for start, w in zip(starts, weights, strict=True):
        total[start : start + window] += w
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_a_window_counts_most_in_its_middle_and_little_at_its_border():
    left, right = blending_weights(12, 8, [0, 4])
    assert torch.equal(left[:4], torch.ones(4)) and torch.equal(right[4:], torch.ones(4))  # nobody else is there
    assert left[4] > 0.95 and left[7] < 0.05
    assert torch.allclose(left[4:], right[:4].flip(0))
    # sigma is an eighth of the side, one pixel here: pixel 5 is 1.5 from one middle and 2.5 from the other
    assert left[5].item() == pytest.approx(1 / (1 + math.exp((1.5**2 - 2.5**2) / 2)))


# ---- what comes out ---------------------------------------------------------------------------------------------


@given(case=cases(channels=2))
@settings(max_examples=40)
def test_a_model_that_changes_nothing_gives_the_image_back(case):
    image, window, overlap, batch_size = case
    result = sliding_window(nn.Identity(), image, window, overlap=overlap, batch_size=batch_size)
    torch.testing.assert_close(result, image, rtol=1e-6, atol=1e-6)


@given(case=cases())
@settings(max_examples=40)
def test_windows_that_all_say_the_same_leave_no_seam(case):
    image, window, overlap, batch_size = case
    flat = torch.full_like(image, -7.3)
    result = sliding_window(nn.Identity(), flat, window, overlap=overlap, batch_size=batch_size)
    assert (result + 7.3).abs().max() < 7.3 * 1e-6


def blend_by_hand(image, seen, sigma=1 / 8):
    """Find each window in an image of distinct values, weigh it by an N-dimensional Gaussian, divide at the end."""
    total, weight = np.zeros(image.shape[1:]), np.zeros(image.shape[1:])
    for window in seen:
        box = tuple(
            slice(start, start + n)
            for start, n in zip(np.argwhere(image[0] == window[0].flat[0])[0], window.shape[1:], strict=True)
        )
        assert np.array_equal(image[0][box], window[0])
        square = 0
        for axis, n in zip(np.indices(window.shape[1:]), window.shape[1:], strict=True):
            square = square + ((axis - (n - 1) / 2) / (sigma * n)) ** 2
        bell = np.exp(-square / 2)
        total[box] += bell * Slope()(torch.from_numpy(window)[None]).numpy()[0, 0]
        weight[box] += bell
    return total / weight


@given(case=cases())
@settings(max_examples=40)
def test_logits_are_averaged_with_gaussian_weights(case):
    image, window, overlap, batch_size = case
    image = torch.randperm(image[0].numel()).reshape(image[:1].shape).double() / 100  # distinct: each has its place
    watch = Watch()
    sliding_window(watch, image, window, overlap=overlap, batch_size=batch_size)
    expected = blend_by_hand(image[0].numpy(), torch.cat(watch.seen).numpy())
    result = sliding_window(Slope(), image, window, overlap=overlap, batch_size=batch_size)
    torch.testing.assert_close(result[0, 0], torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@given(case=cases(), batch_size=st.integers(1, 20))
@settings(max_examples=40)
def test_neither_the_batches_nor_the_other_images_change_a_result(case, batch_size):
    image, window, overlap, other = case
    together = sliding_window(Slope(), image, window, overlap=overlap, batch_size=batch_size)
    alone = [sliding_window(Slope(), x[None], window, overlap=overlap, batch_size=other) for x in image]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(("spatial", "window"), [((20, 13), 20), ((20, 13), (32, 13)), ((6, 7, 8), (8, 8, 8))])
def test_one_window_is_the_model_itself_bit_for_bit(spatial, window):
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(spatial)](1, 3, 3, padding=1)
    image = torch.randn(5, 1, *spatial)
    assert torch.equal(sliding_window(conv, image, window, batch_size=2), conv(image))


def test_a_side_shorter_than_the_window_is_taken_whole():
    watch = Watch()
    sliding_window(watch, torch.rand(1, 1, 5, 40), 16, overlap=0)
    assert {tuple(seen.shape[2:]) for seen in watch.seen} == {(5, 16)}


def test_a_convolution_is_as_if_in_one_pass_where_windows_hold_all_it_looks_at():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).double()
    reach, window, image = 2, 16, torch.randn(1, 1, 40, 31, dtype=torch.double)
    safe = np.ones((40, 31), bool)  # no window sees it so near its border that it misses something
    for axis, side in enumerate((40, 31)):
        for start in window_starts(side, window, 0.5):
            for edge in (range(start, start + reach), range(start + window - reach, start + window)):
                inside = [p for p in edge if reach <= p < side - reach]  # at the image's own border both miss it
                np.moveaxis(safe, axis, 0)[inside] = False
    result, whole = sliding_window(net, image, window), net(image)
    assert 0.2 < safe.mean() < 1
    torch.testing.assert_close(result[0, 0][safe], whole[0, 0][safe], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(result, whole)  # elsewhere the zeros beyond a window's border show


# ---- what it costs ----------------------------------------------------------------------------------------------


@given(case=cases())
@settings(max_examples=40)
def test_the_model_is_called_on_full_batches_and_each_window_once(case):
    image, window, overlap, batch_size = case
    watch = Watch()
    sliding_window(watch, image, window, overlap=overlap, batch_size=batch_size)
    sizes = [len(seen) for seen in watch.seen]
    sides = (window,) * (image.dim() - 2) if isinstance(window, int) else window
    per_image = math.prod(
        len(window_starts(n, min(n, w), overlap)) for n, w in zip(image.shape[2:], sides, strict=True)
    )
    if per_image == 1:
        assert sizes == [len(image)]
    else:
        assert sum(sizes) == len(image) * per_image
        assert all(n == batch_size for n in sizes[:-1]) and sizes[-1] <= batch_size


def test_nothing_of_earlier_windows_is_kept():
    alive = []

    class Model(nn.Conv2d):
        def forward(self, windows):
            assert sum(ref() is not None for ref in alive) <= 2  # at most the batch before: its input and its logits
            logits = super().forward(windows)
            assert not logits.requires_grad
            alive.extend([weakref.ref(windows), weakref.ref(logits)])
            return logits

    sliding_window(Model(1, 1, 3, padding=1), torch.rand(1, 1, 64, 64), 8)
    assert len(alive) > 100


def test_under_autocast_sums_stay_float32():
    net = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(net.weight)
    nn.init.constant_(net.bias, 1 / 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = sliding_window(net, torch.rand(1, 1, 30, 30), 8, overlap=0.8)
        assert net(torch.rand(1, 1, 8, 8)).dtype == torch.bfloat16
    assert result.dtype == torch.float32
    third = torch.tensor(1 / 3).bfloat16().item()
    assert (result - third).abs().max() < 1e-6


@pytest.mark.gpu
def test_windows_go_to_the_models_device_and_the_sum_stays_on_the_images(device):
    net, image = nn.Conv2d(1, 2, 1), torch.rand(2, 1, 20, 20)
    expected = sliding_window(net, image, 8)
    result = sliding_window(net.to(device), image, 8)
    assert result.device == image.device
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)
    assert sliding_window(net, image.to(device), 8).device.type == device.type


# ---- where to search --------------------------------------------------------------------------------------------


@given(case=cases(), seed=st.integers(0, 99), share=st.sampled_from([0.003, 0.05, 1.0]))
@settings(max_examples=20)
def test_windows_that_touch_nothing_are_skipped_and_the_others_change_nothing(case, seed, share):
    image, window, overlap, batch_size = case
    where = torch.rand(image[:, 0].shape, generator=torch.Generator().manual_seed(seed)) < share
    where[0].view(-1)[seed % where[0].numel()] = True
    watch, count = Watch(), WindowCount()
    searched = {"overlap": overlap, "batch_size": batch_size, "where": where}
    sliding_window(watch, image, window, **searched, count=count)
    # Show the network the mask in place of the image: what it is shown then are the windows that were chosen.
    chosen = Watch()
    sliding_window(chosen, where[:, None].float(), window, **searched)
    assert all(seen.any() for batch in chosen.seen for seen in batch)  # and so none is computed in vain
    assert count.computed == sum(len(batch) for batch in watch.seen) == sum(len(batch) for batch in chosen.seen)
    assert all(len(batch) == batch_size for batch in watch.seen[:-1])
    result = sliding_window(Slope(), image, window, **searched)
    everywhere = sliding_window(Slope(), image, window, overlap=overlap, batch_size=batch_size)
    empty = result == SKIPPED
    assert torch.equal(result[~empty], everywhere[~empty])  # bit for bit
    assert not empty[:, 0][where].any() and empty.any() == (count.skipped > 0)


def test_what_was_skipped_has_probability_0():
    where = torch.zeros(1, 40, 8, dtype=torch.bool)
    where[0, 0, 0] = True
    result = sliding_window(nn.Identity(), torch.ones(1, 1, 40, 8), 8, where=where)
    assert torch.equal(result[0, 0, :, 0] == 1, torch.arange(40) < 4)  # row 4 is in the second window, which is skipped
    assert (result[0, 0, 4:].sigmoid() == 0).all()


@pytest.mark.parametrize("where", [torch.zeros(1, 8, 8, dtype=torch.bool), torch.ones(1, 8, 7, dtype=torch.bool)])
def test_a_mask_that_is_empty_or_of_another_size_is_refused(where):
    with pytest.raises(ValueError, match=r"where must be a mask \(B, \*spatial\) of images \(1, 1, 8, 8\)"):
        sliding_window(nn.Identity(), **GOOD, where=where)


# ---- as a network -----------------------------------------------------------------------------------------------


def test_as_a_module_it_has_the_models_mode_and_parameters_and_can_be_evaluated():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.5))
    windows, image = SlidingWindow(net, 8, overlap=0.25, batch_size=3), torch.randn(2, 1, 20, 12)
    assert not torch.equal(windows(image), windows(image))  # training: it drops out, as asked for
    target = torch.rand(2, 1, 20, 12).round()
    found = evaluate(windows, [(image, target, ["a", "b"])], bce_loss)
    assert windows.training and net.training
    expected = sliding_window(net.eval(), image, 8, overlap=0.25, batch_size=3)
    assert torch.equal(windows.eval()(image), expected)
    assert found.loss == pytest.approx(bce_loss(expected, target).item())
    assert list(windows.parameters()) == list(net.parameters())


# ---- what it refuses --------------------------------------------------------------------------------------------

GOOD = {"image": torch.zeros(1, 1, 8, 8), "window_size": 4}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"image": torch.zeros(8, 8)}, r"shape \(8, 8\), but \(B, C, H, W\)"),
        ({"image": torch.zeros(1, 1, 0, 8)}, "at least 1"),
        ({"window_size": 0}, "window_size=0"),
        ({"window_size": (4, 4, 4)}, "each of the 2 sides"),
        ({"window_size": (4, -1)}, "at least 1"),
        ({"overlap": 1.0}, r"overlap=1.0 must be in \[0, 1\)"),
        ({"overlap": -0.1}, "overlap=-0.1"),
        ({"overlap": float("nan")}, "overlap=nan"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_what_cannot_work_is_named(wrong, words):
    arguments = GOOD | wrong
    with pytest.raises(ValueError, match=words):
        sliding_window(nn.Identity(), arguments.pop("image"), arguments.pop("window_size"), **arguments)


@pytest.mark.parametrize("window", [4, 8])
def test_a_model_that_changes_the_size_is_refused_rather_than_spread_out(window):
    pooled = nn.AdaptiveAvgPool2d(1)  # its single pixel would fit every window by broadcasting
    with pytest.raises(ValueError, match=r"returned logits \(1, 1, 1, 1\) for windows|returned logits \(4, 1, 1, 1\)"):
        sliding_window(pooled, GOOD["image"], window)


# ---- volumes and a network for slices ---------------------------------------------------------------------------


class Middle(nn.Module):
    """What comes in between the lowest and the highest channel: which slices were shown, and in which order."""

    def forward(self, image):
        return (image * torch.tensor([1.0, 10.0, 100.0])[:, None, None]).sum(dim=1, keepdim=True)


def test_a_volume_is_taken_slice_by_slice_with_its_neighbours():
    volume = torch.arange(1.0, 6.0)[:, None, None].expand(5, 7, 9)  # each slice holds its number
    seen = SlidingWindow(Middle(), (4, 5), neighbours=1, batch_size=2)
    logits = seen(torch.stack([volume, volume.flip(0)])[:, None])  # (2, 1, 5, 7, 9)
    assert logits.shape == (2, 1, 5, 7, 9)
    up = [211.0, 321.0, 432.0, 543.0, 554.0]
    assert torch.allclose(logits[0, 0], torch.tensor(up)[:, None, None].expand(5, 7, 9), atol=1e-3)
    assert torch.allclose(logits[1, 0, 0], torch.tensor(455.0), atol=1e-3)  # 5, 5, 4
    alone = SlidingWindow(nn.Identity(), (4, 5))(volume[None, None])
    assert torch.allclose(alone[0, 0], volume, atol=1e-5)


def test_logits_of_resampled_images_come_back_at_the_size_of_the_images():
    logits = torch.arange(8.0).reshape(1, 1, 8, 1, 1).expand(1, 2, 8, 3, 3)
    assert resize_logits(logits, (8, 3, 3)) is logits
    back = resize_logits(logits, torch.Size((4, 3, 3)))
    assert back.shape == (1, 2, 4, 3, 3) and torch.allclose(back[0, 1, :, 1, 1], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    assert resize_logits(torch.ones(1, 1, 4, 4), (6, 3)).shape == (1, 1, 6, 3)
