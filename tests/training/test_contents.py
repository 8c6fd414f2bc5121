"""Whatever is changed in the data of a run is noticed; copying them, or touching them, is no change."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter
from lungseg.training import contents
from lungseg.training.contents import differences, digest, list_contents, read_contents, write_contents


@pytest.fixture
def slices(tmp_path):
    folder = tmp_path / "slices"
    with SliceWriter(folder, classes=("solid", "cyst")) as out:
        for i in range(3):
            out.add(ImageRecord(f"s{i}", f"p{i}", "train"), np.full((4, 4), i, np.uint8), np.eye(4, dtype=np.uint8))
    return folder


@pytest.fixture
def volumes(tmp_path):
    folder = tmp_path / "volumes"
    with VolumeWriter(folder) as out:
        hu, target = np.zeros((2, 4, 4), np.int16), np.ones((2, 4, 4), np.uint8)
        out.add(ImageRecord("v0", "p0", "train"), hu, target, (1, 1, 1))
    (folder / "volumes/v1").mkdir()
    np.save(folder / "volumes/v1/hu.npy", hu)
    np.save(folder / "volumes/v1/target.npy", target)
    return folder


def test_every_file_that_a_run_reads_is_looked_at_and_no_other(slices, volumes):
    (slices / "overview.png").touch()
    (slices / "images/._s0.png").touch()
    names = ["classes.txt", *(f"{home}/s{i}.png" for home in ("images", "masks") for i in range(3)), "manifest.csv"]
    assert sorted(list_contents(slices)) == sorted(names)
    assert sorted(list_contents(volumes)) == [
        "manifest.csv", "volumes/v0.npz", "volumes/v1/hu.npy", "volumes/v1/target.npy",
    ]  # fmt: skip


def shift_a_mask(folder):
    path = folder / "masks/s1.png"
    Image.fromarray(np.roll(np.array(Image.open(path)), 1, axis=1)).save(path)


def invert_an_image(folder):
    path = folder / "images/s1.png"
    Image.fromarray(255 - np.array(Image.open(path))).save(path)


def another_window(folder):
    path = folder / "manifest.csv"
    path.write_text(path.read_text().replace("-1000", "-1200"))


def another_class(folder):
    (folder / "classes.txt").write_text("solid\nmetastasis\n")


@pytest.mark.parametrize("change", [shift_a_mask, invert_an_image, another_window, another_class])
def test_a_change_is_noticed_and_named(slices, change):
    before = list_contents(slices)
    files = {path: path.read_bytes() for path in contents.data_files(slices)}
    change(slices)
    now = list_contents(slices, before)
    (changed,) = [path for path, data in files.items() if path.read_bytes() != data]
    assert digest(now) != digest(before)
    assert differences(before, now) == f"{changed.relative_to(slices).as_posix()} (changed)"


def test_what_was_added_or_removed_is_named(slices):
    before = list_contents(slices)
    os.rename(slices / "images/s0.png", slices / "images/s9.png")
    now = list_contents(slices, before)
    assert digest(now) != digest(before)
    assert differences(before, now) == "images/s0.png (removed), and 1 more"
    assert differences(now, before) == "images/s0.png (added), and 1 more"
    assert differences(now, now) == ""


def test_a_copy_has_the_same_digest_and_other_times(slices, tmp_path):
    before = list_contents(slices)
    shutil.copytree(slices, tmp_path / "copy", copy_function=shutil.copy)  # not the times
    for path in contents.data_files(tmp_path / "copy"):
        os.utime(path, ns=(0, 10**18))
    now = list_contents(tmp_path / "copy", before)
    assert digest(now) == digest(before) and now != before and differences(before, now) == ""


def test_only_files_of_another_size_or_time_are_read_again(slices, monkeypatch):
    read, digest_of = [], contents.file_digest
    monkeypatch.setattr(contents, "file_digest", lambda path: read.append(path.name) or digest_of(path))
    before = list_contents(slices)
    assert len(read) == len(before)
    read.clear()
    assert list_contents(slices, before) == before and read == []
    os.utime(slices / "masks/s2.png", ns=(0, 10**18))
    assert digest(list_contents(slices, before)) == digest(before) and read == ["s2.png"]


def test_it_is_read_as_it_was_written(slices, tmp_path):
    found = list_contents(slices)
    write_contents(tmp_path, found)
    assert read_contents(tmp_path) == found and os.listdir(tmp_path).count("data.json") == 1
    assert not list(tmp_path.glob(".data*"))


@pytest.mark.parametrize(
    "text", [None, "", "[1]", "{", "null", '{"a": 1, "b": [1, 2], "c": [1, 2, 3], "d": [true, 1, "x"]}']
)
def test_what_is_not_of_its_form_is_not_believed(slices, tmp_path, text):
    if text is not None:
        (tmp_path / "data.json").write_text(text)
    assert read_contents(tmp_path) == {}
    assert list_contents(slices, read_contents(tmp_path)) == list_contents(slices)


def test_a_digest_that_somebody_wrote_changes_the_digest_of_the_whole(slices, tmp_path):
    before = list_contents(slices)
    write_contents(tmp_path, before)
    edited = json.loads((tmp_path / "data.json").read_text())
    edited["masks/s0.png"][2] = "0" * 64
    (tmp_path / "data.json").write_text(json.dumps(edited))
    assert digest(list_contents(slices, read_contents(tmp_path))) != digest(before)


def test_the_outlines_of_readers_count_only_where_a_run_reads_them(slices, tmp_path):
    folder = shutil.copytree(slices, tmp_path / "copy")
    before, soft = list_contents(folder), list_contents(folder, readers=True)
    shutil.copytree(folder / "masks", folder / "readers")
    assert digest(list_contents(folder)) == digest(before) == digest(soft)
    now = list_contents(folder, readers=True)
    assert "readers/" in differences(before, now) and digest(now) != digest(before)
