"""A grey PNG is read as it was saved, or refused: never half of it, never another depth."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from lungseg.data.grey_png import grey_bits, read_grey_png, suggest_replacement

SIDES = st.tuples(st.integers(1, 30), st.integers(1, 30))
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@given(data=st.data(), shape=SIDES, bits=st.sampled_from([8, 16]))
@in_one_folder
def test_what_was_saved_is_read_and_at_no_other_depth(tmp_path, data, shape, bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    saved = data.draw(hnp.arrays(dtype, shape))
    path = tmp_path / "a.png"
    Image.fromarray(saved).save(path)
    read = read_grey_png(path, bits)
    assert read.dtype == dtype and np.array_equal(read, saved) and grey_bits(path) == bits
    with pytest.raises(ValueError, match=f"expected a grey PNG of {24 - bits} bits, got {bits}-bit"):
        read_grey_png(path, 24 - bits)


@given(length=st.integers(0, 10_000))
@in_one_folder
def test_a_png_cut_anywhere_is_noticed(tmp_path, length):
    file, path = io.BytesIO(), tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)).save(file, "PNG")
    data = file.getvalue()
    path.write_bytes(data[: length % len(data)])
    with pytest.raises(ValueError, match="cut.png is"):
        read_grey_png(path, 8)
    assert grey_bits(path) == 8


def test_a_missing_file_is_missing_and_perhaps_under_another_name(tmp_path):
    assert suggest_replacement(tmp_path / "masks/a.png") == ". Add it"
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a_seg.png").touch()
    assert "there is a_seg.png. Rename it" in suggest_replacement(tmp_path / "masks/a.png")
    with pytest.raises(ValueError, match="a.png is missing, but there is a_seg.png"):
        read_grey_png(tmp_path / "masks/a.png", 8)
