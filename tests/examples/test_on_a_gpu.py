"""The scripts on a GPU, from end to end: training, resuming, compiling, running out of memory, several processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from lungseg.checkpoint import load_checkpoint
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.unet import UNet
from lungseg.predictor import load_predictor
from lungseg.training.loss import make_loss
from lungseg.training.machine import autocast_dtype
from lungseg.training.optim import make_optimizer
from lungseg.training.run import Run
from lungseg.training.step import train_one_epoch

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
SWIN = """--img-size 16 --patch-size 2 --embed-dim 16 --depths 2 2 --num-heads 1 2 --window-size 4 --batch-size 4
    --schedule constant --lr 0.01 --drop-path-rate 0.2""".split()
UNETR = "--img-size 16 --patch-size 4 --embed-dim 16 --depth 2 --num-heads 2 --feature-size 2 --skip-layers 1".split()
RESNET = """--img-size 32 --stem 8 --widths 4 4 8 8 --depths 1 1 1 1 --decoder-channels 8 8 8 8 8
    --batch-size 4""".split()
SOLID = """--phantom-volumes 4 --phantom-shape 6 20 24 --crop-size 4 16 16 --crops-per-volume 2 --batch-size 2
    --channels 4 8""".split()
SCRIPTS = {  # name -> script, flags; together they use every part of the loop
    "Swin-UNet": ("train_swin", [*SWIN, "--ema", "0.9", "--num-workers", "2"]),
    "UNETR": ("train_unetr", [*UNETR, "--accumulate", "2", "--loss", "dice_boundary"]),
    "ResNet50-U-Net": ("train_resnet", [*RESNET, "--amp", "fp16", "--optimizer", "sgd", "--lr", "0.01"]),
    "U-Net": ("train_unet", ["--img-size", "16", "--channels", "4", "8", "--amp", "none", "--freeze-encoder", "1"]),
    "U-Net, volumes": ("train_unet", ["--recipe", "volumes", *SOLID, "--amp", "fp16"]),
    "RRC-U-Net": ("train_rrc_unet", SOLID),
}
TORCHRUN = "-m torch.distributed.run --nnodes=1 --rdzv_backend=c10d --rdzv_endpoint=localhost:0".split()
REFINER = """--channels 4 8 --proposer-steps 2 --proposer-batch 4 --crop-size 16 --smallest 16 --threshold 0.3
    --clip-dim 16 --clip-depth 1 --clip-patients 2 --clip-steps 2 --clip-batch 4 --sam-dim 24 --sam-depth 2
    --sam-steps 2 --refiner-steps 2 --batch-size 2 --save-every 1""".split()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_training_script_runs_and_its_network_predicts_as_on_a_cpu(name, example, discs, tmp_path, device):
    script, flags = SCRIPTS[name]
    run, solid = tmp_path / "run", name in ("U-Net, volumes", "RRC-U-Net")
    data = [] if solid else ["--data", str(discs)]
    argv = [*data, "--out", str(run), "--epochs", "2", "--device", device.type, *flags]
    assert isinstance(example(script).main(argv), float)
    grey = np.random.default_rng(0).random((6, 20, 24) if solid else (32, 32), np.float32)
    here, there = (load_predictor(run / "best.pt", place).probs(grey) for place in ("cpu", device))
    np.testing.assert_allclose(there, here, atol=1e-3)
    if not solid:
        argv = [str(run / "best.pt"), "--data", str(discs), "--out", str(tmp_path / "scores"), "--device", device.type]
        assert isinstance(example("evaluate").main(argv), float)


def test_resumed_with_deterministic_algorithms_a_run_is_the_same_bit_by_bit(discs, tmp_path, device):
    """As a user does it: in processes of their own, since cuBLAS reads its setting when it starts."""
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": str(ROOT)}

    def train(out, *flags):
        command = [sys.executable, str(ROOT / "examples/train_swin.py"), "--out", str(tmp_path / out), *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr

    begin = ["--data", str(discs), "--device", device.type, *SWIN, "--ema", "0.9"]
    train("whole", *begin, "--epochs", "3")
    train("parts", *begin, "--epochs", "2")
    train("parts", "--device", device.type, "--resume", "--epochs", "3")
    whole, parts = (load_checkpoint(tmp_path / out / "last.pt") for out in ("whole", "parts"))
    for entry in ("model", "optimizer", "ema", "rng", "stopping"):
        (ours, form), (theirs, its_form) = tree_flatten(whole[entry]), tree_flatten(parts[entry])
        assert form == its_form
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, entry


def test_compile_trains_and_evaluates(example, discs, tmp_path, device, monkeypatch):
    compile_ = nn.Module.compile
    if device.type == "cpu":  # where generating code takes a minute
        monkeypatch.setattr(nn.Module, "compile", lambda self: compile_(self, backend="aot_eager"))
    torch.compiler.reset()
    run, flags = tmp_path / "run", ["--img-size", "16", "--channels", "4", "8", "--epochs", "1", "--compile"]
    argv = ["--data", str(discs), "--out", str(run), "--device", device.type, *flags]
    assert isinstance(example("train_unet").main(argv), float)
    load_predictor(run / "best.pt")  # its weights have the names of a network that was not compiled


def test_too_little_memory_is_a_sentence_and_leaves_the_checkpoint_as_it_was(
    example, discs, tmp_path, device, monkeypatch, capsys
):
    """In the middle of the second epoch the network asks for 1 PiB: the allocator itself refuses."""
    script, run, forward = example("train_unet"), tmp_path / "run", UNet.forward
    flags = ["--img-size", "16", "--channels", "4", "8", "--batch-size", "4", "--schedule", "constant"]
    begin = ["--data", str(discs), "--out", str(run), "--epochs", "1", "--device", device.type, *flags]
    assert isinstance(script.main(begin), float)
    before = {path.name: path.read_bytes() for path in run.glob("*.pt")}
    resume, passes = ["--out", str(run), "--epochs", "3", "--device", device.type, "--resume"], []

    def greedy(self, image):
        passes.append(None)
        if self.training and len(passes) > 1:
            torch.empty(2**50, dtype=torch.uint8, device=image.device)
        return forward(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(UNet, "forward", greedy)
        capsys.readouterr()
        assert script.main(resume) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "halve --batch-size" in said
    gpu = "GPU " if device.type == "cuda" else ""
    assert f"too little {gpu}memory: " in said and re.search(r"1,?048,?576.00? GiB were asked for at once", said)
    assert {path.name: path.read_bytes() for path in run.glob("*.pt")} == before
    assert isinstance(script.main(resume), float)


@pytest.mark.parametrize("amp", ["auto", "none"])
def test_the_reports_resnet_recipe_needs_less_than_4_gb(amp, example, cuda):
    """Its batch and its size, in its number type and in float32; what torch has allocated at most, in 10^9 bytes."""
    script = example("train_resnet")
    recipe = script.RECIPES["report"]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(cuda)
    before = torch.cuda.memory_allocated(cuda)
    model = ResNet50UNet(**script.network_arguments(recipe)).to(cuda)
    shape = (recipe.batch_size, 1, recipe.img_size, recipe.img_size)
    batches = [(torch.rand(shape), torch.rand(shape).round())] * 3
    train_one_epoch(
        model, batches, make_loss(recipe), make_optimizer(recipe, model), autocast_dtype=autocast_dtype(amp, cuda)
    )
    used = torch.cuda.max_memory_allocated(cuda) - before
    print(f"--recipe report --amp {amp}: {used / 1e9:.2f} GB")
    assert used < 4e9


def test_a_refiner_is_trained_and_evaluated(example, discs, tmp_path, device):
    run = tmp_path / "run"
    argv = ["--data", str(discs), "--out", str(run), "--device", device.type, *REFINER]
    assert isinstance(example("train_refiner").main(argv), float)
    argv = [str(run / "best.pt"), "--data", str(discs), "--out", str(tmp_path / "scores"), "--device", device.type]
    assert isinstance(example("evaluate").main(argv), float)


def test_two_processes_learn_what_one_learns(discs, tmp_path, device):
    """Through nccl; 9 training slices in batches of 6 at most, 3 for validation: uneven shares. On a CPU, gloo."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    flags = [
        "--data",
        str(discs),
        "--device",
        device.type,
        *SWIN,
        "--epochs",
        "2",
        "--batch-size",
        "6",
        "--amp",
        "none",
    ]
    flags += ["--drop-path-rate", "0", "--lr", "1e-3", "--ema", "0.9"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NVIDIA_TF32_OVERRIDE": "0"}
    for count in (1, 2):
        script = [str(ROOT / "examples/train_swin.py"), "--out", str(tmp_path / f"{count}"), *flags]
        command = [sys.executable, *TORCHRUN, f"--nproc_per_node={count}", *script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("best epoch") == 1  # one process speaks
    one, two = (load_checkpoint(tmp_path / count / "last.pt") for count in "12")
    for a, b in ((one["model"], two["model"]), (one["ema"]["weights"], two["ema"]["weights"])):
        for name in a:
            torch.testing.assert_close(b[name], a[name], atol=1e-3, rtol=1e-3)


FAILS = """
import sys
from lungseg.exits import leave, run_main
from lungseg.training.distributed import start_processes

def work():
    with start_processes(sys.argv[1]) as processes:
        processes.gather(processes.rank)
        if processes.rank == 1:
            raise ValueError("process 1 has failed.")
        processes.gather(processes.rank)  # never comes about

leave(run_main("x.py", work, stopped="", too_little_memory=""))
"""


def test_a_process_that_fails_ends_all_at_once(tmp_path, device):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    (tmp_path / "x.py").write_text(FAILS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *TORCHRUN, "--nproc_per_node=2", str(tmp_path / "x.py"), device.type]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1 and "x.py: process 1 has failed." in done.stderr


def test_later_epochs_need_no_more_memory_than_the_second(cuda, discs, tmp_path, example, monkeypatch):
    used, end_epoch = [], Run.end_epoch

    def counted(self, *args, **options):
        used.append(torch.cuda.memory_allocated(cuda))
        return end_epoch(self, *args, **options)

    monkeypatch.setattr(Run, "end_epoch", counted)
    flags = ["--img-size", "16", "--channels", "4", "8", "--epochs", "4", "--device", "cuda"]
    example("train_unet").main(["--data", str(discs), "--out", str(tmp_path / "run"), *flags])
    assert len(used) == 4 and np.ptp(used[1:]) < 2**20
