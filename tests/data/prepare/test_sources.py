"""What becomes a slice: one size, one window, and all that is known of it."""

import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from lungseg.data.ct import HU_WINDOW, grey_to_hu, hu_to_grey
from lungseg.data.prepare.sources import (
    SliceFormat,
    comparison_patterns,
    make_ids_unique,
    read_picture_slices,
    read_table_slices,
)
from lungseg.data.splits import link_similar_slices

FORM = SliceFormat(size=16, bits=8)
SIDES = st.integers(1, 40)


def made(values, mask=None, form=FORM, window=HU_WINDOW, spacing=0.7, id="a"):
    mask = np.zeros_like(values) if mask is None else mask
    return form.make(values, mask, window, spacing, id=id, group="p", label="")


@given(shape=st.tuples(SIDES, SIDES), spacing=st.floats(0.1, 3))
def test_a_slice_keeps_its_field_of_view_in_mm_or_says_that_it_was_stretched(shape, spacing):
    s = made(np.zeros(shape), spacing=spacing)
    assert s.image.shape == s.target.shape == (16, 16) and s.record.source_size == shape
    if shape[0] == shape[1]:
        assert s.record.spacing_mm * 16 == pytest.approx(spacing * shape[0])
    else:
        assert np.isnan(s.record.spacing_mm)


@pytest.mark.parametrize("bits", [8, 16])
def test_what_lies_outside_the_window_does_not_bleed_into_the_rest(bits):
    values = np.full((64, 64), -700.0)
    values[:, ::4] = -30000  # every fourth column is outside the scanner's circle
    image = made(values, form=SliceFormat(16, bits)).image
    assert image.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.allclose(grey_to_hu(image, bits=bits)[:, 2:-2], (3 * -700 - 1000) / 4, atol=20)


def test_a_vanished_lesion_is_noticed():
    mask = np.zeros((64, 64), np.uint8)
    assert not made(np.zeros((64, 64)), mask).vanished
    mask[5, 5] = 1
    assert made(np.zeros((64, 64)), mask).vanished
    mask[4:8, 4:8] = 1
    assert not made(np.zeros((64, 64)), mask).vanished
    with pytest.raises(
        ValueError, match=r"expected an image and a mask of one shape \(H, W\), got \(8, 8\) and \(8, 9\)"
    ):
        made(np.zeros((8, 8)), np.zeros((8, 9)))


def test_slices_of_one_size_are_compared_as_they_came_and_others_as_they_are_written():
    rng = np.random.default_rng(0)
    one, other = (np.clip(rng.normal(-500, 200, (200, 200)), *HU_WINDOW) for _ in range(2))
    form = SliceFormat(64, 8)
    alike = [made(one, form=form), made(other, form=form), made(one[::-1], form=form)]
    patterns, grid = comparison_patterns(alike)
    assert grid == (128, 128) and all(p is s.pattern for p, s in zip(patterns, alike, strict=True))
    assert link_similar_slices(patterns, grid)[0].tolist() == [True, False, True]
    enlarged = made(np.kron(one, np.ones((2, 2))), form=form)
    patterns, grid = comparison_patterns([*alike, enlarged])
    assert grid == (64, 64) and link_similar_slices(patterns, grid)[3].tolist() == [True, False, True, True]


def test_ids_that_stand_twice_are_numbered():
    slices = [made(np.zeros((4, 4)), id=id_) for id_ in ("a", "b", "a", "a_2", "A")]
    make_ids_unique(slices)
    assert [s.record.id for s in slices] == ["a", "b", "a_2", "a_2_2", "A_3"]


def test_the_rows_of_a_table_keep_their_order_and_number(tmp_path):
    hus = [np.linspace(100.0 * i, -900, 64).reshape(8, 8) for i in range(3)]
    rows = [{"label1": f"LR{i}", "mask": np.eye(8, dtype=np.uint8), "hu": hu} for i, hu in enumerate(hus)]
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(rows))
    how = {"prefix": "row", "start": 5, "column": "hu", "group": None, "spacing": None}
    slices, notes = read_table_slices(tmp_path / "t.pkl", FORM, **how)
    assert [(s.record.id, s.record.label) for s in slices] == [(f"row000{5 + i}", f"LR{i}") for i in range(3)]
    assert [s.image[0, 0] for s in slices] == hu_to_grey([0, 100, 200]).tolist() and notes == []
    assert all(s.target.any() and s.record.group == "" for s in slices)


# ---- pictures ---------------------------------------------------------------------------------------------------


def pictures(folder, *images, suffix="tiff"):
    for name in ("i", "m"):
        (folder / name).mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / f"i/{k}.{suffix}")
        Image.fromarray(np.zeros(image.shape, np.uint8)).save(folder / f"m/{k}.png")
    return {"images": f"i/*.{suffix}", "masks": "m/*.png"}


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_levels_stay_what_they_are_whatever_their_depth(bits, tmp_path):
    shallow = np.full((16, 16), 51, np.uint8)  # a fifth
    how = pictures(tmp_path, shallow, np.full((16, 16), 819, np.uint16), np.full((16, 16), 4095, np.uint16))
    slices, notes = read_picture_slices(tmp_path, SliceFormat(16, bits), **how)
    white = 2**bits - 1
    assert [s.image[0, 0] for s in slices] == [white // 5, white // 5, white]
    assert "In pictures of more than 8 bits, white is 4095." in notes and any("are unknown" in t for t in notes)


def test_numbers_below_zero_are_hu(tmp_path):
    how = pictures(tmp_path, np.full((16, 16), -1000, np.int32), np.full((16, 16), 400, np.int32))
    slices, notes = read_picture_slices(tmp_path, FORM, **how)
    assert [s.image[0, 0] for s in slices] == [0, 255] and notes == ["Pictures with numbers below 0 were read as HU."]
    with pytest.raises(ValueError, match="hold HU, so --hu-window is not needed. Leave it out"):
        read_picture_slices(tmp_path, FORM, **how, hu_window=(-160.0, 240.0))


def test_a_mask_of_another_size_is_named(tmp_path):
    how = pictures(tmp_path, np.zeros((16, 16), np.uint8))
    Image.new("L", (8, 16)).save(tmp_path / "m/0.png")
    with pytest.raises(ValueError, match=r"i/0.tiff and .*m/0.png: expected .* got \(16, 16\) and \(16, 8\)"):
        read_picture_slices(tmp_path, FORM, **how)


def test_names_of_files_become_ids_that_are_file_names(tmp_path):
    for name in ("i/a b", "m/a b"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "1:é.png")
    slices, _ = read_picture_slices(tmp_path, FORM, images="i/*/*.png", masks="m/*/*.png")
    assert [s.record.id for s in slices] == ["a b_1_é"]
    for name in ("i", "m"):
        Image.new("L", (8, 8)).save(tmp_path / name / "x. .png")
    slices, _ = read_picture_slices(tmp_path, FORM, images="i/x*.png", masks="m/x*.png")
    assert [s.record.id for s in slices] == ["slice"]  # of ". ", which is no name of a file


def test_decisions_are_reported(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[:4, :, 0], red[8:, :, 0] = 255, 100
    how = pictures(tmp_path, red, suffix="png")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "m/0.png")
    Image.new("L", (8, 8)).save(tmp_path / "i/lone.png")
    _, notes = read_picture_slices(tmp_path, FORM, **how, hu_window=HU_WINDOW)
    assert [sentence.split(", such as")[0] for sentence in notes] == [
        f"{tmp_path}: files without a partner, left out: 1 (i/lone.png).",
        "Coloured images, converted to grey: 1",
        "Masks with shades between black and their brightest value: 1",
    ]


def test_swapped_images_and_masks_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).save(tmp_path / f"images/{i}.png")
        Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(tmp_path / f"masks/{i}.png")
    assert len(read_picture_slices(tmp_path, FORM, images="images/*.png", masks="masks/*.png")[0]) == 4
    with pytest.raises(ValueError, match="Are --images and --masks swapped"):
        read_picture_slices(tmp_path, FORM, images="masks/*.png", masks="images/*.png")
