"""In parts as at once: the same labels and probabilities, whatever the size of the parts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lungseg.checkpoint import InputSpec
from lungseg.nn.unet import UNet
from lungseg.predictor import Predictor
from lungseg.scan_prediction import LEVELS, predict_in_parts


def predictor_for(dims, num_classes=1, batch_size=3):
    torch.manual_seed(0)
    network = UNet(channels=(2, 4), spatial_dims=dims, num_classes=num_classes).eval()
    classes = ("solid", "cyst") if num_classes == 2 else ()
    about = InputSpec((8,) * dims, (1.0,) * dims, (-1000.0, 400.0), None, classes=classes)
    return Predictor(network, about, batch_size=batch_size)


@settings(max_examples=10, deadline=None)
@given(
    dims=st.sampled_from([2, 3]),
    num_classes=st.sampled_from([1, 2]),
    shape=st.tuples(st.integers(1, 5), st.integers(4, 12), st.integers(4, 12)),
    batch_size=st.integers(1, 6),
)
def test_labels_and_probabilities_are_those_of_the_whole(dims, num_classes, shape, batch_size):
    predictor = predictor_for(dims, num_classes, batch_size)
    hu = np.random.default_rng(0).integers(-1000, 400, shape).astype(np.int16)
    probs = predictor.probs(predictor.grey(hu))
    threshold = float(np.median(probs))
    labels, levels = predict_in_parts(predictor, hu, None, threshold, each_class=True)
    of_classes = probs if num_classes == 2 else probs[None]
    assert labels.dtype == np.uint8 and levels.dtype == np.uint16 and levels.shape == of_classes.shape
    assert np.abs(levels / LEVELS - of_classes).max() < 1 / LEVELS
    sure = np.abs(predictor.any_class(probs) - threshold) > 1e-5  # sums in another order differ in the last digits
    assert np.array_equal(labels[sure], predictor.labels(probs, threshold)[sure])
    _, largest = predict_in_parts(predictor, hu, None, threshold)
    assert np.array_equal(largest[0], levels.max(axis=0))


def test_a_slice_is_one_part():
    predictor = predictor_for(2)
    hu = np.random.default_rng(1).integers(-1000, 400, (9, 11)).astype(np.int16)
    labels, levels = predict_in_parts(predictor, hu, None, 0.5)
    assert np.abs(levels[0] / LEVELS - predictor.probs(predictor.grey(hu))).max() < 1 / LEVELS
    assert labels.shape == hu.shape


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_with_context_each_slice_sees_its_neighbours_whatever_the_parts(batch_size):
    class Neighbours:
        """Each slice is the mean of itself and the slices beside it."""

        spatial_dims, classes = 2, ()

        def __init__(self):
            self.batch_size = batch_size

        def grey(self, hu):
            return hu.astype(np.float32)

        def probs(self, grey, scale, inner):
            assert len(grey) <= batch_size + 2  # never more of the scan than that
            assert 1 <= len(grey[inner]) <= batch_size
            padded = np.pad(grey, [(1, 1), (0, 0), (0, 0)], mode="edge")
            return ((padded[:-2] + padded[1:-1] + padded[2:]) / 3)[inner]

        def labels(self, probs, threshold):
            return (probs > threshold).astype(np.uint8)

        def any_class(self, probs):
            return probs

    scan = np.random.default_rng(2).random((7, 3, 2)).astype(np.float32)
    _, levels = predict_in_parts(Neighbours(), scan, None, 0.5, context=1)
    padded = np.pad(scan, [(1, 1), (0, 0), (0, 0)], mode="edge")
    assert np.abs(levels[0] / LEVELS - (padded[:-2] + padded[1:-1] + padded[2:]) / 3).max() < 1 / LEVELS


def test_of_a_scan_with_neighbours_each_slice_goes_through_the_network_once():
    sizes = []
    network = UNet(in_channels=3, channels=(2, 4)).eval()
    network.register_forward_hook(lambda module, inputs, logits: sizes.append(len(logits)))
    predictor = Predictor(network, InputSpec((8, 8), (1.0, 1.0), (-1000.0, 400.0), None, neighbours=1), batch_size=2)
    hu = np.random.default_rng(3).integers(-1000, 400, (7, 8, 8)).astype(np.int16)
    _, levels = predict_in_parts(predictor, hu, None, 0.5, context=1)
    assert sizes == [2, 2, 2, 1]  # not 3, 4, 4, 2 slices: those beside a part are shown as channels only
    assert np.abs(levels[0] / LEVELS - predictor.probs(predictor.grey(hu))).max() < 1 / LEVELS


@pytest.mark.parametrize("dims", [2, 3])
def test_where_nothing_is_searched_the_probability_is_0_and_elsewhere_as_before(dims):
    predictor = predictor_for(dims)
    hu = np.random.default_rng(4).integers(-1000, 400, (6, 40, 30)).astype(np.int16)
    where = np.zeros(hu.shape, bool)
    where[1:3, 30:, :5] = True
    _, levels = predict_in_parts(predictor, hu, None, 0.5, where=where)
    _, everywhere = predict_in_parts(predictor, hu, None, 0.5)
    assert (levels[0][where] > 0).all() and np.abs(levels[0][where] - everywhere[0][where].astype(int)).max() <= 1
    assert not levels[0][:, :10].any() and not levels[0][:, :, 26:].any()  # beyond the margin of 8 and a window of 8
    assert dims == 3 or not levels[0][[0, 3, 4, 5]].any()
    every, rest = divmod(predictor.count.computed + predictor.count.skipped, 2)
    computed = predictor_for(dims)
    predict_in_parts(computed, hu, None, 0.5)
    assert predictor.count.skipped > 0 and (every, rest) == (computed.count.computed, 0)  # it predicted twice
