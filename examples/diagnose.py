"""Why is the Dice always 0? Examine a folder of slices and a network: one finding per thing that can be wrong.

    python examples/diagnose.py                                                phantoms and a small U-Net, a minute
    python examples/diagnose.py --data data/lungs                              a folder, and a small U-Net on it
    python examples/diagnose.py --data data/lungs --checkpoint runs/swin/best.pt --out diagnosis
    python examples/diagnose.py --data data/lungs --network swin --lr 5e-4     before training with other settings

Each finding has a verdict (ok, warning or FAULT), what was measured, the likely cause and the cure. Of a checkpoint,
the trained network is examined on the validation split, and a fresh one of its kind is tested for whether it can learn
with the loss, the optimizer and the learning rate of its recipe. Nothing but --out is written.

Exit code: 0 no fault, 1 a fault was found, 2 the examination was not possible.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.checkpoint import load_checkpoint
from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import ImageRecord
from lungseg.data.phantoms.folders import write_phantom_folder
from lungseg.doctor.examine import examine_batches, examine_network, examine_trained
from lungseg.doctor.finding import FAULT, Finding, has_fault, report, summarise
from lungseg.doctor.folder import examine_folder
from lungseg.doctor.learning import MOST_STEPS
from lungseg.doctor.network import LossFunction
from lungseg.doctor.picture import input_sheet
from lungseg.doctor.samples import Pair, collect, readable_samples, spread_out
from lungseg.exits import leave, run_main
from lungseg.files import check_free, whole_folder
from lungseg.flags import Parser, given_path
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.predictor import load_predictor
from lungseg.training.loss import NUMBERS, make_loss
from lungseg.training.recipe import TrainingRecipe

NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {  # those of the demos
    "unet": (UNet, {"channels": (16, 32, 64, 128)}),
    "swin": (SwinUNet, {"patch_size": 4, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 8}),
    "unetr": (
        UNETR,
        {"patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3, "feature_size": 8, "skip_layers": (2, 4)},
    ),
    "resnet": (
        ResNet50UNet,
        {"in_channels": 1, "stem": 16, "widths": (16, 32, 64, 128), "decoder_channels": (64, 32, 32, 16, 16)},
    ),
    "rrc": (RRCUNet, {"spatial_dims": 2}),
}


@dataclass(frozen=True)
class Case:
    """The network to examine, and what it is trained with."""

    fresh: Callable[[], nn.Module]
    trained: nn.Module | None
    size: int | None  # side of the images in pixels; None: as they are
    patch_size: int | None
    loss: LossFunction
    optimizer: str
    momentum: float
    lr: float
    grad_clip: float | None

    def make_optimizer(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """That of the recipe, without weight decay, which would pull against learning by heart."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=lr, momentum=self.momentum)
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="diagnose.py", description=__doc__)
    add = parser.add_argument
    add("--data", type=given_path, metavar="DIR", help="folder of slices; none draws phantoms")
    add("--checkpoint", type=given_path, metavar="FILE", help="a trained network, such as runs/swin/best.pt")
    add("--network", choices=NETWORKS, help="without a checkpoint: which small network to try (default: unet)")
    add("--img-size", type=int, metavar="N", help="side to which slices are resized (default: that of the recipe, 64)")
    add("--loss", choices=NUMBERS, help="(default: that of the recipe, dice_bce)")
    add("--lr", type=float, metavar="RATE", help="learning rate to judge (default: that of the recipe, 0.001)")
    add("--steps", type=int, default=MOST_STEPS, help="steps to learn one batch by heart (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the fresh network (default: %(default)s)")
    add("--out", type=given_path, metavar="DIR", help="a new or empty folder for diagnose.png, what enters the network")
    add("--json", action="store_true", help="print the findings as JSON")
    args = parser.parse_args(argv)
    if args.checkpoint and args.network:
        parser.error("--network and --checkpoint exclude each other: the checkpoint names its network")
    for name, least in (("img_size", 1), ("steps", 1), ("seed", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if args.lr is not None and not 0 < args.lr < float("inf"):
        parser.error(f"--lr must be a positive number, got {args.lr}")
    return args


# ---- the case ---------------------------------------------------------------------------------------------------


def open_case(args: argparse.Namespace, num_classes: int) -> Case:
    """The network of the checkpoint, or a small one, with the settings of its recipe, unless flags change them."""
    trained, recipe = None, {}
    network, arguments = NETWORKS[args.network or "unet"]
    size = args.img_size or 64
    if args.checkpoint:
        predictor = load_predictor(args.checkpoint)
        saved = load_checkpoint(args.checkpoint)
        trained, network, arguments = predictor.network, type(predictor.network), dict(saved["network"]["arguments"])
        recipe = {k: v for k, v in dict(saved.get("recipe") or {}).items()}
        if predictor.spatial_dims != 2:
            raise ValueError(f"{args.checkpoint} was trained on volumes. Only networks for slices can be examined.")
        if max(1, len(predictor.classes)) != max(1, num_classes):
            raise ValueError(
                f"{args.checkpoint} predicts {max(1, len(predictor.classes))} lesion classes, but the data hold "
                f"{max(1, num_classes)}. Give the data it was trained on."
            )
        size = args.img_size or predictor.input.size[0]
    elif num_classes > 1:
        arguments = arguments | {"num_classes": num_classes}

    loss = args.loss or recipe.get("loss", "dice_bce")

    def fresh() -> nn.Module:
        torch.manual_seed(args.seed)
        return network(**arguments)

    return Case(
        fresh,
        trained,
        size,
        patch_size=arguments.get("patch_size"),
        loss=make_loss(TrainingRecipe(loss=loss, **{n: recipe[n] for n in NUMBERS[loss] if n in recipe})),
        optimizer=recipe.get("optimizer", "adamw"),
        momentum=recipe.get("momentum", 0.9),
        lr=args.lr or recipe.get("lr", 1e-3),
        grad_clip=recipe.get("grad_clip", 1.0),
    )


def open_samples(
    folder: Path, records: list[ImageRecord], classes: tuple[str, ...], size: int | None
) -> tuple[Pair, Pair]:
    """Images and targets of the training split, and of the validation split (of both, if one is empty)."""
    found = []
    for split in ("train", "val"):
        of_split = [r for r in records if r.split == split] or records
        found.append(collect(readable_samples(folder, spread_out(of_split), classes, size)))
    return found[0], found[1]


# ---- everything -------------------------------------------------------------------------------------------------


def diagnose(args: argparse.Namespace, folder: Path) -> int:
    """Examine, print, draw; return the exit code."""
    if held_kind(folder) == "volumes":
        raise ValueError(f"{folder} holds volumes, and only slices can be examined. docs/diagnose.md says what to try.")
    if args.out:
        check_free(args.out)
    findings, records, classes = examine_folder(folder)
    num_classes = len(classes) if len(classes) > 1 else 1
    case = open_case(args, num_classes)
    try:
        train, val = open_samples(folder, records, classes, case.size)
    except ValueError:
        cause, cure = "no slice can be read; see the folder", "Mend the folder first."
        return finish(args, [*findings, Finding("network", FAULT, "not examined", cause, cure)])
    findings += examine_batches([train], patch_size=case.patch_size)
    how: dict[str, Any] = {"lr": case.lr, "make_optimizer": case.make_optimizer, "grad_clip": case.grad_clip}
    findings += examine_network(case.fresh(), [train], case.loss, steps=args.steps, **how)
    if case.trained is not None:
        findings += [named_trained(f) for f in examine_trained(case.trained, [val], case.loss)]
    if args.out:
        with whole_folder(args.out) as partial:
            input_sheet(*(val if case.trained is not None else train), case.trained).save(partial / "diagnose.png")
    return finish(args, findings)


def named_trained(finding: Finding) -> Finding:
    """The same finding with a name that says that it is about the trained network."""
    return Finding(**{**vars(finding), "name": f"trained: {finding.name.removeprefix('trained ')}"})


def finish(args: argparse.Namespace, findings: list[Finding]) -> int:
    """Print the findings; 1 if there is a fault, else 0."""
    if args.json:
        found = {"findings": [f.to_dict() for f in findings], "summary": summarise(findings)}
        print(json.dumps(found, indent=1))
    else:
        print(report(findings))
        if args.out and (args.out / "diagnose.png").exists():
            print(f"What enters the network: {args.out / 'diagnose.png'}")
    return 1 if has_fault(findings) else 0


def work(args: argparse.Namespace) -> int:
    """`diagnose` on the folder, or on phantoms like those that a training draws without --data."""
    if args.data is not None:
        return diagnose(args, args.data)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "phantoms"
        shape: dict[str, Any] = {"view": "nodule", "size": args.img_size or 64, "diameter_mm": (8.0, 25.0)}
        write_phantom_folder(folder, num_patients=60, slices_per_patient=2, **shape)
        return diagnose(args, folder)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 no fault, 1 a fault, 2 for what the user can fix, 130 for Ctrl-C."""
    args = parse_arguments(argv)
    stopped = "Nothing was written."
    return run_main("diagnose.py", lambda: work(args), stopped=stopped, too_little_memory="Use a smaller --img-size.")


if __name__ == "__main__":
    leave(main())
