"""More epochs: what goes on, and the command where nothing can."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lungseg.flags import parse_recipe
from lungseg.training.longer import command_from_best, with_more_epochs
from lungseg.training.recipe import RunOptions, TrainingRecipe

RECIPES = {"demo": TrainingRecipe(), "large": TrainingRecipe(img_size=256, lr=3e-4, epochs=100, grad_clip=None)}
WARM = {"warmup_epochs": 0.0}


@pytest.mark.parametrize("changes", [{"schedule": "constant"}, {"schedule": "plateau", **WARM}])
@pytest.mark.parametrize("done", [0, 3, 35])
def test_a_schedule_that_does_not_know_its_end_goes_on(changes, done):
    then = replace(RECIPES["demo"], **changes)
    longer = with_more_epochs(then, 60, Path("run"), done=done, stopped=False, new_run="")
    assert longer == replace(then, epochs=60)


def test_a_cosine_is_not_stretched():
    for done, words in ((35, "To train longer, start from"), (10, "let it finish (--resume alone), then start from")):
        with pytest.raises(ValueError, match="started with epochs 35, and its learning rate falls") as error:
            with_more_epochs(RECIPES["demo"], 60, Path("run"), done=done, stopped=False, new_run="python x.py")
        assert words in str(error.value) and str(error.value).endswith(": python x.py")


def test_a_run_that_was_stopped_early_stays_stopped():
    then = replace(RECIPES["demo"], schedule="constant", patience=3)
    with pytest.raises(ValueError, match=r"--patience stopped it after 12\. To train longer, start from"):
        with_more_epochs(then, 60, Path("run"), done=12, stopped=True, new_run="python x.py")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("changes", [{}, {"batch_size": 3, "prior_bias": False, "weights": "old.pt", "patience": 4}])
def test_the_command_is_the_same_training_from_the_best_weights_at_a_tenth_of_the_rate(tmp_path, name, changes):
    out, data = tmp_path / "my run", Path("some data")
    out.mkdir()
    (tmp_path / "my run_2").mkdir()  # taken
    then = replace(RECIPES[name], **changes)
    command = command_from_best("python x.py", then, RECIPES, 25, out, data=data, seed=7)
    python, script, *argv = shlex.split(command)
    assert (python, script) == ("python", "x.py")
    recipe, options, _ = parse_recipe(RECIPES, RunOptions(), argv)
    assert recipe.lr == pytest.approx(then.lr / 10)
    assert recipe == replace(then, weights=str(out / "best.pt"), epochs=25, lr=recipe.lr)
    assert options == RunOptions(data=data, out=tmp_path / "my run_3", seed=7)
