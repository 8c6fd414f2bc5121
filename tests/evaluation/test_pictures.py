"""Which predictions are shown: those that a reader would pick by hand, at the slice that shows most."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from lungseg.evaluation.lesions import Lesion
from lungseg.evaluation.metrics import worst_median_best
from lungseg.evaluation.pictures import prediction_rows, three_rows
from lungseg.evaluation.scores import ImageScore

DICE = hnp.arrays(float, st.integers(1, 7), elements=st.one_of(st.just(math.nan), st.integers(0, 4).map(float)))


class Grey:
    """Images of one grey level each, which names them; the target is one pixel (of class k at k)."""

    def __init__(self, num, shape=(4, 5), channels=1):
        self.num, self.shape, self.channels = num, shape, channels

    def __getitem__(self, i):
        target = torch.zeros(self.channels, *self.shape)
        for k in range(self.channels):
            target[(k, *[0] * (len(self.shape) - 1), k)] = 1
        return torch.full((1, *self.shape), float(i)), target, str(i)


@given(dice=DICE)
def test_the_rows_are_those_of_the_lowest_the_middle_and_the_highest_dice(dice):
    seen = []
    rows = prediction_rows(
        Grey(len(dice)),
        worst_median_best(dice),
        lambda i, image: seen.append(i) or image,
        lambda name, i, z: f"{name} {i} {z}",
    )
    assert all(text.endswith(" None") for text, *_ in rows)  # slices, not volumes
    assert [text.split()[0] for text, *_ in rows] == ["worst", "median", "best"]
    assert seen == [int(text.split()[1]) for text, *_ in rows] == [int(image[0, 0]) for _, image, _, _ in rows]
    known = sorted(d for d in dice.tolist() if not math.isnan(d))
    if known:
        assert [dice[i] for i in seen] == [known[0], known[len(known) // 2], known[-1]]


def caption(name, i, z):
    return f"{name}\nits slice {z}"


@pytest.mark.parametrize("by_class", [False, True])
def test_of_a_volume_the_slice_with_most_of_target_and_prediction_is_shown(by_class):
    probs = np.zeros((2, 3, 4, 5), np.float32)
    probs[1, 2, :2, :3] = 0.9  # six pixels predicted in slice 2; the target has one in slice 0

    def rows(**options):
        volumes = Grey(1, (3, 4, 5), channels=2)
        predict = lambda *_: probs if by_class else probs[1]  # noqa: E731
        return prediction_rows(volumes, [("worst", 0)], predict, caption, by_class=by_class, **options)

    text, image, target, found = rows()[0]
    assert text == "worst\nits slice 2" and image.shape == target.shape == (4, 5)
    assert np.array_equal(found, probs[:, 2] if by_class else probs[1, 2]) and found.base is None
    low = rows(threshold=0.95)
    assert low[0][0] == "worst\nits slice 0" and low[0][2].max() == (2 if by_class else 1)
    assert rows(by_target=True)[0][0] == "worst\nits slice 0"  # whatever was predicted in slice 2


def test_three_rows_say_whose_they_are_and_how_large_the_lesion_is():
    scores = [
        ImageScore(f"s{i}", "p", "", tp, 0, 8 - tp, 4, 1.0, (Lesion(3.0 + i, True),), 0)
        for i, tp in enumerate([4, 8, 0])
    ]
    rows = three_rows(Grey(3), scores, lambda i, image: image, "U-Net")
    assert [text for text, *_ in rows] == [
        "U-Net\nworst\nDice 0.000\n5 mm", "U-Net\nmedian\nDice 0.667\n3 mm", "U-Net\nbest\nDice 1.000\n4 mm",
    ]  # fmt: skip
    assert [image[0, 0] for _, image, _, _ in rows] == [2, 0, 1]
