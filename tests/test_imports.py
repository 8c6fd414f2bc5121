"""The import table of docs/design.md, as code: who may know whom."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lungseg"

# file -> what it may import: third-party packages, and modules of ours ("nn" and "data" mean anything inside).
TABLE = {
    "__init__.py": {"_lazy", "nn", "predictor", "weights.load"},
    "_lazy.py": set(),
    "nn/__init__.py": {"nn"},
    "nn/windows.py": {"torch"},
    "nn/arguments.py": {"torch"},
    "nn/memory_layout.py": {"torch"},
    "nn/layers.py": {"torch", "nn.arguments", "nn.memory_layout"},
    "nn/patches.py": {"torch", "nn.layers", "nn.windows"},
    "nn/attention.py": {"torch", "nn.arguments", "nn.windows"},
    "nn/conv_stem.py": {"torch", "nn.layers"},
    "nn/swin_unet.py": {
        "torch",
        "nn.arguments",
        "nn.windows",
        "nn.layers",
        "nn.patches",
        "nn.attention",
        "nn.conv_stem",
    },
    "nn/unetr.py": {"torch", "nn.arguments", "nn.layers", "nn.patches", "nn.attention"},
    "nn/resnet_unet.py": {"torch", "nn.arguments", "nn.layers", "nn.memory_layout"},
    "nn/unet.py": {"torch", "nn.arguments", "nn.layers", "nn.memory_layout"},
    "nn/rrc_unet.py": {"torch", "nn.arguments", "nn.layers", "nn.unet"},
    "nn/sam_encoder.py": {
        "torch",
        "nn.arguments",
        "nn.attention",
        "nn.layers",
        "nn.patches",
        "nn.unetr",
        "nn.windows",
    },
    "nn/sam_prompts.py": {"torch", "nn.arguments", "nn.layers", "nn.unetr"},
    "nn/sam_decoder.py": {"torch", "nn.arguments", "nn.layers"},
    "nn/sam.py": {"torch", "nn.arguments", "nn.layers", "nn.sam_decoder", "nn.sam_encoder", "nn.sam_prompts"},
    "nn/lora.py": {"torch", "nn.arguments", "nn.sam_encoder"},
    "nn/refiner.py": {"torch", "nn.arguments", "nn.biomedclip", "nn.lora", "nn.patches", "nn.sam"},
    "nn/vit.py": {"torch", "nn.arguments", "nn.layers", "nn.patches", "nn.unetr"},
    "nn/bert.py": {"torch", "nn.arguments", "nn.layers"},
    "nn/biomedclip.py": {"torch", "nn.arguments", "nn.bert", "nn.layers", "nn.vit"},
    "data/__init__.py": {"_lazy", "data"},
    "evaluation/__init__.py": {"_lazy", "evaluation"},
    "training/__init__.py": {"_lazy", "training"},
    "weights/__init__.py": {"_lazy", "weights"},
    "data/pickles/unpickler.py": set(),
    "data/pickles/dataframe.py": {"numpy", "data.pickles.unpickler"},
    "data/headers.py": {"files"},
    "data/pickles/table.py": {
        "numpy",
        "data.pickles.dataframe",
        "data.headers",
        "data.plausible",
        "data.pickles.unpickler",
        "files",
    },
    "data/ct.py": {"numpy", "PIL"},
    "data/prepare/columns.py": {"numpy", "data.headers"},
    "data/elastic.py": {"numpy", "scipy"},
    "data/augment.py": {"numpy", "scipy", "data.elastic", "data.grey_changes"},
    "data/grey_changes.py": {"numpy", "scipy"},
    "data/phantoms/raster.py": {"numpy", "scipy"},
    "data/phantoms/vessels.py": {"numpy", "scipy", "data.phantoms.raster"},
    "data/phantoms/anatomy.py": {"numpy", "data.phantoms.raster", "data.phantoms.vessels"},
    "data/phantoms/nodules.py": {"numpy", "data.phantoms.anatomy", "data.phantoms.raster"},
    "data/phantoms/painting.py": {"numpy", "data.phantoms.raster", "data.phantoms.anatomy"},
    "data/phantoms/scene.py": {
        "numpy",
        "scipy",
        "data.phantoms.raster",
        "data.phantoms.anatomy",
        "data.phantoms.nodules",
        "data.phantoms.painting",
        "data.phantoms.pet",
    },
    "data/phantoms/pet.py": {
        "numpy",
        "scipy",
        "data.phantoms.raster",
        "data.phantoms.anatomy",
        "data.phantoms.nodules",
        "data.phantoms.painting",
    },
    "data/phantoms/captions.py": {
        "numpy",
        "data.phantoms.anatomy",
        "data.phantoms.nodules",
        "data.phantoms.raster",
        "data.phantoms.scene",
    },
    "data/plausible.py": {"numpy"},
    "data/classes.py": {"numpy"},
    "data/samples.py": {"torch", "data.manifest"},
    "data/manifest.py": {"data.ct", "data.folder_files", "data.headers", "data.splits"},
    "data/readers.py": {
        "numpy",
        "data.ct",
        "data.folder_files",
        "data.grey_png",
        "data.headers",
        "data.manifest",
        "data.volume_file",
    },
    "data/slices.py": {"torch", "numpy", "PIL", "tqdm", "data"},
    "data/grey_png.py": {"numpy", "PIL", "files"},
    "data/folder_files.py": set(),
    "data/manifest_writer.py": {"data.classes", "data.manifest", "data.splits", "files"},
    "data/phantoms/folders.py": {"numpy", "tqdm", "data"},
    "data/mapped_arrays.py": {"numpy", "data.headers", "files"},
    "data/volume_file.py": {"numpy", "data.classes", "data.mapped_arrays", "data.plausible", "files"},
    "data/volumes.py": {"torch", "numpy", "tqdm", "data"},
    "data/volume_augment.py": {"numpy", "data.augment", "data.elastic"},
    "data/volume_lesions.py": {"numpy", "scipy", "data.classes", "data.slice_spacing"},
    "data/slice_spacing.py": {"numpy", "data.ct"},
    "data/resampled_volumes.py": {"torch", "data.samples", "data.slice_spacing", "data.volumes"},
    "data/volume_slices.py": {"torch", "numpy", "data"},
    "data/slice_crops.py": {"torch", "numpy", "data"},
    "data/neighbours.py": {"numpy", "data.manifest"},
    "data/scans.py": {"numpy", "data", "files"},
    "data/prepare/pictures.py": {"numpy", "PIL"},
    "data/prepare/order.py": {"data.headers", "data.manifest", "data.prepare.columns"},
    "data/prepare/sources.py": {"numpy", "tqdm", "data"},
    "data/prepare/overview.py": {"numpy", "PIL", "data", "draw"},
    "data/geometry.py": {"numpy", "scipy"},
    "data/dicom.py": {"numpy", "data.ct", "data.geometry"},
    "data/splits.py": {"numpy", "scipy"},
    "losses.py": {"torch"},
    "losses_geometry.py": {"torch", "numpy", "scipy", "losses"},
    "losses_contrastive.py": {"torch"},
    "wordpiece.py": {"torch", "files"},
    "zero_shot.py": {"torch", "numpy", "PIL", "nn.biomedclip", "wordpiece"},
    "lungs.py": {"numpy", "scipy"},
    "search.py": {"numpy", "scipy", "lungs"},
    "candidates.py": {"numpy", "scipy", "evaluation.lesions", "flags", "lungs"},
    "candidate_files.py": {"numpy", "PIL", "candidates", "data.scans", "draw", "files", "predictor"},
    "scan_prediction.py": {"numpy", "tqdm", "predictor", "scale"},
    "evaluation/metrics.py": {"torch", "numpy", "scipy"},
    "evaluation/lesions.py": {"numpy", "scipy"},
    "evaluation/scores.py": {"torch", "numpy", "tqdm", "data", "evaluation.lesions", "evaluation.metrics"},
    "evaluation/strata.py": {"torch", "numpy", "evaluation.lesions", "evaluation.metrics", "evaluation.scores"},
    "evaluation/froc.py": {
        "numpy",
        "PIL",
        "scipy",
        "candidates",
        "charts",
        "data.volumes",
        "evaluation.lesions",
        "evaluation.tables",
    },
    "evaluation/comparison.py": {
        "numpy",
        "data.samples",
        "decision",
        "evaluation.scores",
        "evaluation.strata",
        "evaluation.tables",
    },
    "evaluation/choosing.py": {"numpy", "decision"},
    "evaluation/ranking.py": {"numpy", "scipy"},
    "evaluation/report.py": {"evaluation.comparison"},
    "evaluation/pictures.py": {"numpy", "data", "evaluation.metrics", "evaluation.scores"},
    "evaluation/tables.py": {"evaluation.scores", "files"},
    "inference.py": {"torch", "data.neighbours"},
    "scale.py": {"numpy", "checkpoint"},
    "tta.py": {"torch"},
    "decision.py": {"numpy", "scipy"},
    "ensemble.py": {"numpy", "checkpoint", "scale"},
    "predictor.py": {
        "torch",
        "numpy",
        "tqdm",
        "checkpoint",
        "data",
        "decision",
        "ensemble",
        "inference",
        "flags",
        "refiner.checkpoint",
        "scale",
        "search",
        "trained_network",
        "tta",
    },
    "trained_network.py": {"torch", "checkpoint", "data.classes", "decision", "nn"},
    "folder_prediction.py": {"numpy", "tqdm", "candidates", "data", "decision", "evaluation", "predictor", "scale"},
    "mining.py": {"numpy", "scipy", "data", "lungs", "predictor"},
    "attention_maps.py": {"torch", "numpy", "PIL", "draw", "inference", "nn", "predictor", "scale"},
    "weights/renaming.py": {"torch", "nn"},
    "weights/checkpoint_layouts.py": {"torch", "nn", "weights.renaming"},
    "weights/state_dicts.py": {"torch", "checkpoint"},
    "weights/load.py": {
        "torch",
        "nn",
        "weights.checkpoint_layouts",
        "flags",
        "weights.renaming",
        "weights.state_dicts",
    },
    "evaluation/baselines.py": {"torch", "evaluation.metrics"},
    "evaluation/box_controls.py": {"numpy"},
    "refiner/__init__.py": {"_lazy", "refiner"},
    "refiner/proposals.py": {"numpy", "scipy", "evaluation.lesions"},
    "refiner/crops.py": {"numpy", "refiner.proposals"},
    "refiner/judge.py": {"numpy"},
    "refiner/recipe.py": {"flags"},
    "refiner/stages.py": {"torch", "numpy", "tqdm", "checkpoint", "training", "typed"},
    "refiner/context.py": {"data.slices", "predictor", "refiner", "trained_network"},
    "refiner/run.py": {"torch", "data", "files", "refiner", "training", "wordpiece"},
    "refiner/prediction.py": {"torch", "numpy", "nn.refiner", "predictor", "refiner", "scale"},
    "refiner/checkpoint.py": {"torch", "decision", "nn", "refiner", "trained_network"},
    "refiner/box_picture.py": {"numpy", "PIL", "data.scans", "draw", "files", "predictor", "refiner.prediction"},
    "refiner/training_crops.py": {"torch", "numpy", "data.slices", "evaluation", "nn.refiner", "refiner"},
    "refiner/proposer_stage.py": {
        "torch",
        "numpy",
        "checkpoint",
        "data",
        "decision",
        "folder_prediction",
        "losses",
        "predictor",
        "refiner",
        "trained_network",
        "training",
    },
    "refiner/clip_stage.py": {
        "torch",
        "numpy",
        "checkpoint",
        "data",
        "evaluation.ranking",
        "files",
        "losses_contrastive",
        "nn.biomedclip",
        "refiner",
        "training",
        "typed",
        "weights.load",
        "wordpiece",
        "zero_shot",
    },
    "refiner/refiner_stages.py": {
        "__version__",
        "torch",
        "numpy",
        "checkpoint",
        "decision",
        "evaluation.scores",
        "files",
        "folder_prediction",
        "losses",
        "nn",
        "predictor",
        "refiner",
        "trained_network",
        "training",
        "typed",
        "weights.load",
    },
    "benchmark/__init__.py": {"_lazy", "benchmark"},
    "benchmark/timing.py": {"torch", "numpy"},
    "benchmark/limits.py": {"torch", "benchmark.timing"},
    "benchmark/costs.py": {"torch", "benchmark.limits"},
    "benchmark/memory.py": {"torch"},
    "benchmark/rows.py": {"benchmark.costs", "benchmark.limits", "benchmark.timing"},
    "benchmark/works.py": {
        "torch",
        "numpy",
        "benchmark.costs",
        "checkpoint",
        "data",
        "losses",
        "nn.unet",
        "predictor",
        "scan_prediction",
        "training",
    },
    "benchmark/bench.py": {"torch", "benchmark", "exits"},
    "benchmark/peers.py": {"torch", "exits", "weights.load"},
    "benchmark/sides.py": {"torch", "benchmark", "exits", "training.machine"},
    "benchmark/comparison.py": {"torch", "benchmark"},
    "charts.py": {"numpy", "PIL", "draw"},
    "draw.py": {"numpy", "PIL", "data.classes"},
    "doctor/__init__.py": {"_lazy", "doctor"},
    "doctor/finding.py": set(),
    "doctor/samples.py": {"torch", "numpy", "data"},
    "doctor/folder.py": {"numpy", "data", "doctor.finding", "doctor.samples"},
    "doctor/values.py": {"torch", "numpy", "doctor.finding", "evaluation.lesions"},
    "doctor/fit.py": {"torch", "doctor.finding"},
    "doctor/network.py": {"torch", "doctor.finding"},
    "doctor/gradients.py": {"torch", "doctor.finding", "doctor.network"},
    "doctor/learning.py": {"torch", "doctor.finding", "doctor.network"},
    "doctor/examine.py": {"torch", "doctor"},
    "doctor/picture.py": {"torch", "numpy", "PIL", "draw"},
    "python_file.py": {"torch"},
    "checks/*.py": {"_lazy", "PIL", "numpy", "torch", "checks", "draw", "files", "python_file"},
    "flags.py": {"_typeshed", "typed"},
    "typed.py": {"torch", "files"},
    "exits.py": {"torch"},
    "checkpoint.py": {"torch", "files", "typed"},
    "training/loss.py": {"torch", "losses", "losses_geometry", "training.recipe"},
    "training/recipe.py": {"data.splits", "flags", "training.loss"},
    "training/early_stopping.py": set(),
    "training/optim.py": {"torch", "training.early_stopping", "training.recipe"},
    "training/machine.py": {"torch", "numpy"},
    "training/distributed.py": {"torch"},
    "training/batches.py": {"torch", "numpy", "data.samples", "training.distributed"},
    "training/ema.py": {"torch", "training.distributed"},
    "training/step.py": {"torch", "tqdm", "evaluation.metrics", "inference", "training.distributed", "training.ema"},
    "training/decide.py": {
        "torch",
        "numpy",
        "tqdm",
        "checkpoint",
        "data.resampled_volumes",
        "data.samples",
        "decision",
        "evaluation",
        "inference",
        "training.data",
        "training.distributed",
        "training.step",
    },
    "training/contrastive.py": {"torch", "losses_contrastive", "nn.biomedclip"},
    "training/negatives.py": {"torch", "data"},
    "training/data.py": {
        "torch",
        "checkpoint",
        "data",
        "training.batches",
        "training.crops",
        "training.distributed",
        "training.recipe",
        "training.sets",
    },
    "training/sets.py": {"checkpoint", "data", "training.crops", "training.negatives", "training.recipe"},
    "training/crops.py": {"numpy", "checkpoint", "data", "training.recipe"},
    "training/contents.py": {"tqdm", "data.classes", "data.folder_files", "files"},
    "training/log.py": {"files"},
    "training/lock.py": set(),
    "training/commands.py": {"data.splits", "files", "training.log"},
    "training/longer.py": {"flags", "training.recipe"},
    "training/resume.py": {
        "torch",
        "checkpoint",
        "typed",
        "training.distributed",
        "training.lock",
        "training.longer",
        "training.recipe",
    },
    "training/summary.py": {
        "torch",
        "numpy",
        "PIL",
        "data",
        "charts",
        "draw",
        "evaluation",
        "files",
        "training.decide",
        "inference",
        "training.log",
        "training.step",
    },
    "training/run.py": {
        "__version__",
        "torch",
        "checkpoint",
        "data",
        "evaluation",
        "files",
        "training",
        "typed",
        "weights",
    },
    "training/cli.py": {"exits", "flags", "training"},
}


def allowed_for(name: str) -> set[str]:
    return TABLE["checks/*.py"] if name.startswith("checks/") else TABLE[name]


def imports_of(path: Path) -> set[str]:
    """Top-level names of foreign packages, and dotted paths inside lungseg, wherever they are imported."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full, so that a reader can find the file"
            names = [node.module]
            if node.module == "lungseg" or (PACKAGE / node.module.removeprefix("lungseg.")).is_dir():
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            ours = name.startswith("lungseg.")
            found.add(name.removeprefix("lungseg.") if ours else name.split(".")[0])
    return found - set(sys.stdlib_module_names)


def may(name: str, allowed: set[str]) -> bool:
    return any(name == a or name.startswith(a + ".") for a in allowed)


MODULES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_the_table_allows(name):
    foreign = {i for i in imports_of(PACKAGE / name) if not may(i, allowed_for(name))}
    assert not foreign, f"lungseg/{name} may import {sorted(allowed_for(name))}, but imports {sorted(foreign)}"


def test_every_row_of_the_table_is_a_file():
    rows = {r for r in TABLE if r != "checks/*.py"}
    assert rows <= set(MODULES), f"no such file: {sorted(rows - set(MODULES))}"


def test_no_module_imports_an_example():
    for name in MODULES:
        assert not may("examples", imports_of(PACKAGE / name))


def test_the_reader_of_imports_sees_every_way_to_write_one(tmp_path):
    file = tmp_path / "m.py"
    file.write_text(
        "import os, torch.nn as n\nfrom lungseg.nn.windows import x\nfrom lungseg import data\n"
        "def f():\n    from scipy import ndimage\n    import lungseg.losses\n"
    )
    assert imports_of(file) == {"torch", "nn.windows", "data", "scipy", "losses"}
