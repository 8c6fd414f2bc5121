"""Several checkpoints that predict together: which files they are, and whether their networks see the same images.

Their *probabilities* are averaged (Lakshminarayanan et al. 2017, "Deep ensembles"). Logits of different networks have
different scales: one that is too sure of everything would outvote the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from lungseg.checkpoint import InputSpec, is_sealed
from lungseg.scale import MOST_RATIO, pixel_mm


def leading_checkpoints(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split the paths of a command line: checkpoints come first, then the inputs.

    The first path is a checkpoint, whatever it holds: its own error message is the best one. So is each one after it,
    up to the first that neither ends in .pt nor was written by `lungseg.checkpoint.save_checkpoint`.
    """
    num = 1
    while num < len(paths) and paths[num].is_file() and (paths[num].suffix == ".pt" or is_sealed(paths[num])):
        num += 1
    return list(paths[:num]), list(paths[num:])


def check_agreement(inputs: Mapping[str | Path, InputSpec]) -> None:
    """Raise a ValueError unless all networks were trained on images of one kind: one image must suit each of them.

    Networks may differ in everything else. The pixel sizes in mm of their training sets, which are medians, may differ
    as much as those of an image and a training set (`lungseg.scale`).

    Args:
        inputs: path of the checkpoint -> what its network was trained on.
    """
    (first, reference), *others = inputs.items()
    for path, input_ in others:
        for name in (f.name for f in fields(InputSpec) if f.name != "spacing_mm"):
            a, b = getattr(reference, name), getattr(input_, name)
            if a != b:
                raise ValueError(disagreement(first, path, name, a, b))
        ratio = np.abs(np.log(pixel_mm(input_) / pixel_mm(reference)))
        if (ratio > np.log(MOST_RATIO)).any():  # NaN, unknown, is not larger
            raise ValueError(disagreement(first, path, "spacing_mm", reference.spacing_mm, input_.spacing_mm))


def disagreement(first: str | Path, second: str | Path, name: str, a: object, b: object) -> str:
    """Why two checkpoints cannot be averaged."""
    return (
        f"{first} and {second} cannot be averaged: {name} of the training images is {a or 'not stated'} in the one and "
        f"{b or 'not stated'} in the other. Give networks that were trained on the same kind of images."
    )
