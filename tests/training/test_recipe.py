"""What all recipes share: their limits, and how those of older versions are read."""

from dataclasses import asdict, field, make_dataclass, replace

import pytest
import torch

from lungseg.training.machine import autocast_dtype
from lungseg.training.recipe import RunOptions, TrainingRecipe, VolumeRecipe, from_older_version

PLAIN = TrainingRecipe()


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        (PLAIN, {"img_size": 0}, "img_size=0 must be at least 1"),
        (PLAIN, {"epochs": -1}, "epochs=-1 must be at least 1"),
        (PLAIN, {"lr": 0.0}, "lr=0.0 must be positive"),
        (PLAIN, {"lr": float("nan")}, "lr=nan must be positive"),
        (PLAIN, {"grad_clip": -1.0}, "grad_clip=-1.0 must be positive"),
        (PLAIN, {"min_lr": -1e-9}, "min_lr=-1e-09 must not be negative"),
        (PLAIN, {"freeze_encoder": -1}, "freeze_encoder=-1 must not be negative"),
        (PLAIN, {"patience": -1}, "patience=-1 must not be negative"),
        (PLAIN, {"threads": -1}, "threads=-1 must not be negative"),
        (PLAIN, {"pos_weight": 0.0}, "pos_weight=0.0 must be positive"),
        (PLAIN, {"loss": "tversky", "tversky_beta": 1.5}, "tversky_beta=1.5 must be a share from 0 to 1"),
        (PLAIN, {"loss": "focal", "focal_gamma": -1.0}, "focal_gamma=-1.0 must not be negative"),
        (PLAIN, {"loss": "dice", "pos_weight": 2.0}, "--pos-weight 2.0 does nothing with --loss dice"),
        (PLAIN, {"schedule": "plateau"}, "must have --warmup-epochs 0, not 2.0"),
        (VolumeRecipe(), {"crop_size": (16, 0, 16)}, "must be at least 1"),
        (PLAIN, {"warmup_epochs": float("inf")}, "warmup_epochs=inf must be a finite number"),
        (PLAIN, {"grad_clip": float("inf")}, "must be a finite number"),
        (PLAIN, {"img_size": 10**400}, "img_size=10+ .* must be below 2"),
        (PLAIN, {"weights": ""}, "weights is empty; is the shell variable"),
        (VolumeRecipe(), {"crop_size": ()}, "crop_size must name at least one number"),
        (PLAIN, {"img_size": 10**30}, "img_size=10+ must be below 2"),
        (VolumeRecipe(), {"crop_size": (16, 10**12, 16)}, "must be below 2"),
        (VolumeRecipe(), {"crop_size": (16, 16)}, "must name three sides"),
        (VolumeRecipe(), {"foreground": 1.5}, "share from 0 to 1"),
        (VolumeRecipe(spatial_dims=3), {"crop_size": (16,)}, "must name three sides: slices, rows and columns$"),
        (VolumeRecipe(spatial_dims=3), {"neighbours": 1}, "--neighbours is for 2-D networks"),
        (PLAIN, {"crop_size": (16, 16)}, "must name one side, that of a square"),
        (PLAIN, {"neighbours": -1}, "neighbours=-1 must be from 0 to 16"),
    ],
)
def test_numbers_without_meaning_are_refused_in_one_sentence(recipe, changes, words):
    with pytest.raises(ValueError, match=words) as error:
        replace(recipe, **changes)
    assert "\n" not in str(error.value)


def test_zero_and_none_are_allowed_where_they_mean_something():
    replace(PLAIN, grad_clip=None, patience=0, min_epochs=0, weight_decay=0.0, warmup_epochs=0.0, momentum=0.0)
    replace(PLAIN, threads=0)


def test_the_side_of_a_crop_of_slices_is_one_number_and_none_means_whole_slices():
    assert replace(PLAIN, crop_size=(64,)).crop_side == VolumeRecipe(crop_size=(64,)).crop_side == 64
    assert PLAIN.crop_side is replace(PLAIN, crop_size=(0,)).crop_side is VolumeRecipe().crop_side is None


@pytest.mark.parametrize(("then", "device"), [(a, d) for a in ("none", "bf16", "fp16") for d in ("cpu", "cuda")])
def test_a_run_of_an_older_version_computes_as_it_did(then, device):
    """Then the CPU always took float32, whatever was asked for; and bf16 was the default."""
    added = {"weights", "freeze_encoder", "threads", "boundary_weight", "lesion_size", "pos_weight", "tversky_beta"}
    added |= {"tversky_gamma", "focal_gamma", "focal_alpha", "soft_targets"}
    added |= {"folds", "fold", "negatives"}
    old = {k: v for k, v in asdict(replace(PLAIN, amp=then, threads=1)).items() if k not in added}
    now = replace(PLAIN, **from_older_version(old, TrainingRecipe))
    before = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[then] if device == "cuda" else None
    assert autocast_dtype(now.amp, torch.device(device)) == before
    assert now.cross_validation is None and now.freeze_encoder == 0 and now.weights is None and now.threads == 0


def test_a_run_of_this_version_is_left_as_it_is():
    for amp in ("auto", "none", "bf16", "fp16"):
        settings = asdict(replace(PLAIN, amp=amp, weights="a.pt", freeze_encoder=3, threads=2)) | {"seed": 4}
        assert from_older_version(settings, TrainingRecipe) == settings


@pytest.mark.parametrize("kind", [TrainingRecipe, VolumeRecipe])
def test_what_older_runs_did_is_a_recipe_and_a_field_says_it_itself(kind):
    added = from_older_version({}, kind)
    assert asdict(kind(**added)) == asdict(kind()) and {"ema", "weights"} <= set(
        added
    )  # so far no default differs from what was
    later = {**kind.__dataclass_fields__["ema"].metadata, "before": 0.5}
    changed = make_dataclass(
        "Changed", [("ema", float, field(default=0.0, metadata=later))], bases=(kind,), frozen=True
    )
    assert from_older_version({}, changed) == added | {"ema": 0.5}


def test_fields_that_were_renamed_keep_their_values():
    now = asdict(VolumeRecipe(spatial_dims=3, crop_size=(4, 8, 16), crops_per_volume=5))
    old = {{"crop_size": "window", "crops_per_volume": "windows_per_volume"}.get(k, k): v for k, v in now.items()}
    assert old["window"] == (4, 8, 16)
    assert from_older_version(old, VolumeRecipe) == now == from_older_version(now, VolumeRecipe)


def test_a_fold_needs_the_number_of_folds_and_the_other_way_round():
    assert replace(PLAIN, folds=5, fold=4).cross_validation == (4, 5) and PLAIN.cross_validation is None
    for half in ({"folds": 5}, {"fold": 0}):
        with pytest.raises(ValueError, match="^--folds and --fold go together"):
            replace(PLAIN, **half)
    with pytest.raises(ValueError, match="^--fold 5 must be from 0 to 4: there are 5 folds"):
        replace(PLAIN, folds=5, fold=5)


def test_options_that_cannot_be():
    for options, words in (({"num_workers": -1}, "^num_workers=-1 must be"), ({"seed": 2**63}, "^seed=9.* must be")):
        with pytest.raises(ValueError, match=words):
            RunOptions(**options)


@pytest.mark.parametrize(("dims", "then", "now"), [(3, "full", "flips"), (3, "none", "none"), (2, "full", "full")])
def test_volumes_of_an_older_version_were_only_flipped(dims, then, now):
    old = asdict(VolumeRecipe(spatial_dims=dims, augment=then))
    assert from_older_version(old, VolumeRecipe) == old  # of this version
    del old["slice_mm"]
    settings = from_older_version(old, VolumeRecipe)
    assert settings["augment"] == now and settings["slice_mm"] is None
    assert replace(VolumeRecipe(), **settings).spatial_dims == dims


def test_slices_far_apart_are_for_volumes():
    assert VolumeRecipe(spatial_dims=3, slice_mm=1.25).slice_mm == 1.25
    with pytest.raises(ValueError, match="--slice-mm is for networks on volumes"):
        VolumeRecipe(spatial_dims=2, slice_mm=1.25)
    with pytest.raises(ValueError, match="slice_mm=0.0 must be positive"):
        VolumeRecipe(spatial_dims=3, slice_mm=0.0)
