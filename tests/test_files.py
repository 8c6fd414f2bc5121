"""A folder of results is there as a whole or not at all; what is no file is not opened."""

import os

import pytest

from lungseg.files import check_free, regular_file, whole_folder


def everything_in(folder):
    """Also what is hidden."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.mark.parametrize("there", [False, True])
def test_a_new_or_empty_folder_appears_at_the_end_with_all_that_was_written(there, tmp_path):
    target = tmp_path / "runs/out"
    if there:
        target.mkdir(parents=True)
    check_free(target)
    with whole_folder(target) as out:
        (out / "deep").mkdir()
        (out / "deep/a.txt").write_text("one")
        (out / "b.txt").write_text("two")
        assert out.name.startswith(".") and (not target.exists() or everything_in(target) == [])
    assert everything_in(tmp_path) == ["runs", "runs/out", "runs/out/b.txt", "runs/out/deep", "runs/out/deep/a.txt"]
    assert (target / "deep/a.txt").read_text() == "one"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing_and_goes_on(error, tmp_path):
    with pytest.raises(error), whole_folder(tmp_path / "out") as out:
        (out / "half.txt").write_text("half")
        raise error
    assert everything_in(tmp_path) == []


def test_what_a_killed_process_of_our_number_left_does_not_get_in(tmp_path):
    with whole_folder(tmp_path / "out") as out:
        pass
    out.mkdir()
    (out / "old.txt").write_text("old")
    (tmp_path / "out").rmdir()
    with whole_folder(tmp_path / "out"):
        pass
    assert everything_in(tmp_path) == ["out"]


def test_a_folder_that_somebody_filled_meanwhile_is_left_alone(tmp_path):
    with pytest.raises(OSError), whole_folder(tmp_path / "out") as out:
        (out / "mine.txt").write_text("mine")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs.txt").write_text("theirs")
    assert everything_in(tmp_path) == ["out", "out/theirs.txt"]


def test_a_relative_name_means_the_folder_where_the_writing_began(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with whole_folder("out"):
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert everything_in(tmp_path) == ["elsewhere", "out"]


def test_what_is_not_empty_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(ValueError) as error:
            check_free(taken)
        assert str(error.value) == f"{taken} is not empty. Choose another folder with --out."


def test_a_file_or_a_link_to_one_may_be_opened(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert regular_file(str(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_pipe_or_a_device_may_not(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(OSError, match="it is a pipe, a device or a socket, not a regular file"):
        regular_file(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        regular_file(tmp_path / "missing")
