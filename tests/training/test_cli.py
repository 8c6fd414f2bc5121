"""What a training script makes of its flags, and of whatever ends it."""

import errno

import pytest
import torch

from lungseg.training.cli import run_script
from lungseg.training.recipe import TrainingRecipe

RECIPE = TrainingRecipe(img_size=16, phantom_patients=4, phantom_slices=1, epochs=2)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("the file is odd."), 2, "train_x.py: the file is odd.\n"),
        (FloatingPointError("The loss became nan."), 2, "train_x.py: The loss became nan.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "last.pt"), 2, "Make room first. Nothing was trained yet"),
        (torch.OutOfMemoryError("CUDA ..."), 2, "halve --batch-size"),
        (KeyboardInterrupt(), 130, "train_x.py: stopped. Nothing was trained yet"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_a_code(tmp_path, capsys, error, code, words):
    def train(run):
        raise error

    argv = ["--out", str(tmp_path / "run")]
    assert run_script(train, {"a": RECIPE}, argv, script="/x/train_x.py", out="runs/x", description="") == code
    text = capsys.readouterr().err
    assert words in text and "Traceback" not in text


def test_what_an_apple_gpu_cannot_compute_is_told_in_a_sentence(tmp_path, capsys):
    def train(run):
        raise NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device.\nMore.")

    argv = ["--out", str(tmp_path / "run")]
    assert run_script(train, {"a": RECIPE}, argv, script="x.py", out="x", description="") == 2
    text = capsys.readouterr().err
    assert "aten::x" in text and "--device cpu" in text and text.count("\n") == 1


def test_a_mistake_of_ours_is_not_hidden(tmp_path):
    def train(run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_script(train, {"a": RECIPE}, ["--out", str(tmp_path)], script="x.py", out="x", description="")


def test_the_story_gets_what_was_asked_for_and_its_result_is_returned(tmp_path):
    def train(run):
        assert run.recipe.epochs == 7 and run.recipe.img_size == 16 and run.options.seed == 3
        assert run.saved is None and run.compute["autocast_dtype"] is None
        return 0.25

    argv = ["--epochs", "7", "--seed", "3", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert run_script(train, {"a": RECIPE}, argv, script="x.py", out="runs/x", description="") == 0.25
    assert not (tmp_path / "run").exists()  # nothing is written before the story begins to
