"""The defaults that pages and docstrings promise, in one table: a change of one is a decision, not an accident.

Options that are None, False or 0 by default and switch something on are not listed: their own tests see them.
"""

import inspect
import math

import pytest

from lungseg import charts, draw, inference, losses, nn, predictor, wordpiece, zero_shot
from lungseg.data import augment, ct, elastic, manifest, scans, slice_crops, slices, splits, volumes
from lungseg.data.phantoms import anatomy, captions, folders, nodules, pet, raster, scene, vessels
from lungseg.data.pickles import table
from lungseg.decision import Decision
from lungseg.evaluation import baselines, metrics, scores, strata
from lungseg.nn import conv_stem, layers, rrc_unet, unetr
from lungseg.refiner import crops, judge, proposals
from lungseg.training import contrastive, optim
from lungseg.training.early_stopping import EarlyStopping
from lungseg.training.optim import warmup_cosine
from lungseg.training.recipe import TrainingRecipe, VolumeRecipe
from lungseg.training.step import train_one_epoch

LUNG = (-1000.0, 400.0)  # HU
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
KINDS = ("solid", "part-solid", "ground-glass", "pleural", "spiculated")
PATIENT = {"diameter_mm": (3.0, 30.0), "kinds": KINDS}
BOOTSTRAP = {"draws": 2000, "seed": 0}
SWIN = {"mlp_ratio": 4.0, "qkv_bias": True}
VIT = {"mlp_ratio": 4.0, "qkv_bias": False}
RRC = {"steps": 2, "spatial_dims": 3, "norm": "instance"}
RESNET = {"in_channels": 3, "stem": 64, "widths": (64, 128, 256, 512), "depths": (3, 4, 6, 3)}
ONE = {"in_channels": 1, "num_classes": 1}
SAM_VIT = {
    "in_channels": 3, "img_size": 1024, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12,
    "window_size": 14, "global_blocks": (2, 5, 8, 11), "out_channels": 256,
}  # fmt: skip

TABLE = {
    # networks: the published sizes
    nn.SwinUNet: ONE | SWIN | {
        "embed_dim": 96, "depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24), "window_size": 7, "patch_size": 4,
        "drop_rate": 0.0, "attn_drop_rate": 0.0, "drop_path_rate": 0.1, "head_bias": False,
        "stem": "patch", "conv_channels": (16, 32), "conv_norm": "batch",
    },
    nn.SwinBlock: SWIN | {"shift_size": 0, "drop": 0.0, "attn_drop": 0.0, "drop_path": 0.0},
    nn.WindowAttention: {"qkv_bias": True, "attn_drop": 0.0, "proj_drop": 0.0, "fused": True},
    nn.UNETR: ONE | VIT | {
        "img_size": None, "spatial_dims": 2, "embed_dim": 768, "depth": 12, "num_heads": 12, "feature_size": 16,
        "patch_size": 16, "skip_layers": None, "attn_scale": "sqrt", "drop_rate": 0.0, "attn_drop_rate": 0.0,
        "norm_affine": False, "norm": "instance",
    },
    nn.SelfAttention: {"qkv_bias": False, "scale": None, "attn_drop": 0.0, "proj_drop": 0.0, "fused": True},
    unetr.TransformerBlock: VIT | {"scale": None, "drop": 0.0, "attn_drop": 0.0, "eps": 1e-5},
    nn.ViTEncoder: {
        "in_channels": 3, "img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12,
        "mlp_ratio": 4.0,
    },
    nn.BERT: {
        "vocab_size": 30522, "max_length": 512, "dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0,
    },
    nn.BertBlock: {"mlp_ratio": 4.0},
    nn.BiomedCLIP: {
        "embed_dim": 512, "img_size": 224, "patch_size": 16, "vision_dim": 768, "vision_depth": 12,
        "vision_heads": 12, "vision_mlp_ratio": 4.0, "vocab_size": 30522, "max_length": 512, "text_dim": 768,
        "text_depth": 12, "text_heads": 12, "text_mlp_ratio": 4.0,
    },
    wordpiece.WordPiece.__call__: {"context": 256},
    zero_shot.text_features: {"context": 256},
    unetr.ResidualBlock: {"spatial_dims": 2, "norm_affine": False, "norm": "instance"},
    unetr.UpBlock: {"spatial_dims": 2, "norm_affine": False, "norm": "instance"},
    nn.UNet: ONE | {"spatial_dims": 2, "channels": (32, 64, 128, 256, 512), "norm": "batch"},
    layers.conv_norm_relu: {"spatial_dims": 2, "norm": "batch", "stride": 1},
    layers.double_conv: {"spatial_dims": 2, "norm": "batch"},
    conv_stem.ConvStem: {"norm": "batch"},
    conv_stem.ConvDecoder: {"norm": "batch"},
    layers.InstanceNorm: {"affine": True},
    nn.MLP: {"drop": 0.0},
    nn.DropPath: {"rate": 0.0},
    nn.RRCUNet: ONE | RRC | {"channels": (16, 32, 64, 128, 256)},
    rrc_unet.RecurrentConv: RRC,
    rrc_unet.RecurrentResidualBlock: RRC,
    nn.ResNet50Encoder: RESNET,
    nn.ResNet50UNet: RESNET | {
        "num_classes": 1, "decoder_channels": (256, 128, 64, 32, 16), "grey_input": False,
    },
    nn.SAMImageEncoder: SAM_VIT,
    nn.PromptEncoder: {"dim": 256, "img_size": 1024, "patch_size": 16, "mask_channels": 16},
    nn.MaskDecoder: {
        "dim": 256, "depth": 2, "num_heads": 8, "mlp_dim": 2048, "num_masks": 3, "iou_hidden_dim": 256,
    },
    nn.SAM: SAM_VIT | {
        "mask_channels": 16, "decoder_depth": 2, "decoder_heads": 8, "decoder_mlp_dim": 2048, "iou_hidden_dim": 256,
    },
    layers.LayerNorm2d: {"eps": 1e-6},
    nn.PatchEmbed: {"patch_size": 4, "spatial_dims": 2, "norm": True},
    nn.PatchExpanding: {"scale": 2},
    nn.attention: {"bias": None, "scale": None, "drop": 0.0},
    # data
    augment.Augmentation: {
        "rotation": 30.0, "horizontal_flip": 0.5, "vertical_flip": 0.5, "elastic_probability": 0.5,
        "elastic_alpha": 3.0, "elastic_sigma": 24.0, "brightness": 0.05, "contrast": 0.15, "crop_size": None,
        "crop_foreground": 0.0, "scale_probability": 0.0, "scale": 1.25, "blur_probability": 0.0, "blur": 1.0,
        "gamma_probability": 0.0, "gamma": 1.25, "noise_probability": 0.0, "noise": 0.03,
    },
    ct.hu_to_grey: {"hu_window": LUNG, "bits": 8},
    ct.hu_to_unit: {"hu_window": LUNG},
    ct.grey_to_hu: {"hu_window": LUNG, "bits": 8},
    manifest.ImageRecord: {"label": "", "spacing_mm": math.nan, "hu_low": -1000.0, "hu_high": 400.0, "bits": 8},
    splits.near_duplicate_groups: {"threshold": 0.4},
    splits.link_similar_slices: {"grid": None, "threshold": 0.4},
    table.read_table: {"required": ("label1", "mask")},
    scans.read_scans: {"column": "hu_array_old"},
    folders.write_phantom_folder: {
        "view": "chest", "num_patients": 40, "slices_per_patient": 6, "size": 256, "seed": 0, "fractions": SHARES,
    },
    slices.SliceDataset: {"split": None, "size": None, "augment": None, "seed": 0},
    slice_crops.SliceCrops: {"crops_per_slice": 1, "foreground": 0.5, "seed": 0},
    folders.write_phantom_volumes: {
        "num_patients": 40, "shape": (32, 96, 96), "spacing_mm": (1.5, 1.0, 1.0), "num_nodules": 2,
        "diameter_mm": (8.0, 25.0), "seed": 0, "fractions": SHARES,
    },
    volumes.CropDataset: {"split": None, "foreground": 0.5, "flips": False, "seed": 0},
    # phantoms
    scene.sample_scene: PATIENT | {"num_nodules": 1, "z_range": (45.0, 165.0)},
    scene.phantom_patient: PATIENT | {"num_slices": 6, "size": 256, "field_of_view_mm": 360.0, "nodule_free": 0.0},
    scene.phantom_crops: PATIENT | {"num": 6, "size": 64, "spacing_mm": 0.7},
    scene.phantom_volume: PATIENT | {"shape": (32, 128, 128), "spacing_mm": (4.0, 2.8, 2.8), "num_nodules": 3},
    pet.blurred_activity: {"fwhm_mm": 6.0},
    pet.count_noise: {"counts": 6.0},
    pet.pet_to_unit: {"highest": 5.0},
    nodules.Nodule: {"core": (0.0, 0.0, 0.0, 0.0), "stretch": (1.0, 1.0, 1.0), "bumps": (), "spikes": ()},
    anatomy.sample_thorax: {"vessels_per_lung": 1300},
    vessels.grow_tree: {"balance": 0.6},
    captions.captioned_crops: PATIENT | {"num": 8, "size": 48, "spacing_mm": 0.7, "shift_mm": 3.0},
    vessels.branch_radii: {"exponent": 2.7},
    raster.ellipse_distance: {"power": 2.0},
    # training and scores
    losses.dice_loss: {"batch": False, "smooth": 1.0, "squared": False},
    losses.dice_bce_loss: {"batch": False, "smooth": 1.0, "pos_weight": 1.0, "squared": False},
    losses.bce_loss: {"pos_weight": 1.0},
    losses.tversky_loss: {"batch": False, "smooth": 1.0},
    losses.focal_tversky_loss: {"batch": False, "smooth": 1.0},
    losses.focal_loss: {"alpha": None},
    contrastive.train_clip_epoch: {"grad_clip": 1.0},
    metrics.confusion_counts: {"threshold": 0.5},
    strata.bootstrap: BOOTSTRAP,
    strata.intervals: BOOTSTRAP,
    strata.table_row: BOOTSTRAP,
    strata.table_rows: BOOTSTRAP,
    strata.interval: {"of": "dice"},
    scores.score_image: {"label": "", "spacing_mm": math.nan},
    baselines.count_at_least: {"highest": 256},
    EarlyStopping: {"min_delta": 0.0, "min_epochs": 0},
    optim.reduce_on_plateau: {"patience": 10, "factor": 0.1, "min_delta": 1e-4, "cooldown": 0, "min_lr": 0.0},
    warmup_cosine: {"floor": 0.01},
    train_one_epoch: {"grad_clip": None, "accumulate": 1},
    TrainingRecipe: {
        "prior_bias": True, "loss": "dice_bce", "optimizer": "adamw", "lr": 5e-4, "momentum": 0.9,
        "weight_decay": 0.05, "warmup_epochs": 2.0, "schedule": "cosine", "plateau_patience": 10, "min_lr": 1e-7,
        "grad_clip": 1.0, "batch_size": 8, "accumulate": 1, "patience": None, "min_epochs": 0, "monitor": "dice",
        "pos_weight": 1.0, "tversky_beta": 0.7, "tversky_gamma": 1.33, "focal_gamma": 2.0, "focal_alpha": None,
        "boundary_weight": 0.01, "lesion_size": 64.0, "soft_targets": False,
        "crop_size": (0,), "crops_per_slice": 1, "foreground": 0.5,
    },
    VolumeRecipe: {"spatial_dims": 2, "crop_size": (16, 32, 32), "crops_per_volume": 2, "foreground": 0.5},
    # the refiner
    proposals.propose: {"threshold": 0.1, "margin": 0.1, "most": 8},
    proposals.jitter_box: {"share": 0.1},
    crops.crop_at: {"context": 2.0, "smallest": 12},
    judge.Judge: {"proposer": 1.0, "similarity": 0.0, "iou": 0.0, "constant": 0.0},
    judge.fit_judge: {"ridge": 0.1},
    judge.slice_map: {"least": 0.0},
    # prediction and pictures
    inference.sliding_window: {"overlap": 0.5, "batch_size": 4},
    inference.SlidingWindow: {"overlap": 0.5, "batch_size": 4},
    predictor.load_predictor: {"device": "cpu", "overlap": 0.5, "batch_size": 8, "search": "all"},
    predictor.Predictor: {
        "overlap": 0.5, "batch_size": 8, "tta": "none", "search": "all", "decision": Decision(0.5, 0),
    },
    predictor.PredictOptions: {
        "threshold": None, "min_pixels": None, "tta": "none", "overlap": 0.5, "batch_size": 8, "search": "all",
        "device": "auto",
    },
    Decision: {"threshold": 0.5, "min_pixels": 0},
    draw.prediction_sheet: {"threshold": 0.5, "scale": 1},
    draw.heatmap: {"low": 0.0, "high": 1.0},
    charts.line_chart: {"size": (640, 400), "y_range": None},
}  # fmt: skip
ROWS = [(function, name) for function, defaults in TABLE.items() for name in defaults]


@pytest.mark.parametrize(("function", "name"), ROWS, ids=[f"{f.__module__}.{f.__qualname__}-{n}" for f, n in ROWS])
def test_a_default_is_the_documented_one(function, name):
    default = inspect.signature(function).parameters[name].default
    assert repr(default) == repr(TABLE[function][name])  # also of one type: True is not 1, and nan is nan


def test_constants_that_pages_quote():
    assert (elastic.MAX_STRETCH, splits.CELLS, splits.BLUR_CELLS, inference.SIGMA) == (0.9, 128, 1.0, 1 / 8)
    assert strata.FEWEST_PATIENTS == 5
    assert unetr.token_grid(None, 2, 1) == [256, 256] and unetr.token_grid(None, 3, 1) == [96] * 3
