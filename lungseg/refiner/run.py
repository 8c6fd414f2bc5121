"""The folder of a refiner's run: may it begin or be resumed there, with which settings, on which slices?"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch

from lungseg.data.classes import read_classes
from lungseg.data.folder_files import held_kind
from lungseg.data.slices import SliceDataset, check_folder
from lungseg.files import whole_file
from lungseg.refiner.clip_stage import given_clip
from lungseg.refiner.context import Context
from lungseg.refiner.proposer_stage import given_proposer, patient_folds
from lungseg.refiner.recipe import RefinerOptions, RefinerRecipe
from lungseg.refiner.refiner_stages import given_medsam, medsam_spec
from lungseg.refiner.stages import Stages
from lungseg.training.contents import differences, digest, list_contents, read_contents, write_contents
from lungseg.training.data import find_data
from lungseg.training.machine import seed_everything
from lungseg.training.recipe import RunOptions
from lungseg.training.resume import check_same_run, folder_problem, read_start, this_script
from lungseg.wordpiece import WordPiece

PHANTOM_MM = (3.0, 25.0)  # diameters


def open_refiner_run(
    recipe: RefinerRecipe, options: RefinerOptions, given: Mapping[str, Any], device: torch.device
) -> Context:
    """Check the folder, find or draw the slices, write recipe.json; or continue with the settings that are there.

    Args:
        given: name -> value of the flags that the user gave; a resumed run must not contradict its own.

    Raises:
        ValueError: in one sentence, for a folder, flags or data that do not fit.
    """
    out = options.out
    if problem := folder_problem(RunOptions(out=out, resume=options.resume)):
        raise ValueError(problem)
    for left in out.glob(".*.partial-*"):  # half-written by a killed run
        if left.is_file():
            left.unlink()
    if options.resume:
        start = read_start(None, out, cast(Any, RefinerRecipe))
        check_same_run(start.settings, given, out)
        recipe = cast(RefinerRecipe, start.recipe)
        options = replace(options, seed=start.settings["seed"], data=options.data or start.data)
    folder = find_data(options.data, check_slices) or draw_phantoms(recipe, options)
    stages = Stages(
        out, seed=options.seed, device=device, save_every=recipe.save_every, weight_decay=recipe.weight_decay
    )
    run = Context(recipe, folder, stages)
    if not options.resume:
        check_start(run)
    check_given_files(run)
    if not options.resume:  # before data.json: a folder with recipe.json alone can be resumed, not one without it
        settings = {"recipe": asdict(recipe), "seed": options.seed, "processes": 1}
        settings["data"] = str(options.data.absolute()) if options.data else None
        with whole_file(out / "recipe.json") as partial:
            partial.write_text(json.dumps(settings, indent=1) + "\n")
    check_same_data(folder, out, resumed=options.resume)
    if recipe.threads and device.type == "cpu":
        torch.set_num_threads(recipe.threads)
    seed_everything(options.seed, device)  # each stage that trains does so again; what is only computed needs it too
    return run


# ---- checks, before anything is trained -------------------------------------------------------------------------


def check_start(run: Context) -> None:
    """Refuse a recipe and slices with which a stage would fail, or learn nothing, after hours.

    A run that is resumed is not asked again.
    """
    r, folder = run.recipe, run.folder
    if r.rank and not r.sam:
        raise ValueError(
            f"LoRA of rank {r.rank} leaves the image encoder as it is given, and without --sam it is drawn at random. "
            f"Give its weights with --sam, or train all of a tiny one: --rank 0 --crop-size 64."
        )
    train, val = run.slices("train"), run.slices("val")
    folds = patient_folds(train.records, run.stages.seed).tolist() if r.cross_fit else [0] * len(train)
    if r.cross_fit and len(set(folds)) < 2:
        raise ValueError(
            f"{folder} has one training patient, and the cross-fitting needs two. Put slices of more patients into "
            f"train (of phantoms: raise --phantom-patients), or give --no-cross-fit."
        )
    taught, seen = folds_with_lesion(train, folds), folds_with_lesion(val, [0] * len(val))
    for split, found in (("training", taught), ("validation", seen)):
        if not found:
            raise ValueError(f"No {split} image of {folder} holds a lesion. Put some into that split.")
    if taught != set(folds):
        raise ValueError(
            f"All training patients of {folder} with a lesion are in one half of the cross-fitting, so one of its "
            f"networks would learn from none. Put lesions of more patients into train, choose another --seed, or give "
            f"--no-cross-fit."
        )


def folds_with_lesion(slices: SliceDataset, folds: Sequence[int]) -> set[int]:
    """Those of the folds in which a slice holds a lesion; `folds` says to which each slice belongs."""
    missing = set(folds)
    for index, fold in enumerate(folds):
        if fold in missing and slices.pair(index)[1].any():
            missing.discard(fold)
    return set(folds) - missing


def check_given_files(run: Context) -> None:
    """Read the files that are given for stages which are not finished, as these will: better now than after hours."""
    r, stages = run.recipe, run.stages
    if r.proposer and not stages.path("proposer").exists():
        given_proposer(run, r.proposer)
    if r.clip and not stages.path("clip").exists():
        given_clip(r, r.clip)
    if r.vocabulary and not stages.path("refiner").exists():
        WordPiece(r.vocabulary)
    if r.sam and not stages.path("medsam").exists():
        given_medsam(medsam_spec(run), r.sam)


def check_slices(folder: Path) -> list[str]:
    """The problems of a folder that is to be trained on."""
    if folder.is_dir() and held_kind(folder) == "volumes":
        return [f"{folder} holds volumes, and a refiner learns from slices. Give a folder of slices."]
    problems = check_folder(folder)
    if not problems and len(read_classes(folder)) > 1:
        return [f"{folder} has several lesion classes, and a refiner knows one, lesion. Remove its classes.txt."]
    return problems


def check_same_data(folder: Path, out: Path, *, resumed: bool) -> None:
    """Write what is in the folder, or refuse one that has changed since the run began."""
    before = read_contents(out) if resumed else {}
    contents = list_contents(folder, before)
    if before and digest(before) != digest(contents):
        raise ValueError(
            f"{folder} has changed since the run in {out} began: {differences(before, contents)}. "
            f"Restore it, or start a new run in another --out."
        )
    write_contents(out, contents)


def draw_phantoms(recipe: RefinerRecipe, options: RefinerOptions) -> Path:
    """Phantom slices around nodules, in the run's folder, split by patient; drawn once."""
    r, seed = recipe, options.seed
    folder = options.out / f"phantoms_{r.phantom_patients}x{r.phantom_slices}_{r.phantom_size}px_seed{seed}"
    if not folder.exists():
        from lungseg.data.phantoms.folders import write_phantom_folder  # only a run without data needs the phantoms

        write_phantom_folder(
            folder, view="nodule", num_patients=r.phantom_patients, slices_per_patient=r.phantom_slices,
            size=r.phantom_size, seed=seed, diameter_mm=PHANTOM_MM,
        )  # fmt: skip
    return folder


def absolute_files(recipe: RefinerRecipe, given: Mapping[str, Any]) -> tuple[RefinerRecipe, dict[str, Any]]:
    """Both with absolute paths: a run may be resumed from another current folder."""
    names = ("proposer", "clip", "vocabulary", "sam")
    paths = {name: str(Path(value).absolute()) for name in names if (value := getattr(recipe, name))}
    return replace(recipe, **cast(Any, paths)), {**given, **{n: p for n, p in paths.items() if n in given}}


def how_to_continue(out: Path) -> str:
    """What is saved after Ctrl-C, and how to go on."""
    if (out / "recipe.json").exists():
        return f"Finished stages are saved; continue with: {this_script()} --out {shlex.quote(str(out))} --resume"
    return "Nothing was trained yet; begin again with the same command."
