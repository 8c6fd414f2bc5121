"""Which paths are checkpoints, and which of their networks may predict together."""

from dataclasses import replace
from pathlib import Path

import pytest

from lungseg.checkpoint import InputSpec, save_checkpoint
from lungseg.ensemble import check_agreement, leading_checkpoints

SLICES = InputSpec((16, 16), (0.5, 0.5), (-1000.0, 400.0), 0.7)


def test_checkpoints_come_first_and_everything_after_them_is_an_input(tmp_path):
    for name in ("a.pt", "b.weights"):
        save_checkpoint(tmp_path / name, {"x": 1})
    (tmp_path / "damaged.pt").write_text("PK")
    (tmp_path / "slice.png").write_text("png")
    (tmp_path / "folder.pt").mkdir()
    a, b, damaged, png, folder = (tmp_path / n for n in ("a.pt", "b.weights", "damaged.pt", "slice.png", "folder.pt"))
    assert leading_checkpoints([a, png]) == ([a], [png])
    assert leading_checkpoints([a, b, damaged, png, a]) == (
        [a, b, damaged],
        [png, a],
    )  # what a is here, its reader says
    assert leading_checkpoints([png, png]) == ([png], [png])
    assert leading_checkpoints([a, b]) == ([a, b], [])
    assert leading_checkpoints([a, folder, b]) == ([a], [folder, b])
    assert leading_checkpoints([a, Path("no.pt")]) == ([a], [Path("no.pt")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"hu_window": (-1350.0, 150.0)},
            r"hu_window of the training images is \(-1000.0, 400.0\) in the one and \(-13",
        ),
        (
            {"classes": ("solid", "cyst")},
            r"classes of .* is not stated in the one and \('solid', 'cyst'\) in the other",
        ),
        ({"size": (4, 16, 16), "scale": (1.0,) * 3}, "size of the training images"),
        ({"scale": (1.0, 1.0)}, "scale of the training images"),
        ({"source_scale": (0.5, 0.5)}, "source_scale of the training images"),
        ({"stretched": True}, "stretched of the training images"),
        ({"spacing_mm": 1.4}, "spacing_mm of the training images is 0.7 in the one and 1.4"),
    ],
)
def test_networks_of_other_images_are_refused_in_one_sentence_with_both_files(change, words):
    with pytest.raises(ValueError, match=words) as refusal:
        check_agreement({"a.pt": SLICES, "b.pt": SLICES, "c.pt": replace(SLICES, **change)})
    text = str(refusal.value)
    assert text.startswith("a.pt and c.pt cannot be averaged: ") and "\n" not in text


@pytest.mark.parametrize("spacing", [None, 0.75, (0.7, 0.6)])
def test_pixel_sizes_may_differ_as_much_as_in_one_training_set(spacing):
    check_agreement({"a.pt": SLICES, "b.pt": replace(SLICES, spacing_mm=spacing)})
    check_agreement({"a.pt": SLICES})
