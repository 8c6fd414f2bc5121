"""A stage: stopped after any step and continued, it ends with the same digits; its files are checked when read."""

import numpy as np
import pytest
import torch
from torch import nn

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.refiner import stages as module
from lungseg.refiner.stages import Stages


class Noisy(nn.Module):
    """One map, and dropout, which draws from torch's global generator."""

    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(3, 2), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.linear(x))


def loss_of(model, step, rng):
    return model(torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))).square().mean()


def train(out, *, steps=5, name="a", **options):
    stages = Stages(out, **{"seed": 3, "save_every": 2} | options)
    return stages.train(name, Noisy, loss_of, steps=steps, lr=0.1, kind="noisy").state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("stop", ["a.partial.pt", "a.pt"])
def test_a_stopped_stage_ends_with_the_same_digits(tmp_path, monkeypatch, stop):
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    whole = train(tmp_path / "whole")

    def save_and_stop(path, state):
        save_checkpoint(path, state)
        if path.name == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "save_checkpoint", save_and_stop)
        train(tmp_path / "stopped")
    torch.rand(7)  # a new process has other generators
    assert equal(train(tmp_path / "stopped"), whole)
    one, other = (load_checkpoint(tmp_path / folder / "a.pt") for folder in ("whole", "stopped"))
    assert one["line"] == other["line"] and one["kind"] == "noisy"
    assert not (tmp_path / "stopped/a.partial.pt").exists()


def test_a_finished_stage_takes_no_step_and_says_the_same(tmp_path, capsys):
    trained = train(tmp_path)
    line = capsys.readouterr().out
    again = Stages(tmp_path).train("a", Noisy, None, steps=5, lr=0.1)
    assert equal(again.state_dict(), trained) and capsys.readouterr().out == line and line.startswith("a: 5 steps")
    assert not again.training


def test_seed_stage_and_weight_decay_change_the_weights(tmp_path):
    first = train(tmp_path)
    for i, other in enumerate(({"seed": 4}, {"name": "b"}, {"weight_decay": 0.9}, {"grad_clip": 1e-3})):
        (tmp_path / str(i)).mkdir()
        assert not equal(train(tmp_path / str(i), **other), first), other


def test_each_step_has_its_own_generator_and_its_own_rate(tmp_path, monkeypatch):
    stages = Stages(tmp_path, seed=3)
    assert len({stages.rng(name, step).random() for name in "ab" for step in range(-1, 3)}) == 8
    rates, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    stages.train("a", Noisy, loss_of, steps=40, lr=0.5)
    assert rates[:2] == [0.25, 0.5] and rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.01


def test_zero_steps_leave_the_start(tmp_path):
    start = train(tmp_path, steps=0)
    assert load_checkpoint(tmp_path / "a.pt")["line"] == "a: 0 steps"
    assert equal(start, load_checkpoint(tmp_path / "a.pt")["model"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [({"model": {}}, "losses|optimizer"), ({"model": {}, "optimizer": {}, "losses": [1.0]}, "does not fit")],
)
def test_a_damaged_partial_file_is_refused_in_a_sentence(tmp_path, entries, message):
    save_checkpoint(tmp_path / "a.partial.pt", entries)
    with pytest.raises(ValueError, match=message):
        train(tmp_path)


def test_a_damaged_finished_file_is_refused_in_a_sentence(tmp_path):
    train(tmp_path)
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[200] ^= 1
    (tmp_path / "a.pt").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.pt is damaged"):
        train(tmp_path)


def test_a_loss_that_is_no_number_stops_the_stage_before_it_changes_the_network(tmp_path):
    with pytest.raises(FloatingPointError, match="a: the loss of step 0 is nan. Lower its learning rate"):
        Stages(tmp_path).train("a", Noisy, lambda m, *_: m.linear.weight.sum() * torch.nan, steps=1, lr=0.1)
    assert not list(tmp_path.iterdir())
