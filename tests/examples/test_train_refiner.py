"""train_refiner.py from end to end: its stages, stopped and resumed; predict.py and evaluate.py with its checkpoint."""

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.data.slices import SliceDataset
from lungseg.predictor import load_predictor
from lungseg.refiner import refiner_stages, stages

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("proposer", "proposer_without_fold0", "proposer_without_fold1", "clip", "medsam", "refiner", "best")
TINY = """--channels 4 8 --proposer-steps 2 --proposer-batch 4 --crop-size 16 --smallest 16 --threshold 0.3 --clip-dim 4
    --clip-depth 1 --clip-patients 2 --clip-steps 2 --clip-batch 4 --sam-dim 6 --sam-depth 2 --sam-steps 2
    --refiner-steps 2 --batch-size 2 --save-every 1 --device cpu""".split()


@pytest.fixture(scope="module")
def script(example):
    return example("train_refiner")


@pytest.fixture(scope="module")
def run(script, discs, tmp_path_factory):
    """A finished run that was never stopped."""
    out = tmp_path_factory.mktemp("refiner") / "run"
    dice = script.main([*TINY, "--data", str(discs), "--out", str(out)])
    assert isinstance(dice, float) and 0 <= dice <= 1
    return out


@pytest.fixture(autouse=True)
def _leave_the_memory_as_it_was(monkeypatch):
    monkeypatch.setattr("lungseg.training.machine.keep_freed_memory", lambda: None)


def tensors(value):
    """Everything in a checkpoint, flat; tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return [value.numpy().tobytes()]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [part for _, item in items for part in tensors(item)] or [repr(value)]


def test_each_stage_leaves_one_file_and_nothing_else(run):
    assert {path.name for path in run.iterdir()} == {f"{s}.pt" for s in STAGES} | {"recipe.json", "data.json"}


def test_a_run_that_is_stopped_within_and_between_stages_ends_with_the_same_digits(
    run, script, discs, tmp_path, monkeypatch, capsys
):
    stops = ["proposer_without_fold0.pt", "clip.partial.pt", "refiner.partial.pt"]
    left = list(stops)

    def save_and_stop(path, state):
        save_checkpoint(path, state)
        if left and path.name == left[0]:
            left.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(stages, "save_checkpoint", save_and_stop)
    out = tmp_path / "run"
    begin = [*TINY, "--data", str(discs), "--out", str(out)]
    assert script.main(begin) == 130
    assert "Finished stages are saved" in capsys.readouterr().err
    ends = [script.main(["--out", str(out), "--resume"]) for _ in stops]
    assert ends[:-1] == [130] * (len(stops) - 1) and isinstance(ends[-1], float)
    for stage in STAGES:
        one, other = (load_checkpoint(folder / f"{stage}.pt") for folder in (run, out))
        assert one.keys() == other.keys() and tensors(one) == tensors(other), stage
    capsys.readouterr()
    monkeypatch.setattr(refiner_stages, "fit_judge_on", None)  # a finished run computes nothing again
    assert script.main(["--out", str(out), "--resume"]) == ends[-1]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [*STAGES[:-1], "judge", "test"]


def test_predict_and_evaluate_take_the_checkpoint(run, example, discs, tmp_path, monkeypatch):
    predict, evaluate = example("predict"), example("evaluate")
    monkeypatch.setattr(predict, "keep_freed_memory", lambda: None)
    out, best = tmp_path / "out", run / "best.pt"
    flags = ["--device=cpu", "--threshold=0.2", "--probabilities", "--box", "4,5,20,22"]
    assert predict.main([str(best), str(discs), "--out", str(out), *flags]) == 0
    predictor, (image, _, id_) = load_predictor(best), SliceDataset(discs, "test")[0]
    probs = predictor.probs(image[0].numpy())
    assert np.array_equal(np.asarray(Image.open(out / f"masks/{id_}.png")) > 0, probs > 0.2)
    level = np.asarray(Image.open(out / f"probabilities/{id_}.png")).astype(float) / 65535
    assert np.allclose(level, probs, atol=1e-4)
    assert len(list((out / "boxes").glob("*.png"))) == 2 * 15
    dice = evaluate.main([str(best), "--data", str(discs), "--out", str(tmp_path / "scores"), "--device=cpu"])
    assert isinstance(dice, float)
    with open(tmp_path / "scores/evaluation.csv") as file:
        assert next(csv.DictReader(file))["method"] == "UNet, refined"


def test_the_proposer_alone_takes_no_box(run, example, discs, tmp_path, monkeypatch, capsys):
    predict = example("predict")
    monkeypatch.setattr(predict, "keep_freed_memory", lambda: None)
    argv = [str(run / "proposer.pt"), str(discs), "--out", str(tmp_path / "out"), "--device=cpu", "--box", "4,5,20,22"]
    assert predict.main(argv) == 2 and "--box prompts MedSAM" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict.main([*argv[:-1], "4,5,20"])
    assert "expected X0,Y0,X1,Y1 or SLICE,X0,Y0,X1,Y1" in capsys.readouterr().err


def test_what_does_not_fit_ends_in_a_sentence(run, script, capsys):
    assert script.main(["--out", str(run), *TINY]) == 2 and "Add --resume" in capsys.readouterr().err
    assert script.main(["--out", str(run), "--resume", "--sam-steps", "3"]) == 2
    assert "was started with sam_steps 2, and now it would be 3" in capsys.readouterr().err


def test_a_run_that_is_stopped_before_it_began_has_saved_nothing(script, discs, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "open_refiner_run", stop)
    assert script.main([*TINY, "--data", str(discs), "--out", str(tmp_path / "run")]) == 130
    assert "stopped. Nothing was trained yet; begin again with the same command." in capsys.readouterr().err


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pet_is_measured_on_crops_that_are_turned_together():
    module = benchmark("refiner_pet")
    crops = module.draw("solid", (8.0, 15.0), range(2))
    assert not torch.equal(crops.pet[:2], crops.pet[2:]) and (crops.target.sum((1, 2, 3)) > 0).all()
    network = module.CandidateRefiner(module.MedSAM.tiny(1), modalities=1).eval()
    torch.nn.init.constant_(network.add_scans.weight, 0.1)
    dice = [module.dice(network, crops, way).tolist() for way in module.WAYS]
    assert np.shape(dice) == (3, 2) and dice[0] != dice[1] != dice[2]
    for turn in range(8):
        ways = [module.turned(module.Crops(x, x, x), turn) for x in (crops.ct, crops.pet)]
        assert all(torch.equal(way.ct, way.target) for way in ways)  # all three alike
    assert len({tuple(module.turned(crops, turn).ct.flatten().tolist()) for turn in range(8)}) == 8


def test_the_ablation_prints_a_row_for_each_method(run, capsys):
    module = benchmark("refiner_ablation")
    assert module.main([str(run)]) == 0
    text = capsys.readouterr().out
    rows = [line.split("|")[1].strip()[:2] for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == ["a:", "b:", "c:", "d:", "e:", "f:", "g:", "h:", "h:", "h:"]
    assert "e - a: all" in text and "Of 8 candidates per slice at most: " in text and (run / "ablation").is_dir()


def test_the_ablation_explains_itself_and_waits_for_a_training(run, capsys, monkeypatch):
    module = benchmark("refiner_ablation")
    for argv, code in ((["--help"], 0), ([], 2), (["a", "b", "c"], 2)):
        with pytest.raises(SystemExit) as end:
            module.main(argv)
        assert end.value.code == code
    assert "refiner_ablation.py RUN [DATA]" in capsys.readouterr().out

    def locked(folder):
        raise ValueError(f"{folder} is in use")

    monkeypatch.setattr(module, "locked", locked)
    monkeypatch.setattr(module, "open_refiner_run", None)
    assert module.main([str(run)]) == 2 and capsys.readouterr().err == f"refiner_ablation.py: {run} is in use\n"


def test_the_ablation_keeps_only_what_is_drawn_and_only_until_the_decision(run, discs):
    module, best = benchmark("refiner_ablation"), load_predictor(run / "best.pt")
    context = SimpleNamespace(stages=SimpleNamespace(device="cpu"), slices=lambda split: SliceDataset(discs, split))
    found = module.ellipses(context, best)
    way, calls = found.way, []
    found.way = lambda *args: calls.append(1) or way(*args)
    grey, probs = np.random.default_rng(0).random((64, 64), np.float32), np.zeros((64, 64), np.float32)
    probs[10:17, 20:25] = 0.9
    first = found.refined(grey, probs)
    assert first.any() and np.array_equal(found.refined(grey, probs), first) and len(calls) == 1
    kept = [array.nbytes for drawn, looks in found.looks.values() for array in (drawn, *looks)]
    assert sum(kept) < grey.nbytes / 16
    found.looks = None
    assert np.array_equal(found.refined(grey, probs), first) and np.array_equal(found.refined(grey, probs), first)
    assert len(calls) == 3
    best.settings = replace(best.settings, threshold=0.9999)  # nowhere a candidate
    assert module.borrowed_features(context, best) is None
