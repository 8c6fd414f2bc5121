"""The recipe refuses numbers that cannot be, in sentences that name the flag."""

import pytest

from lungseg.refiner.recipe import RefinerOptions, RefinerRecipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.0}, "--threshold must be below 1"),
        ({"context": 0.5}, "context=0.5 must be from 1 to 100"),
        ({"context": 1e300}, "context=1e.300 must be from 1 to 100"),
        ({"smallest": 2**30}, "smallest=1073741824 must be from 1 to 4096"),
        ({"jitter": 0.5}, "--jitter below 0.5"),
        ({"sam_dim": 10}, "--sam-dim must be a multiple of 3"),
        ({"clip_dim": 6}, "--clip-dim one of 4"),
        ({"sam_depth": 3}, "even number"),
        ({"use_clip": False, "clip": "a.bin"}, "--clip and --vocabulary would do nothing"),
        ({"vocabulary": "vocab.txt"}, "give them with --clip"),
        ({"false_alarms": 1.5}, "false_alarms=1.5 must be a share"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"sam": ""}, "sam is empty"),
    ],
)
def test_impossible_numbers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RefinerRecipe(**change)


def test_the_defaults_are_possible():
    assert RefinerRecipe().false_alarms == pytest.approx(1 / 3) and not RefinerOptions().resume
