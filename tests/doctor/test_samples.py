"""Which images are examined."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset, SliceWriter
from lungseg.doctor.samples import collect, lesion_batch, readable_samples, spread_out


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 12))
def test_the_first_images_are_taken_and_no_batch_too_many_is_read(sizes, most):
    taken = []

    def loader():
        for number, n in enumerate(sizes):
            taken.append(n)
            yield torch.full((n, 1, 4, 4), float(number)), torch.zeros(n, 1, 4, 4, dtype=torch.uint8), ["id"] * n

    images, targets = collect(loader(), most)
    wanted = [number for number, n in enumerate(sizes) for _ in range(n)][:most]
    assert images[:, 0, 0, 0].tolist() == wanted
    assert images.dtype == targets.dtype == torch.float32 and len(targets) == len(images)
    assert sum(taken[:-1]) < most


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ([], "loader is empty"),
        ([(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))], r"unsqueeze\(1\) adds a missing channel axis"),
        ([(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 8, 8))], "Images are 4 x 4 and their targets 8 x 8 pixels"),
        ([(torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 4, 4))], "A batch holds images"),
    ],
)
def test_what_cannot_be_examined_is_said_in_a_sentence(batch, words):
    with pytest.raises(ValueError, match=words):
        collect(batch)


def test_images_of_another_size_are_left_out():
    images, _ = collect([(torch.zeros(1, 1, s, s), torch.zeros(1, 1, s, s)) for s in (4, 6, 4)])
    assert images.shape == (2, 1, 4, 4)


def test_the_batch_has_the_largest_lesions_and_no_empty_image():
    targets = torch.zeros(5, 1, 4, 4)
    for i, n in enumerate((0, 3, 1, 0, 9)):
        targets[i].view(-1)[:n] = 1
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    assert lesion_batch(images, targets, 4)[0][:, 0, 0, 0].tolist() == [4, 1, 2]
    assert lesion_batch(images, torch.zeros_like(targets)) is None


def test_samples_are_those_of_the_data_set_without_files_that_cannot_be_read(tmp_path):
    with SliceWriter(tmp_path / "f") as out:
        for i in range(4):
            image = np.random.default_rng(i).integers(0, 256, (12, 12), dtype=np.uint8)
            out.add(ImageRecord(f"s{i}", f"p{i}", "train"), image, (image > 200).astype(np.uint8))
    data = SliceDataset(tmp_path / "f", size=8)
    expected = [data[i] for i in (0, 1, 3)]
    (tmp_path / "f/masks/s2.png").write_bytes(b"no picture")
    found = list(readable_samples(tmp_path / "f", data.records, (), 8))
    assert [f[2] for f in found] == [e[2] for e in expected]
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f[0][0], e[0]) and torch.equal(f[1][0], e[1])


@given(st.integers(1, 200), st.integers(1, 64))
def test_records_are_spread_from_the_first_to_the_last(n, most):
    chosen = spread_out(list(range(n)), most)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(n, most)
    assert chosen[0] == 0 and (most == 1 or chosen[-1] == n - 1)
