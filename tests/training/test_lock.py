"""One process at a time in a folder; a dead one blocks nobody, and its children do not either."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lungseg.training import lock
from lungseg.training.lock import NAME, locked

# Not from the package, which would import torch.
ALONE = f"import os, sys, time; sys.path.insert(0, {str(Path(lock.__file__).parent)!r}); from lock import locked\n"
HOLD = ALONE + "with locked(sys.argv[1]): os.write(1, b'held\\n'); time.sleep(60)"
FORK = ALONE + "with locked(sys.argv[1]): os.fork(); os.write(1, b'held\\n'); time.sleep(60)"
TRY = ALONE + "with locked(sys.argv[1]): pass"


def python(code, folder, **options):
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, **options)


def tried(folder):
    return subprocess.run([sys.executable, "-c", TRY, str(folder)], capture_output=True, text=True, timeout=60)


@pytest.fixture
def holder(tmp_path):
    process = python(HOLD, tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_by_name(tmp_path, holder):
    with pytest.raises(ValueError, match=f"run is in use by process {holder.pid} on .*, which writes there. Wait"):
        with locked(tmp_path / "run"):
            raise AssertionError("two processes hold it")
    assert "in use" in tried(tmp_path / "run").stderr
    assert (tmp_path / "run" / NAME).exists()  # those who were refused took nothing away


def test_a_killed_process_blocks_nobody(tmp_path, holder):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run"):
        assert "in use" in tried(tmp_path / "run").stderr


def test_children_that_outlive_their_parent_block_nobody(tmp_path):
    """The worker processes of a DataLoader notice only after seconds that a run was killed."""
    process = python(FORK, tmp_path / "run", start_new_session=True)
    assert [process.stdout.readline() for _ in range(2)] == ["held\n"] * 2
    process.kill()
    process.wait()
    try:
        with locked(tmp_path / "run"):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the child
        process.communicate()


def test_a_file_a_link_and_a_pipe_are_not_written_to(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with pytest.raises(ValueError, match="victim is a file. Choose another folder"), locked(victim):
        pass
    for i, make in enumerate((lambda path: path.symlink_to(victim), os.mkfifo)):
        (tmp_path / str(i)).mkdir()
        make(tmp_path / str(i) / NAME)
        with pytest.raises((OSError, ValueError), match=r"\.lock"), locked(tmp_path / str(i)):
            pass
    assert victim.read_text() == "precious"


def test_a_folder_made_here_is_removed_if_it_stays_empty(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert os.listdir(tmp_path / "a" / "b") == [NAME]
    assert os.listdir(tmp_path) == []
    (tmp_path / "there").mkdir()
    with locked(tmp_path / "there"):
        pass
    assert os.listdir(tmp_path) == ["there"]
    with pytest.raises(KeyError), locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
        raise KeyError
    assert os.listdir(tmp_path / "a" / "b") == ["result"]


def test_a_file_removed_by_its_last_owner_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    """Opened before the owner's end and locked after it: the next process would make a new file, and hold that."""
    opened, number = [], 0

    def slow_open(number, mode):
        file, path = open(number, mode), tmp_path / NAME
        opened.append(file)
        if len(opened) == 1:
            os.remove(path)  # the owner ends now
        return file

    monkeypatch.setattr(lock.os, "fdopen", slow_open)
    with locked(tmp_path):
        assert len(opened) == 2 and opened[0].closed
        number = os.stat(tmp_path / NAME).st_ino
        assert os.fstat(opened[1].fileno()).st_ino == number


@pytest.mark.parametrize(("number", "goes_on"), [(errno.ENOLCK, True), (errno.EIO, False)])
def test_a_disk_without_locks_is_used_without_one(tmp_path, monkeypatch, number, goes_on):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    if goes_on:
        with locked(tmp_path):
            pass
    else:
        with pytest.raises(OSError), locked(tmp_path):
            pass


def test_of_many_started_at_once_one_holds_it(tmp_path):
    """All of them make the folder; none finds it gone."""
    for _ in range(5):
        crowd = [python(HOLD, tmp_path / "run", stderr=subprocess.PIPE) for _ in range(4)]
        end = time.monotonic() + 60
        while sum(p.poll() is None for p in crowd) > 1 and time.monotonic() < end:
            time.sleep(0.02)
        (winner,) = [p for p in crowd if p.poll() is None]
        assert winner.stdout.readline() == "held\n"
        for process in crowd:
            process.kill()
            _, errors = process.communicate()
            assert process is winner or "ValueError" in errors and "in use" in errors, errors
