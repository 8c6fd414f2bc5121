"""The names of lesion classes, and the two forms of a class map."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from lungseg.data.classes import (
    MOST_CLASSES,
    check_labels,
    number_labels,
    one_hot,
    read_classes,
    to_labels,
    unused_classes,
    write_classes,
)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, max_side=4)
LINES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8).filter(
    lambda name: name.casefold() not in ("background", "bg")
)


def write(folder, data):
    (folder / "classes.txt").write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


# ---- the file ---------------------------------------------------------------------------------------------------


@given(names=st.lists(LINES, min_size=1, max_size=6, unique_by=str.casefold))
def test_what_is_written_is_read(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    write_classes(folder, names)
    assert read_classes(folder) == tuple(names)


def test_a_folder_without_the_file_is_binary_and_none_is_written_for_it(tmp_path):
    write_classes(tmp_path, ())
    assert not any(tmp_path.iterdir()) and read_classes(tmp_path) == ()
    assert read_classes(tmp_path / "missing") == ()


@pytest.mark.parametrize("text", ["LR2\nLR3", "LR2\r\nLR3\r\n", "\ufeffLR2\nLR3\n\n\n", "  LR2 \t\n LR3"])
def test_what_editors_do_to_a_text_file_changes_no_name(text, tmp_path):
    assert read_classes(write(tmp_path, text)) == ("LR2", "LR3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it names 0 classes, expected 1 to 254"),
        ("\n \n", "it names 0 classes"),
        ("LR2\n\nLR3\n", "line 2 is empty, but it names the mask value 2"),
        ("LR2\nLR3\nLR2\n", "line 3 is 'LR2', and so is line 1"),
        ("LR2\nlr2\n", "line 2 is 'lr2', and so is line 1 .capitals are ignored."),
        ("background\nLR2\n", "line 1 is 'background', but background is the mask value 0 and has no line"),
        ("LR2\tsolid\n", r"line 1 holds 'LR2\\tsolid'. Use printable characters"),
        ("LR\x00\n", r"line 1 holds 'LR\\x00'. Use printable characters"),
        ("LR" * 20_000, "is not a list of names"),
        ("\n".join(f"c{k}" for k in range(MOST_CLASSES + 1)), "it names 255 classes, expected 1 to 254"),
        (b"LR\xff\n", "is not UTF-8 text"),
    ],
)
def test_a_file_that_names_no_classes_is_refused_in_one_sentence(text, message, tmp_path):
    with pytest.raises(ValueError, match=f"classes.txt:? {message}") as refused:
        read_classes(write(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_the_name_of_the_file_may_have_capitals(tmp_path):
    (tmp_path / "Classes.TXT").write_text("LR2\nLR3\n")
    assert read_classes(tmp_path) == ("LR2", "LR3")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "classes.txt").mkdir()
    with pytest.raises(ValueError, match="classes.txt is not a list of names"):
        read_classes(tmp_path)


def test_as_many_classes_as_a_mask_can_hold_are_allowed(tmp_path):
    names = tuple(f"c{k}" for k in range(MOST_CLASSES))
    write_classes(tmp_path, names)
    assert read_classes(tmp_path) == names


def test_a_writer_refuses_what_a_reader_would(tmp_path):
    with pytest.raises(ValueError, match="line 2 is 'a', and so is line 1"):
        write_classes(tmp_path, ["a", "a"])
    assert not any(tmp_path.iterdir())


def test_mask_values_without_a_name_are_refused():
    check_labels([0, 1, 2], ("LR2", "LR3"))
    check_labels([2], ("LR2", "LR3"))
    for values, shown in (([0, 3], "0, 3"), ([0, 255], "0, 255"), ([0, 0.5, 1], "0, 0.5, 1"), ([-1, 0], "-1, 0")):
        with pytest.raises(ValueError, match=f"holds the values {shown}, but classes.txt names only the values 1 to 2"):
            check_labels(values, ("LR2", "LR3"))


def test_a_class_that_no_mask_contains_is_named():
    assert unused_classes([0, 1, 3], ("a", "b", "c")) == [
        "no mask holds the value 2, which classes.txt calls 'b'. Add examples of it, or remove the name and lower the "
        "values above 2 by one."
    ]
    assert unused_classes([1, 2, 3], ("a", "b", "c")) == [] == unused_classes([0], ())


@given(names=st.permutations(["LR2", "LR3", "LR4A", "LR4B", "LR10", "solid", "2", "10"]), repeats=st.integers(1, 3))
def test_labels_are_numbered_in_natural_order_whatever_their_order(names, repeats):
    classes, number = number_labels(names * repeats)
    assert classes == ("2", "10", "LR2", "LR3", "LR4A", "LR4B", "LR10", "solid")
    assert [number[name] for name in classes] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_labels_that_cannot_be_classes_are_refused():
    refused = {"capitals are ignored": ["LR2", "lr2"], "mask value 0": ["a", "background"], "it names 0 classes": []}
    for message, labels in refused.items():
        with pytest.raises(ValueError, match=message):
            number_labels(labels)


# ---- the two forms ----------------------------------------------------------------------------------------------


@given(labels=hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 3)))
def test_a_label_map_comes_back_from_its_channels(labels):
    channels = one_hot(labels, 3)
    assert channels.shape == (3, *labels.shape) and channels.dtype == np.float32
    for index in np.ndindex(labels.shape):
        assert channels[(slice(None), *index)].tolist() == [float(labels[index] == k) for k in (1, 2, 3)]
    assert np.array_equal(to_labels(channels), labels)


@given(target=hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 1)), named=st.integers(0, 1))
def test_a_binary_map_only_gains_a_channel_axis(target, named):
    assert np.array_equal(one_hot(target, named), target[None].astype(np.float32))


@given(
    probs=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=4), elements=st.floats(0, 1, width=32)
    ),
    threshold=st.sampled_from([0.2, 0.5, 0.8]),
)
def test_the_label_is_the_most_probable_class_above_the_threshold(probs, threshold):
    labels = to_labels(probs, threshold)
    assert labels.shape == probs.shape[1:] and labels.dtype == np.uint8
    for index in np.ndindex(labels.shape):
        of_pixel = probs[(slice(None), *index)].tolist()
        best = max(of_pixel)
        assert labels[index] == (of_pixel.index(best) + 1 if best > np.float32(threshold) else 0)


def test_nan_is_not_a_class():
    assert to_labels(np.array([[[np.nan, np.nan]], [[0.9, 0.1]]])).tolist() == [[2, 0]]
    assert to_labels(np.full((1, 2, 2), np.nan)).tolist() == [[0, 0], [0, 0]]
