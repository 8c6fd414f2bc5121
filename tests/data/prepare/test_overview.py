"""The lines of the summary of a prepared data set."""

from dataclasses import replace

import numpy as np

from lungseg.data.prepare.overview import describe_sizes, describe_spacing, overview_lines
from lungseg.data.prepare.sources import SliceFormat


def make_slices(sizes, spacing=0.7, lesion=0):
    form = SliceFormat(16, 8)
    made = []
    for i, shape in enumerate(sizes):
        mask = np.zeros(shape, np.uint8)
        mask[: lesion * (i + 1), :2] = 1
        made.append(form.make(np.zeros(shape), mask, (-1000, 400), spacing, id=f"s{i}", group="", label="LR2"))
    return made


def make_records(slices, split="train"):
    return [replace(s.record, group="g", split=split) for s in slices]


def test_the_summary_counts_labels_lesions_and_groups():
    slices = make_slices([(32, 32)] * 4, lesion=4)
    lines = overview_lines(
        slices, ["a", "a", "a", "b"], [*make_records(slices), *make_records(slices[:1], "val")], "t.pkl"
    )
    assert lines[:3] == [
        "16 x 16 pixels, 8 bits, HU window -1000 to 400, 1.4 mm per pixel", "from t.pkl",
        "4 slices read, 1 augmented copies added",
    ]  # fmt: skip
    assert lines[4].split() == ["LR2", "4", "1", "0"]
    assert "lesion pixels: minimum 2, quartiles 3.5 / 5 / 6.5, maximum 8" in lines and "empty masks: 0" in lines
    assert "groups of similar slices: 2, the largest with 3 slices" in lines
    assert lines[-1].startswith("More than half of all slices form one group")


def test_named_patients_are_called_patients_however_large_one_is():
    slices = make_slices([(32, 32)] * 3)
    for s in slices:
        s.record = replace(s.record, group="p")
    lines = overview_lines(slices, ["p", "p", "q"], make_records(slices), "t.pkl")
    assert lines[-1] == "patients: 2, the largest with 2 slices" and "empty masks: 3" in lines


def test_lesions_that_vanish_are_blamed_on_the_size():
    slices = make_slices([(200, 200)], lesion=1)
    lines = overview_lines(slices, ["g"], make_records(slices), "")
    assert "empty masks: 1, 1 of them lost by shrinking: use a larger --size" in lines


def test_pixel_sizes_are_stated_as_far_as_they_are_known():
    unknown = make_records(make_slices([(32, 32)], np.nan))
    assert describe_spacing(unknown) == "mm per pixel unknown (state it with --spacing-mm)"
    some = [*make_slices([(32, 32), (64, 64)]), *make_slices([(32, 30)])]
    assert describe_spacing(make_records(some)) == "1.4 to 2.8 mm per pixel, unknown for 1"


def test_several_sizes_are_reported_and_one_square_size_is_not():
    assert describe_sizes(make_slices([(32, 32)] * 3)) == []
    (sentence,) = describe_sizes(make_slices([(n, n) for n in (32, 33, 34, 35, 36, 32)]))
    assert sentence.startswith("The slices (2 of 32 x 32, 1 of 33 x 33,")
    assert ", ... pixels) were each resized to 16" in sentence
    assert "stretched" not in sentence and "stretched" in describe_sizes(make_slices([(32, 30)]))[0]
