"""The checks of cutting, rolling and padding accept every right way; mutants_networks.py holds the wrong ones."""

import pytest

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.windows import check_window_partition, check_window_reverse, check_window_round_trip
from lungseg.nn import windows


def test_ours_pass():
    check_window_round_trip(windows.window_partition, windows.window_reverse)


def test_flattened_windows_are_taken():
    check_window_partition(lambda x, window_size: windows.window_partition(x, window_size).flatten(1, 2))


def test_the_published_order_of_arguments_is_taken():
    def window_reverse(windows_, window_size, H, W):
        return windows.window_reverse(windows_, H, W)

    check_window_reverse(window_reverse)


def test_unfold_is_as_good_as_view():
    def window_partition(x, ws):
        return x.unfold(1, ws, ws).unfold(2, ws, ws).permute(0, 1, 2, 4, 5, 3).reshape(-1, ws, ws, x.shape[3])

    check_window_partition(window_partition)


def test_the_answer_names_window_image_and_numbers():
    with pytest.raises(Wrong) as wrong:
        check_window_partition(lambda x, ws: x.reshape(-1, ws, ws, x.shape[3]))
    text = str(wrong.value)
    assert "window 0 must be rows 0:2, columns 0:2 of image 0" in " ".join(text.split())
    assert "expected [1, 2, 5, 6]" in text and "yours    [1, 2, 3, 4]" in text
    assert "Read: docs/nn/windows.md" in text
