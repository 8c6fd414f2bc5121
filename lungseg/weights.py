"""Published checkpoints -> our networks, with a report of what was loaded, adapted, skipped and left fresh.

Nothing is guessed in silence: the layout is recognised from its keys, each tensor that changes shape is named
with what was done to it, and a checkpoint that does not fill at least half of the encoder is an error. The
layouts themselves are in lungseg/layouts.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.files import regular_file
from lungseg.layouts import LAYOUTS, Layout
from lungseg.nn.unetr import resize_positions


@dataclass
class LoadReport:
    """What `load_published` did, by tensor. Print it: a checkpoint that half fits is worth a look."""

    layout: str
    loaded: dict[str, str] = field(default_factory=dict)  # our name -> its published key, values unchanged
    adapted: dict[str, str] = field(default_factory=dict)  # our name -> what was done to fit it
    skipped: dict[str, str] = field(default_factory=dict)  # published key -> why it was not used
    fresh: list[str] = field(default_factory=list)  # our names that keep their initial values
    note: str = ""  # what the tensors cannot show

    def __str__(self) -> str:
        lines = [
            f"{self.layout}: {len(self.loaded)} tensors loaded, {len(self.adapted)} adapted, "
            f"{len(self.skipped)} skipped, {len(self.fresh)} left at their initial values"
        ]
        lines += [f"  adapted {name}: {how}" for name, how in self.adapted.items()]
        lines += [f"  skipped {key}: {why}" for key, why in self.skipped.items()]
        lines += [f"  fresh {name}" for name in self.fresh]
        return "\n".join(lines + [f"  note: {self.note}"] * bool(self.note))


def load_published(model: nn.Module, source: Mapping[str, Tensor] | str | Path) -> LoadReport:
    """Fill `model` with published weights, adapting what differs in a known way.

    Adapted are: another number of input channels (each of ours gets the sum of theirs over our number, so
    that a grey image gives what its copies in all channels gave); another window size (the bias table is
    resized by bicubic interpolation); another number of heads (each takes the bias of the nearest); another image
    size (the position table is interpolated). A head for other classes is skipped: there is no honest way to
    translate it.

    Args:
        model: one of our networks, changed in place; untouched if an error is raised.
        source: a state dict, or a file that holds one, alone or under "model" or "state_dict".

    Returns:
        A `LoadReport`; `print` it.

    Raises:
        ValueError: if the file is no checkpoint, the layout is not known for this network, or less than
            half of the encoder's numbers were found.
    """
    published = read_state_dict(source)
    layout = find_layout(model, published)
    report, ours, new = LoadReport(layout.name, note=layout.note(model)), model.state_dict(), {}
    for key, theirs in layout.rearrange(published, model).items():
        names = layout.rename(key, model)
        places = [name for name in names if name in ours]
        if not places:
            report.skipped[key] = why_unused(layout, key, names)
        for name in places:
            tensor, how = adapt(name, theirs, ours[name].shape, layout.first_convolutions)
            if tensor is None:
                report.skipped[key] = how
                continue
            new[name] = tensor
            if how:
                report.adapted[name] = how
            else:
                report.loaded[name] = key
    report.fresh = [name for name in ours if name not in new]
    check_encoder(layout, ours, new)
    model.load_state_dict(new, strict=False)
    return report


def read_state_dict(source: Mapping[str, Tensor] | str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key, without wrapping ("model", "state_dict") and common prefixes."""
    if isinstance(source, str | Path):
        try:
            source = torch.load(regular_file(source), map_location="cpu", weights_only=True)
        except OSError as error:
            raise ValueError(f"{source}: cannot be read ({error.strerror}). Give the path of a checkpoint.") from None
        except Exception:  # torch raises many kinds here; none of them tells a user what to do
            raise ValueError(
                f"{source}: is not a checkpoint of tensors only, written by torch.save. Save its state_dict()."
            ) from None
    for wrapper in ("model", "state_dict"):
        if isinstance(source, Mapping) and isinstance(source.get(wrapper), Mapping):
            source = source[wrapper]
    if not isinstance(source, Mapping) or not any(isinstance(v, Tensor) for v in source.values()):
        raise ValueError(
            "load_published: the checkpoint holds no tensors by name. Give a state_dict, or a file with one."
        )
    tensors = {k: v for k, v in source.items() if isinstance(v, Tensor)}
    for prefix in ("module.", "swin_unet."):  # DataParallel's, and the class around Swin-Unet's network
        if all(k.startswith(prefix) for k in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors


def find_layout(model: nn.Module, published: Mapping[str, Tensor]) -> Layout:
    """The first known layout for this network that has a key of the checkpoint."""
    known = [layout for layout in LAYOUTS if isinstance(model, layout.network)]
    for layout in known:
        if any(re.match(layout.recognised_by, key) for key in published):
            return layout
    raise ValueError(
        f"load_published: the keys ({', '.join(list(published)[:3])}, ...) belong to no layout known for "
        f"{type(model).__name__}. Known: {', '.join(layout.name for layout in known) or 'none'}."
    )


def why_unused(layout: Layout, key: str, names: list[str]) -> str:
    """Why a published tensor has no place in this network."""
    for pattern, reason in layout.why_unused.items():
        if re.match(pattern, key):
            return reason
    return f"no {' or '.join(names)} in this network" if names else "not part of this network"


def adapt(
    name: str, theirs: Tensor, shape: torch.Size, first_convolutions: tuple[str, ...] = ()
) -> tuple[Tensor | None, str]:
    """Bring a published tensor to `shape`: (tensor, what was done), or (None, why it cannot be done)."""
    if theirs.shape == shape:
        return theirs, ""
    if name.endswith("relative_position_bias_table"):
        return resize_bias_table(theirs, shape), f"bias table {tuple(theirs.shape)} -> {tuple(shape)}, bicubic"
    if name == "position_embedding" and theirs.dim() == len(shape) and theirs.shape[-1] == shape[-1]:
        how = f"position table {tuple(theirs.shape)} -> {tuple(shape)}, interpolated"
        return resize_positions(theirs, shape[:-1]), how
    if name in first_convolutions and theirs.shape[0] == shape[0] and theirs.shape[2:] == shape[2:]:
        summed = theirs.sum(dim=1, keepdim=True) / shape[1]  # (out_channels, 1, k, k)
        return summed.expand(shape).clone(), f"{theirs.shape[1]} input channels -> {shape[1]}, summed and shared out"
    return None, f"shape {tuple(theirs.shape)} does not fit {name} {tuple(shape)}"


def resize_bias_table(table: Tensor, shape: torch.Size) -> Tensor:
    """((2a - 1)^2, heads) -> ((2b - 1)^2, heads'): bicubic over offsets, nearest over heads.

    The outermost offsets stay outermost: a larger window stretches the learned map (Liu et al. 2021, 3.2).
    """
    old, new = isqrt(len(table)), isqrt(shape[0])
    grid = table.T.reshape(1, -1, old, old)  # (1, heads, 2a-1, 2a-1)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=True)
    heads = (torch.arange(shape[1]) * len(grid[0])) // shape[1]  # the nearest head of theirs for each of ours
    return grid[0, heads].flatten(1).T.contiguous()


def check_encoder(layout: Layout, ours: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Raise unless at least half of the encoder's numbers come from the checkpoint."""
    wanted = {k: v.numel() for k, v in ours.items() if k.startswith(layout.encoder)}
    found, total = sum(n for k, n in wanted.items() if k in new), sum(wanted.values())
    if 2 * found < total:
        raise ValueError(
            f"load_published: only {found:,} of the encoder's {total:,} numbers were found in this {layout.name} "
            f"checkpoint, less than half. Build the network with the sizes of the checkpoint."
        )
