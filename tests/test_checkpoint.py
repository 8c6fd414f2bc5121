"""A checkpoint holds what was put in, or says that it does not; and it never runs anything."""

import copy
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

from lungseg import checkpoint
from lungseg.checkpoint import (
    STOPPING,
    Checkpoint,
    InputSpec,
    NetworkSpec,
    is_sealed,
    load_checkpoint,
    load_latest,
    previous_path,
    save_checkpoint,
    sealed,
)

STATE = {"model": OrderedDict(w=torch.arange(6.0).view(2, 3)), "epoch": 3, "rng": (3, (1, 2), None), "nan": None}


def save(path, epoch):
    save_checkpoint(path, {**STATE, "epoch": epoch}, keep_previous=True)


class OnGPU(torch.Tensor):
    """Stands for a tensor of a GPU."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_tensors_of_a_gpu_are_saved_as_those_of_a_cpu_wherever_they_are():
    network = torch.nn.BatchNorm1d(2)
    state = {"model": network.state_dict(), "list": [torch.ones(1).as_subclass(OnGPU), (None, "a")]}
    state["model"]["bias"] = state["model"]["bias"].as_subclass(OnGPU)
    back = torch.load(io.BytesIO(sealed(state)), weights_only=True)
    assert type(back["list"][0]) is type(back["model"]["bias"]) is torch.Tensor and back["list"][1] == (None, "a")
    assert isinstance(back["model"], OrderedDict) and back["model"]._metadata == network.state_dict()._metadata
    assert type(state["model"]["bias"]) is OnGPU


def test_what_is_saved_comes_back(tmp_path):
    save_checkpoint(tmp_path / "a.pt", STATE)
    back = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(back["model"]["w"], STATE["model"]["w"])
    assert {k: v for k, v in back.items() if k != "model"} == {k: v for k, v in STATE.items() if k != "model"}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_torch_and_zip_tools_read_it_too(tmp_path):
    save_checkpoint(tmp_path / "a.pt", STATE)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["epoch"] == 3
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.comment.startswith(b"sha256:") and archive.testzip() is None


GOOD = sealed(STATE)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_noticed(tmp_path_factory, place, change):
    path = tmp_path_factory.getbasetemp() / "changed.pt"
    path.write_bytes(GOOD[:place] + bytes([GOOD[place] ^ change]) + GOOD[place + 1 :])
    with pytest.raises(ValueError, match=r"damaged|not a checkpoint"):
        load_checkpoint(path)


@given(st.integers(0, len(GOOD) - 1))
def test_a_file_cut_short_anywhere_is_noticed(tmp_path_factory, length):
    path = tmp_path_factory.getbasetemp() / "short.pt"
    path.write_bytes(GOOD[:length])
    with pytest.raises(ValueError, match=r"damaged|not a checkpoint"):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_foreign_file_is_refused_and_nothing_in_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"model": Bomb()}, buffer)
    Path("plain.pkl").write_bytes(pickle.dumps(Bomb()))
    Path("foreign.pt").write_bytes(buffer.getvalue())
    Path("forged.pt").write_bytes(sealed({"model": Bomb()}))  # with a right checksum
    cases = {"plain.pkl": "not a checkpoint", "foreign.pt": "not written by lungseg", "forged.pt": "not read"}
    for name, words in cases.items():
        with pytest.raises(ValueError, match=words):
            load_checkpoint(name)
    with pytest.raises(ValueError, match="No such file"):
        load_checkpoint("missing.pt")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("archive", [True, False])
def test_somebody_elses_file_is_called_that_and_not_damaged(tmp_path, archive):
    """Both formats of torch.save; a file of ours that lost its checksum is another matter."""
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "x.pth", _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"was not written by lungseg.*give it to --weights"):
        load_checkpoint(tmp_path / "x.pth")
    assert not is_sealed(tmp_path / "x.pth")
    (tmp_path / "ours.pt").write_bytes(GOOD)
    assert is_sealed(tmp_path / "ours.pt")
    (tmp_path / "ours.pt").write_bytes(GOOD[: -checkpoint.COMMENT_LENGTH])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(tmp_path / "ours.pt")
    (tmp_path / "ours.pt").write_bytes(b"PK")  # shorter than a checksum
    assert not is_sealed(tmp_path / "ours.pt")


def test_a_power_cut_at_any_moment_leaves_a_good_checkpoint(tmp_path, monkeypatch):
    """Fail before the n-th call to the file system, for every n: the epoch found is the old one or the new one."""

    class PowerCut(BaseException):
        pass

    calls = 0

    def counted(function):
        def call(*args):
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise PowerCut
            return function(*args)

        return call

    for name in ("replace", "fsync", "open"):
        monkeypatch.setattr(checkpoint.os, name, counted(getattr(os, name)))
    seen = []
    for budget in range(20):
        path = tmp_path / str(budget) / "last.pt"
        path.parent.mkdir()
        calls = 10**9
        save(path, 1)
        save(path, 2)
        calls, cut = budget, False
        try:
            save(path, 3)
        except PowerCut:
            cut = True
        calls = 10**9
        seen.append(load_latest(path)["epoch"])
        if not cut:
            break
    assert seen == [2, 2, 2, 3, 3, 3]  # fsync file; rename old; rename new; open folder; fsync folder; no cut


def test_the_folder_is_forced_to_disk_after_the_rename(tmp_path, monkeypatch):
    order = []
    for name in ("replace", "fsync"):
        function = getattr(os, name)
        monkeypatch.setattr(checkpoint.os, name, lambda *a, n=name, f=function: (order.append(n), f(*a))[1])
    save_checkpoint(tmp_path / "a.pt", STATE)
    assert order == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:300] + b"?" + b[301:], lambda b: b""])
def test_a_damaged_latest_is_reported_and_the_one_before_is_used(tmp_path, capsys, damage):
    path = tmp_path / "last.pt"
    save(path, 1)
    save(path, 2)
    path.write_bytes(damage(path.read_bytes()))
    assert load_latest(path)["epoch"] == 1
    assert "last.damaged.pt" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["last.damaged.pt", "last.prev.pt"]
    save(path, 2)  # the run goes on: the good one before is still there until this one stands
    assert load_latest(path)["epoch"] == 2
    assert load_checkpoint(previous_path(path))["epoch"] == 1


def test_without_any_good_checkpoint_a_run_is_not_silently_begun_again(tmp_path):
    path = tmp_path / "last.pt"
    assert load_latest(path) is None
    path.write_bytes(b"PK?")
    for _ in range(2):  # the second time only the file set aside is there
        with pytest.raises(ValueError, match="no checkpoint that can be read"):
            load_latest(path)


def test_a_pipe_or_a_device_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    for name in ("pipe.pt", "zero.pt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read .it is a pipe, a device or a socket"):
            load_checkpoint(tmp_path / name)


# ---- what a checkpoint holds ------------------------------------------------------------------------------------

INPUT = {
    "size": [16, 16], "scale": [0.5, 0.5], "hu_window": [-1000.0, 400.0], "spacing_mm": 0.7,
    "source_scale": [0.25, 0.25], "stretched": False,
}  # fmt: skip
WHOLE = {
    "model": {"w": torch.zeros(2)}, "optimizer": {}, "recipe": {"lr": 0.1}, "run": {"lr": 0.1, "seed": 5}, "data": None,
    "network": {"name": "UNet", "arguments": {"channels": (4, 8)}}, "input": INPUT, "log_position": 0, "rng": [],
    "stopping": {"best": 0.5, "best_epoch": 2, "epochs": 2, "stop": False}, "schedule": {"last_epoch": 3},
    "lungseg": "0.1.0",
}  # fmt: skip


def changed(**parts):
    return {**copy.deepcopy(WHOLE), **parts}


def test_a_checkpoint_is_read_and_written_without_loss(tmp_path):
    saved = Checkpoint.from_dict(WHOLE, Path("last.pt"))
    assert saved.network == NetworkSpec("UNet", {"channels": (4, 8)}) and saved.version == "0.1.0"
    assert saved.schedule == {"last_epoch": 3} and saved.scaler is None
    assert saved.to_dict() == WHOLE  # None of what the training lacked
    save_checkpoint(tmp_path / "last.pt", saved.to_dict())
    again = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(again.pop("model")["w"], WHOLE["model"]["w"])
    assert again == {name: value for name, value in WHOLE.items() if name != "model"}


def test_the_input_of_older_checkpoints_lacks_what_was_not_known_then():
    older = {name: INPUT[name] for name in ("size", "scale", "hu_window", "spacing_mm")}
    spec = InputSpec.from_dict(older)
    assert (spec.source_scale, spec.stretched, spec.classes) == (None, False, ())
    assert InputSpec.from_dict(INPUT | {"classes": ["a", "b"]}).to_dict() == INPUT | {"classes": ["a", "b"]}
    assert InputSpec.from_dict(INPUT | {"spacing_mm": [0.7, None]}).spacing_mm == (0.7, None)
    for name in older:
        with pytest.raises(ValueError, match=f"last.pt is damaged: its input .*{name}"):
            Checkpoint.from_dict(changed(input={k: v for k, v in older.items() if k != name}), Path("last.pt"))


def test_a_checkpoint_has_its_parts():
    Checkpoint.from_dict(WHOLE, Path("last.pt"))
    Checkpoint.from_dict(
        changed(stopping={"best": None, "best_epoch": None, "epochs": 0, "stop": True}), Path("last.pt")
    )


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        *(({"stopping": {**WHOLE["stopping"], name: "x"}}, f"stopping is damaged: {name}") for name in STOPPING),
        ({"stopping": {}}, "stopping is damaged: best is missing"),
        ({"stopping": {**WHOLE["stopping"], "epochs": -1}}, "epochs is -1"),
        ({"stopping": {**WHOLE["stopping"], "epochs": True}}, "epochs is True"),
        ({"log_position": -5}, "log_position is -5"),
        ({"network": {"name": 3, "arguments": {}}}, "network is damaged: name is 3"),
        ({"network": {"name": "UNet"}}, "network is damaged: arguments is missing"),
    ],
)
def test_parts_of_another_shape_are_named(parts, words):
    with pytest.raises(ValueError, match=f"last.pt.*{words}"):
        Checkpoint.from_dict(changed(**parts), Path("last.pt"))
