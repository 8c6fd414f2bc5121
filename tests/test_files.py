"""A folder of results is there as a whole or not at all; what is no file is not opened."""

import errno
import os

import pytest
from hypothesis import given, strategies as st

from lungseg.files import check_free, naming, or_warn, path_below, regular_file, whole_file, whole_folder


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


def test_a_file_appears_at_the_end(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old" and partial.name.startswith(".")
    assert (tmp_path / "a.txt").read_text() == "new" and everything_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_file_as_it_was(error, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old" and everything_in(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_a_full_disk_names_the_file(tmp_path):
    """The system does not say which file it is about when bytes are written."""
    with pytest.raises(OSError) as error, whole_file(tmp_path / "last.pt"), open("/dev/full", "w") as file:
        file.write("x")
    assert error.value.filename == str(tmp_path / "last.pt") and error.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as error, naming("run/log.jsonl"), open("/dev/full", "w") as file:
        file.write("x")
    assert error.value.filename == "run/log.jsonl"
    with pytest.raises(OSError) as error, naming("run/log.jsonl"):
        open(tmp_path / "nowhere/a")
    assert error.value.filename == str(tmp_path / "nowhere/a")  # that one is named already


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


def test_a_link_to_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    with whole_folder(tmp_path / "out") as out:
        (out / "a.txt").write_text("one")
    assert everything_in(tmp_path) == ["disk", "disk/a.txt", "out"] and (tmp_path / "out/a.txt").read_text() == "one"


@pytest.mark.parametrize(("error", "reason"), [
    (OSError(28, "No space left on device"), "[Errno 28] No space left on device"), (MemoryError(), "MemoryError"),
    (RuntimeError("two\nlines"), "two lines"),
])  # fmt: skip
def test_a_picture_that_fails_is_one_sentence_and_the_work_goes_on(error, reason):
    with pytest.warns(UserWarning) as said, or_warn("a.png was not drawn"):
        raise error
    assert [str(w.message) for w in said] == [f"a.png was not drawn ({reason}). Everything else is there."]


def test_ctrl_c_and_what_is_no_error_pass_by():
    with or_warn("a.png was not drawn"):
        pass
    with pytest.raises(KeyboardInterrupt), or_warn("a.png was not drawn"):
        raise KeyboardInterrupt


# ---- names of files that others chose ---------------------------------------------------------------------------


names = st.one_of(
    st.text(max_size=8),
    st.lists(st.sampled_from(["", ".", "..", "a", "..a", "link", "file", "\\", "~", "\0"]), max_size=4).map("/".join),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a link that leads out of it, a link that does not, and a file, which is no folder."""
    folder = tmp_path_factory.mktemp("below") / "out"
    (folder / "inside").mkdir(parents=True)
    (folder / "link").symlink_to("../..")
    (folder / "within").symlink_to("inside")
    (folder / "file").write_text("")
    return folder


@given(names)
def test_a_path_lies_below_its_folder_or_is_refused(folder, name):
    before = set(folder.parent.rglob("*"))
    try:
        path = path_below(folder, name)
    except (ValueError, OSError):
        assert set(folder.parent.rglob("*")) == before  # nothing was made
        return
    real, above = os.path.realpath(path), os.path.realpath(folder)
    assert os.path.commonpath([real, above]) == above != real
    assert path.parent.is_dir() and ".." not in name.split("/") and not name.startswith("/")


@pytest.mark.parametrize("name", ["", ".", "..", "/a", "a/../../b", "a//b", "a/", "a\0b", "link/a", "./a", "../out/a"])
def test_what_leads_elsewhere_is_refused_in_one_sentence(folder, name):
    before = everything_in(folder.parent)
    with pytest.raises(ValueError, match="would not be inside") as error:
        path_below(folder, name)
    assert "\n" not in str(error.value) and everything_in(folder.parent) == before


def test_folders_on_the_way_are_made(folder):
    assert path_below(folder, "masks/scan/000.png") == folder / "masks/scan/000.png"
    assert (folder / "masks/scan").is_dir() and not (folder / "masks/scan/000.png").exists()
    assert path_below(folder, "within/b") == folder / "within/b"
