"""A folder appears complete or not at all, whatever happens while it is written."""

import numpy as np
import pytest

from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter

PAIR = np.arange(144, dtype=np.uint8).reshape(12, 12), np.eye(12, dtype=np.uint8)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_interrupted_writer_leaves_nothing(tmp_path, error):
    with pytest.raises(error), SliceWriter(tmp_path / "f") as out:
        out.add(ImageRecord("s", "g", "train"), *PAIR)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_the_folder_appears_only_when_it_is_complete(tmp_path):
    with SliceWriter(tmp_path / "deep/f") as out:
        out.add(ImageRecord("s", "g", "train"), *PAIR)
        assert not (tmp_path / "deep/f").exists()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["f"]


def test_an_error_while_the_folder_is_made_leaves_nothing_even_before_it_is_handled(tmp_path):
    class Twice(SliceWriter):
        subfolders = ("images", "images")

    try:
        Twice(tmp_path / "f").__enter__()
    except FileExistsError:  # here the error still holds on to the writer
        assert list(tmp_path.iterdir()) == []
    else:
        pytest.fail("the same folder was made twice")


@pytest.mark.parametrize("wrong", [{"group": ""}, {"split": "dev"}, {"bits": 12}, {"spacing_mm": 0.0}])
def test_a_writer_refuses_a_row_that_could_not_be_read(tmp_path, wrong):
    with pytest.raises(ValueError, match="id 's' has"), SliceWriter(tmp_path / "f") as out:
        out.add(ImageRecord(**{"id": "s", "group": "g", "split": "train"} | wrong), *PAIR)
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_already_is_refused_and_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "f").mkdir()
    with SliceWriter(tmp_path / "f") as out:
        out.add(ImageRecord("s", "g", "train"), *PAIR)
    with pytest.raises(ValueError, match="f exists already. Remove it, or choose another"), SliceWriter(out.folder):
        pass
    assert [r.id for r in read_manifest(tmp_path / "f")] == ["s"] and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_problem_of_the_whole_is_noticed_at_the_end_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="is in train and in val"), VolumeWriter(tmp_path / "f") as out:
        for id_, split in (("a", "train"), ("b", "val")):
            out.add(ImageRecord(id_, "one patient", split), *(x[None] for x in PAIR), 1.0)
    assert list(tmp_path.iterdir()) == []
