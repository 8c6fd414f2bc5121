"""Load weights into our networks, from a checkpoint of ours or a published one, and report what became of each tensor.

Nothing is guessed silently: the layout is recognised from its keys, the report names each tensor that changes shape
and what was done to it, and a checkpoint that does not fill at least half of the encoder is an error. The layouts are
in checkpoint_layouts.py and the wrappers around a state dict in state_dicts.py, in the same folder as this file.
"""

import inspect
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.flags import as_flag
from lungseg.nn.unetr import resize_positions
from lungseg.weights.checkpoint_layouts import LAYOUTS, Layout
from lungseg.weights.renaming import rename_ours
from lungseg.weights.state_dicts import Table, candidates, contents, read_file

# Arguments of a network in which a checkpoint of ours may differ: the tensors are adapted, or there are none.
ADAPTABLE = frozenset(
    ("in_channels", "num_classes", "head_bias", "img_size", "window_size")
    + ("drop_rate", "attn_drop_rate", "drop_path_rate")
)
MOST_LARGER = 10_000  # a tensor to be adapted has at most this many times the numbers of ours
OUTSIDE = "outside the part of the file that is this network"


@dataclass
class LoadReport:
    """What `load_published` did with each tensor. Printed, it has a line for each reason."""

    layout: str
    loaded: dict[str, str] = field(default_factory=dict)  # our name -> its published key, values unchanged
    adapted: dict[str, str] = field(default_factory=dict)  # our name -> what was done to fit it
    skipped: dict[str, str] = field(default_factory=dict)  # published key -> why it was not used
    fresh: list[str] = field(default_factory=list)  # our names that keep their initial values
    note: str = ""  # what tensors cannot show
    where: str = ""  # where in the file the table of tensors was: "state_dict, under module."

    def __str__(self) -> str:
        """The report for people: counts, then what was adapted, skipped and left fresh."""
        lines = [
            f"{self.layout}: {len(self.loaded)} tensors loaded, {len(self.adapted)} adapted, "
            f"{len(self.skipped)} skipped, {len(self.fresh)} left at their initial values"
        ]
        lines += [f"  found in {self.where}"] * bool(self.where)
        lines += [f"  adapted {what}" for what in group_by_reason(self.adapted)]
        lines += [f"  skipped {what}" for what in group_by_reason(self.skipped)]
        if self.fresh:
            modules = Counter(name.split(".")[0] for name in self.fresh)
            lines.append(f"  fresh {', '.join(f'{module} ({count})' for module, count in modules.items())}")
        return "\n".join(lines + [f"  note: {self.note}"] * bool(self.note))


def group_by_reason(names: Mapping[str, str]) -> list[str]:
    """{name: reason} -> a line for each reason: "head.weight: ..." or "24 tensors (blocks.0.norm.weight, ...): ..."."""
    groups: dict[str, list[str]] = {}
    for name, reason in names.items():
        groups.setdefault(reason, []).append(name)
    return [
        f"{found[0] if len(found) == 1 else f'{len(found)} tensors ({found[0]}, ...)'}: {reason}"
        for reason, found in groups.items()
    ]


def load_published(
    model: nn.Module, source: Mapping[str, Any] | str | Path, *, arguments: Mapping[str, Any] | None = None
) -> LoadReport:
    """Fill `model` with the weights of a checkpoint, ours or a published one, adapting what differs in a known way.

    The two may differ in the number of input channels (each of ours gets the sum of theirs divided by the number of
    ours, so that a grey image gives what its copies in all channels gave), the window size (bicubic interpolation of
    the bias table), the number of attention heads (each takes the bias of the nearest), the image size (interpolation
    of the position table) and the number type. A head for other classes keeps its initial values, because it cannot
    be translated. If only our head has a bias, it becomes 0, which computes the same.

    A checkpoint of ours must be of a network of the same kind and sizes. Tensors of a published one that have no
    place in ours are skipped.

    Args:
        model: one of our networks, changed in place; untouched if an error is raised.
        source: a state dict, or a file that holds one, alone, wrapped, or with prefixes (state_dicts.py).
        arguments: the arguments `model` was built with, for a message that names those that differ.

    Returns:
        A `LoadReport`; `print` it.

    Raises:
        ValueError: if the file is not a checkpoint, its layout is not known for this network, a checkpoint of ours is
            of another network, less than half of the encoder's numbers were found, or a number is NaN or infinite.
    """
    name, content = "load_published", source
    if isinstance(source, str | Path):
        name, content = str(source), read_file(source)
    if not isinstance(content, Mapping) or not any(candidates(content)):
        raise ValueError(f"{name}: holds no tensors by name. Give a state_dict, or a file with one.")
    try:
        check_network(model, content, arguments)
        layout, table, others = find_reading(model, content)
        try:
            report, new = fit_tensors(model, layout, table)
        except (ArithmeticError, LookupError, RuntimeError, TypeError):  # a rearrangement met an unexpected shape
            raise ValueError(f"its tensors do not have the shapes of {layout.name}. Use another checkpoint.") from None
        ours = model.state_dict()
        (check_complete if layout.ours else check_encoder)(layout, ours, new, report)
        check_finite(new)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    report.where = table.where
    report.note = "; ".join(filter(None, (report.note, others)))
    model.load_state_dict(new, strict=False)
    return report


def fit_tensors(model: nn.Module, layout: Layout, table: Table) -> tuple[LoadReport, dict[str, Tensor]]:
    """Fit each tensor of a table to the network: a report, and the tensors that go into it, by our names."""
    report, ours, new = LoadReport(layout.name, note=layout.note(model)), model.state_dict(), {}
    for key, theirs in layout.rearrange(table.tensors, model).items():
        names = layout.rename(key, model)
        places = [name for name in names if name in ours]
        if not places:
            report.skipped[key] = why_unused(layout, key, names)
        for name in places:
            tensor, how = adapt(name, theirs, ours[name], layout)
            if tensor is None:
                report.skipped[key] = how
                continue
            new[name] = tensor
            if how:
                report.adapted[name] = how
            else:
                report.loaded[name] = key
    keep_head_whole(ours, new, report)
    report.skipped |= dict.fromkeys(table.outside, OUTSIDE)
    report.fresh = [name for name in ours if name not in new]
    return report, new


def keep_head_whole(ours: Mapping[str, Tensor], new: dict[str, Tensor], report: LoadReport) -> None:
    """Load the last layer as a whole or not at all: a missing bias is 0, a bias without its weight is useless."""
    if "head.weight" in new and "head.bias" in ours and "head.bias" not in new:
        new["head.bias"] = torch.zeros_like(ours["head.bias"])
        report.adapted["head.bias"] = "the checkpoint's last layer has none, which is 0"
    if "head.bias" in new and "head.weight" not in new:
        del new["head.bias"]
        key = report.loaded.pop("head.bias", "head.bias")
        report.skipped[key] = "its weight does not fit, and the two belong together"


def check_network(model: nn.Module, content: Mapping[str, Any], arguments: Mapping[str, Any] | None) -> None:
    """Raise unless a checkpoint of ours states a network like `model`; published checkpoints state none."""
    saved, kind = content.get("network"), type(model)
    if not isinstance(saved, Mapping) or not isinstance(saved.get("name"), str):
        return
    if saved["name"] != kind.__name__:
        raise ValueError(f"holds a {saved['name']}, and this is a {kind.__name__}. Use the script of that network.")
    if arguments is None or not isinstance(saved.get("arguments"), Mapping):
        return
    try:
        theirs, ours = (complete_arguments(kind, given) for given in (saved["arguments"], arguments))
        differing = [name for name in ours if name not in ADAPTABLE and theirs[name] != ours[name]]
    except (TypeError, RuntimeError):  # unknown names, or values that cannot be compared
        raise ValueError(f"its arguments are not those of {kind.__name__}. Use another checkpoint.") from None
    if differing:
        flags = [part for name in differing for part in as_flag(name, theirs[name])]
        there, here = (", ".join(f"{name} {values[name]}" for name in differing) for values in (theirs, ours))
        raise ValueError(
            f"holds a {kind.__name__} with {there}, and this one has {here}. "
            f"Give {' '.join(flags)} to build the network that it holds."
        )


def complete_arguments(network: type[nn.Module], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the arguments of a network with its defaults; lists become tuples, so that they can be compared."""
    bound = inspect.signature(network).bind(**arguments)
    bound.apply_defaults()
    return {name: tuple(value) if isinstance(value, list) else value for name, value in bound.arguments.items()}


def find_reading(model: nn.Module, content: Mapping[str, Any]) -> tuple[Layout, Table, str]:
    """Find the layout and the table of a file that fill most of this network, and note other tables that do so too.

    On a tie the first wins: our own layout before published ones, averaged weights before others.
    """
    known = [layout for layout in LAYOUTS if isinstance(model, layout.network)]
    if " of " in type(model).__name__:  # of a file given as --network: its checkpoints have its own names
        known = [Layout("its own names", nn.Module, ".", rename_ours, (), (), ours=True)]
    sizes = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    readings: list[tuple[int, Layout, Table]] = []
    for table in candidates(content):
        for layout in known:
            if any(re.match(layout.recognised_by, key) for key in table.tensors):
                names = {name for key in table.tensors for name in layout.rename(key, model)}
                readings.append((sum(sizes.get(name, 0) for name in names), layout, table))
    if not readings:
        raise ValueError(
            f"the keys ({contents(content)}) belong to no layout known for {type(model).__name__}. "
            f"Known: {', '.join(layout.name for layout in known) or 'none'}."
        )
    most, layout, table = max(readings, key=lambda reading: reading[0])  # the first of the largest
    equal = [t.where for found, other, t in readings if found == most and other is layout and t is not table]
    return layout, table, f"the file also holds this network as: {', '.join(equal)}" if equal else ""


def why_unused(layout: Layout, key: str, names: list[str]) -> str:
    """Explain why a tensor of the checkpoint has no place in this network."""
    for pattern, reason in layout.why_unused.items():
        if re.match(pattern, key):
            return reason
    modules = " or ".join(".".join(name.split(".")[:3]) for name in names)
    return f"no {modules} in this network" if names else "not part of this network"


def adapt(name: str, theirs: Tensor, ours: Tensor, layout: Layout) -> tuple[Tensor | None, str]:
    """Adapt a tensor to the shape and type of ours: (tensor, what was done), or (None, why it cannot be done)."""
    shape = ours.shape
    if theirs.layout != torch.strided or theirs.is_quantized or theirs.is_complex() or theirs.is_meta:
        return None, "not plain real numbers"
    if theirs.shape == shape:
        return theirs.to(ours.dtype), ""
    misfit = f"shape {tuple(theirs.shape)} does not fit {name} {tuple(shape)}"
    if theirs.dim() != len(shape) or not 0 < theirs.numel() <= MOST_LARGER * ours.numel():
        return None, misfit
    theirs = theirs.to(ours.dtype)
    is_table = name.endswith("relative_position_bias_table") and isqrt(len(theirs)) ** 2 == len(theirs)
    if is_table and not (layout.ours and theirs.shape[1] != shape[1]):
        return resize_bias_table(theirs, shape), f"bias table {tuple(theirs.shape)} -> {tuple(shape)}, bicubic"
    if name.endswith("position_embedding") and theirs.shape[-1] == shape[-1]:
        how = f"position table {tuple(theirs.shape)} -> {tuple(shape)}, interpolated"
        return resize_positions(theirs, shape[:-1]), how
    if name in layout.first_convolutions and theirs.shape[0] == shape[0] and theirs.shape[2:] == shape[2:]:
        summed = theirs.sum(dim=1, keepdim=True) / shape[1]  # (out_channels, 1, k, k)
        return summed.expand(shape).clone(), f"{theirs.shape[1]} input channels -> {shape[1]}, summed and shared out"
    return None, misfit


def resize_bias_table(table: Tensor, shape: torch.Size) -> Tensor:
    """((2a - 1)^2, heads) -> ((2b - 1)^2, heads'): bicubic over offsets, nearest over heads.

    The outermost offsets stay outermost: a larger window stretches the learned map (Liu et al. 2021, section 3.2).
    """
    old, new = isqrt(len(table)), isqrt(shape[0])
    grid = table.T.reshape(1, -1, old, old)  # (1, heads, 2a-1, 2a-1)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=True)
    heads = (torch.arange(shape[1]) * len(grid[0])) // shape[1]  # for each of our heads, the nearest of theirs
    return grid[0, heads].flatten(1).T.contiguous()


def check_complete(layout: Layout, ours: Mapping[str, Tensor], new: Mapping[str, Tensor], report: LoadReport) -> None:
    """Raise unless a checkpoint of ours fills the whole network except its head, and holds nothing else."""
    missing = [name for name in ours if name not in new and not name.startswith("head.")]
    unused = {key: why for key, why in report.skipped.items() if why != OUTSIDE and not key.startswith("head.")}
    if missing or unused:
        why = next((why for why in unused.values() if why.startswith("shape")), None)
        why = why or (f"it lacks {missing[0]}" if missing else f"{next(iter(unused))} has no place here")
        raise ValueError(
            f"holds this network in other sizes: {why}. Build the network with the sizes of the checkpoint."
        )


def check_encoder(layout: Layout, ours: Mapping[str, Tensor], new: Mapping[str, Tensor], report: LoadReport) -> None:
    """Raise unless at least half of the encoder's numbers come from the checkpoint."""
    encoder = {k: v.numel() for k, v in ours.items() if k.startswith(layout.encoder)}
    found, total = sum(n for k, n in encoder.items() if k in new), sum(encoder.values())
    if 2 * found < total:
        raise ValueError(
            f"only {found:,} of the encoder's {total:,} numbers were found in this {layout.name} "
            f"checkpoint, less than half. Build the network with the sizes of the checkpoint."
        )


def check_finite(new: Mapping[str, Tensor]) -> None:
    """Raise at the first tensor that holds a NaN or an infinite number: no training can recover from it."""
    for name, tensor in new.items():
        if not tensor.isfinite().all():
            raise ValueError(f"its {name} holds numbers that are NaN or infinite. Use another checkpoint.")
