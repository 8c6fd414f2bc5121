"""The scale of an image: from its pixels, checked in mm, and never guessed."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from lungseg import scale as scale_module
from lungseg.checkpoint import InputSpec
from lungseg.scale import MOST_RATIO


def of_entries(function):
    """A function of `lungseg.scale` that takes the entries of an `InputSpec` as a checkpoint has them."""
    return lambda entries, *args, **options: function(
        InputSpec.from_dict({"hu_window": [0, 1]} | entries), *args, **options
    )


full_size, scale_for, sizes_on_the_way = map(
    of_entries, (scale_module.full_size, scale_module.scale_for, scale_module.sizes_on_the_way)
)
OLD = {"size": [16, 16], "scale": [1.0, 1.0], "hu_window": [-1000.0, 400.0], "spacing_mm": 0.7}
# 512 x 512 slices, written with 256 x 256 pixels, trained at 224 x 224
SHRUNK = {
    "size": [224, 224], "scale": [224 / 256] * 2, "source_scale": [224 / 512] * 2, "stretched": False,
    "spacing_mm": 1.4,
}  # fmt: skip
VOLUMES = OLD | {"size": [4, 8, 8], "scale": [1.0] * 3, "spacing_mm": [2.0, 0.7, 0.7]}
SIDES = st.integers(16, 800)


def test_a_source_and_the_file_made_of_it_look_alike():
    for size in (512, 400):  # a smaller slice is shrunk by the same factor
        (of_source, said), (of_file, said_too) = (
            scale_for(SHRUNK, (n, n), source_size=(size, size)) for n in (size, size // 2)
        )
        assert of_source == pytest.approx([224 / 512] * 2) and of_file == pytest.approx([224 / 256] * 2)
        assert said is said_too is None


@given(source=st.tuples(SIDES, SIDES), file=SIDES, size=SIDES)
def test_whole_slices_fill_the_size_of_the_training_whichever_grid_they_are_on(source, file, size):
    """A training on slices of one size, any size, with any two steps of shrinking or enlarging."""
    scales = [size / file] * 2, [size / n for n in source]
    about = SHRUNK | {"size": [size, size], "scale": scales[0], "source_scale": scales[1], "spacing_mm": None}
    assert full_size(about, scales[1]) == source
    for shape, told in ((source, source), ((file, file), source), (source, None), ((file, file), None)):
        if told is None and shape == source and source != (file, file) and np.allclose(*scales):
            continue
        scale, _ = scale_for(about, shape, source_size=told)
        assert sizes_on_the_way(about, shape, scale)[-1] == (size, size)


def test_pixels_that_could_be_of_either_grid_are_refused_unless_mm_are_known():
    sizes = r"300 x 300 .* files \(256 x 256\) .* made from \(512 x 512\).*"
    with pytest.raises(ValueError, match=sizes + "--spacing-mm MM"):
        scale_for(SHRUNK, (300, 300))
    assert scale_for(SHRUNK, (300, 300), (2.8, 2.8)) == (pytest.approx([2 * 224 / 256] * 2), None)
    unknown = SHRUNK | {"spacing_mm": None}
    with pytest.raises(ValueError, match="Resize it to 256 x 256, or give the original slice in HU") as error:
        scale_for(unknown, (300, 300), (2.8, 2.8))  # mm do not help where those of the training are unknown
    assert "spacing" not in str(error.value)
    same = SHRUNK | {"source_scale": SHRUNK["scale"]}
    assert scale_for(same, (300, 300))[0] == tuple(SHRUNK["scale"])  # one grid: nothing to choose


def test_files_of_an_unknown_source_are_sources_if_they_are_as_large():
    """Trained on files of 512 x 512 made by hand; then a slice that was shrunk from 512 x 512."""
    by_hand = SHRUNK | {"scale": [224 / 512] * 2, "source_scale": None}
    assert scale_for(by_hand, (256, 256), source_size=(512, 512))[0] == pytest.approx([224 / 256] * 2)
    assert scale_for(by_hand, (256, 256), source_size=(256, 256))[0] == pytest.approx([224 / 512] * 2)


@given(shape=st.lists(SIDES, min_size=2, max_size=3), source=st.none() | st.just((999, 999)))
def test_an_older_checkpoint_has_one_scale_for_all(shape, source):
    assert scale_for(OLD, shape, source_size=source)[0] == (1.0, 1.0)
    assert sizes_on_the_way(OLD, tuple(shape[-2:]), (0.5, 0.5)) == [tuple(round(n * 0.5) for n in shape[-2:])]


# ---- in mm ------------------------------------------------------------------------------------------------------


@given(trained=st.floats(0.1, 5), ratio=st.floats(0.1, 10), side=st.integers(0, 1))
def test_mm_decide_where_pixels_differ_by_more_than_the_ratio_and_not_before(trained, ratio, side):
    assume(abs(abs(np.log(ratio)) - np.log(MOST_RATIO)) > 1e-9)  # at the border rounding decides
    spacing = [trained, trained]
    spacing[side] *= ratio
    scale, said = scale_for(OLD | {"spacing_mm": trained}, (40, 40), spacing)
    if 1 / MOST_RATIO <= ratio <= MOST_RATIO:
        assert scale == (1.0, 1.0) and said is None
    else:
        assert scale[side] == pytest.approx(ratio) and scale[1 - side] == pytest.approx(1) and "resampled" in said


@given(mm=st.floats(0.2, 3), known=st.sampled_from([(256, 256), (512, 512), None]))
def test_a_pixel_of_known_size_never_looks_far_from_the_training_whatever_grid_it_is_on(mm, known):
    """The training saw pixels of 1.4 * 256 / 224 mm."""
    scale, _ = scale_for(SHRUNK, (256, 256), (mm, mm), known)
    assert abs(np.log(mm / np.array(scale) / (1.4 * 256 / 224))).max() <= np.log(MOST_RATIO) + 1e-9


def test_the_sizes_are_told_in_the_pixels_of_the_image():
    assert "pixel is 1.4 x 1.4 mm, and was 0.7 x 0.7 mm" in scale_for(OLD, (40, 40), (1.4, 1.4))[1]
    source = scale_for(SHRUNK, (512, 512), (1.4, 1.4), (512, 512))[1]  # the sources of the training had 0.7 mm
    assert "pixel is 1.4 x 1.4 mm, and was 0.7 x 0.7 mm" in source
    scale, said = scale_for(VOLUMES, (9, 9, 9), (9.0, 0.7, 0.7))
    assert "9 x 0.7 x 0.7 mm, and was 2 x 0.7 x 0.7 mm" in said and scale == pytest.approx((4.5, 1, 1))
    assert scale_for(OLD, (9, 9, 9), (9.0, 0.7, 0.7)) == ((1.0, 1.0), None)  # it does not look along that side


@pytest.mark.parametrize("about", [OLD, SHRUNK])
@pytest.mark.parametrize("mm", [0.02, 700.0])
def test_a_size_that_no_pixel_has_is_refused_before_it_fills_the_memory(about, mm):
    with pytest.raises(ValueError, match=r"a pixel is \S+ x \S+ mm, and was \S+ x \S+ mm .* one of them must be wrong"):
        scale_for(about, (300, 300), (mm, mm))


@pytest.mark.parametrize("spacing", [None, (np.nan, np.nan), (np.nan, 5.0)])
def test_what_is_unknown_decides_nothing(spacing):
    assert scale_for(OLD, (40, 40), spacing)[0] == (1.0, 1.0)
    assert scale_for(OLD | {"spacing_mm": None}, (40, 40), (1.4, 1.4))[0] == (1.0, 1.0)


SAID = r"its 40 x 30 pixels are treated as pixels of the training files \(16 x 16\)[.] .* too large or too small[.] "


@pytest.mark.parametrize("shape", [(40, 30), (9, 40, 30)])
@pytest.mark.parametrize("source", [(40, 30), (80, 60), None])
def test_where_nothing_tells_the_scale_a_sentence_says_so(shape, source):
    """A table, a .npy, a volume or a lone PNG without mm, and a folder that was prepared before sizes were recorded."""
    scale, said = scale_for(OLD, shape, source_size=source)
    assert scale == (1.0, 1.0) and re.fullmatch(SAID + "State the size of its pixels: --spacing-mm MM[.]", said)
    scale, said = scale_for(OLD | {"spacing_mm": None}, shape, (0.7,) * len(shape), source)
    assert scale == (1.0, 1.0) and re.fullmatch(SAID + "To know it, prepare .* again .* and train on that[.]", said)


@pytest.mark.parametrize(
    ("about", "shape", "spacing", "source"),
    [
        (OLD, (40, 30), (0.7, 0.8), (40, 30)),  # mm agree
        (OLD, (9, 40, 30), (np.nan, 0.7, 0.8), (40, 30)),  # and those between slices do not matter
        (OLD, (16, 16), None, None),  # as many pixels as a file of the training
        (OLD, (16, 16), None, (32, 32)),
        (OLD, (8, 8), None, (16, 16)),  # made from a slice of that many: those files were slices themselves
        (OLD | {"stretched": True}, (40, 30), None, (40, 30)),
        (SHRUNK, (512, 512), None, (512, 512)),
        (VOLUMES, (40, 30, 30), None, (30, 30)),  # volumes are not shrunk
    ],
)
def test_where_something_tells_the_scale_nothing_is_said(about, shape, spacing, source):
    assert scale_for(about, shape, spacing, source)[1] is None


def test_two_steps_only_where_the_training_took_two():
    assert sizes_on_the_way(SHRUNK, (512, 512), (224 / 512,) * 2) == [(256, 256), (224, 224)]
    assert sizes_on_the_way(SHRUNK, (256, 256), (224 / 256,) * 2) == [(256, 256), (224, 224)]  # the first is no step
    assert sizes_on_the_way(SHRUNK, (128, 128), (224 / 128,) * 2) == [(224, 224)]


def test_after_training_on_crops_pixels_are_counted_in_whole_slices():
    """Files of 256 pixels, made from 512; crops of 64. A lone slice of either size is told by its pixels."""
    crops = OLD | {"size": [64, 64], "source_scale": [0.5, 0.5], "whole_size": [256, 256], "spacing_mm": None}
    assert full_size(crops, (0.5, 0.5)) == (512, 512)
    assert scale_for(crops, (256, 256)) == ((1.0, 1.0), None)
    assert scale_for(crops, (512, 512)) == ((0.5, 0.5), None)
    with pytest.raises(ValueError, match=r"neither those of the training files \(256 x 256\)"):
        scale_for(crops, (64, 64))


SLICES = VOLUMES | {"spacing_mm": [1.25, 0.7, 0.7], "slice_mm": 1.25}  # resampled along the slice axis


@given(slices=st.floats(0.45, 5), plane=st.floats(0.5, 0.98))
def test_slices_are_always_resampled_to_those_of_the_training(slices, plane):
    """By less than MOST_RATIO too, and whatever is known of the other sides."""
    for mm in ((slices, plane, plane), (slices, np.nan, np.nan)):
        scale, said = scale_for(SLICES, (20, 64, 64), mm)
        assert scale == pytest.approx((slices / 1.25, 1.0, 1.0)) and said is None
        assert sizes_on_the_way(SLICES, (20, 64, 64), scale) == [(max(1, round(20 * slices / 1.25)), 64, 64)]
    assert scale_for(SLICES | {"scale": [1, 1, 1]}, (20, 64, 64), mm)[0][0] == scale[0]  # whole numbers
    assert scale_for(SLICES | {"spacing_mm": None}, (20, 64, 64), (slices, 0.7, 0.7))[0][0] == scale[0]


def test_the_plane_of_resampled_slices_is_checked_in_mm_as_ever():
    scale, said = scale_for(SLICES, (20, 64, 64), (2.5, 1.4, 1.4))
    assert scale == pytest.approx((2.0, 2.0, 2.0)) and "resampled" in said


def test_an_unknown_or_impossible_distance_between_slices_is_refused():
    for unknown in (None, (np.nan, 0.7, 0.7)):
        with pytest.raises(ValueError, match="on slices 1.25 mm apart, and it is unknown .* State it as spacing_mm"):
            scale_for(SLICES, (20, 64, 64), unknown)
    with pytest.raises(ValueError, match="its slices are 700 mm apart, and were 1.25 mm apart"):
        scale_for(SLICES, (20, 64, 64), (700.0, 0.7, 0.7))
