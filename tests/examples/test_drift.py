"""The five training scripts tell one story, in named lines only differently; and it is a short way to the step."""

import ast
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("train_*.py") if path.stem != "train_refiner")  # it has stages
MAY_DIFFER = (  # beginnings of statements
    "model = run.build(",  # the network and its arguments
    "weights, reminder = ",  # ResNet50-U-Net: --pretrained is another name of --weights
    "eval_model = ",  # networks that also take volumes evaluate them with a sliding window
)


def story(name):
    """The statements of `train`, without comments, line breaks and the lines that may differ."""
    tree = ast.parse((EXAMPLES / name).read_text())
    (train,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    lines = "\n".join(ast.unparse(statement) for statement in train.body).splitlines()
    return [line.replace("eval_model", "model") for line in lines if not line.startswith(MAY_DIFFER)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_training_script_tells_the_same_story_as_the_others(name):
    assert story(name) == story("train_unet.py")


def test_there_are_five_of_them_and_the_story_is_whole():
    assert len(SCRIPTS) == 5
    text = "\n".join(story("train_unet.py"))
    assert "train_one_epoch(" in text and "evaluate(" in text and "run.end(test, model)" in text


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_rest_of_main_is_the_same_too(name):
    tree = ast.parse((EXAMPLES / name).read_text())
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    out = name.removeprefix("train_").removesuffix(".py")
    assert ast.unparse(main.body[1]) == (
        f"return run_script(train, RECIPES, argv, script=__file__, out='runs/{out}', description=__doc__)"
    )


def test_three_frames_of_ours_lead_from_a_script_to_the_step_of_the_optimizer(example, discs, tmp_path, monkeypatch):
    """A reader, or a student with a debugger, is there at once: run_script, train, train_one_epoch."""
    ways = []
    step = torch.optim.AdamW.step

    def watched(self, *args, **options):
        frame, names = sys._getframe(1), []
        while frame is not None:
            if Path(frame.f_code.co_filename).parts[-2:-1] in (("examples",), ("training",), ("lungseg",)):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        ways.append(names[: names.index("main") + 1])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    sizes = "--channels 4 8 --img-size 16 --epochs 1 --device cpu"
    example("train_unet").main(["--data", str(discs), "--out", str(tmp_path / "run"), *sizes.split()])
    assert ways and all(names == ["train_one_epoch", "train", "run_script", "main"] for names in ways)
