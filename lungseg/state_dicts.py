"""What a file of weights holds: its tables of tensors, without the wrappers and prefixes that others put round them.

A published file may hold its tensors as they are, or under "state_dict", or twice ("model" and "model_ema"), and each
name may begin with "module." or "module.backbone.". Every such table is a candidate here; which of them is the network
is decided in lungseg/weights.py, by how much of the network each one fills.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lungseg.checkpoint import is_sealed, load_checkpoint

PREFIXES = frozenset(
    ("module", "model", "net", "network", "backbone", "encoder", "swin_unet", "student", "teacher", "ema", "base_model")
)  # of names: DataParallel, Lightning, mmseg, the class around Swin-Unet, DINO, ...
INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # by torch, anywhere
AVERAGED = re.compile(r"ema|teacher")  # the mean over the last steps: it is what was published to be used
MOST_NESTED = 4  # mappings inside mappings


@dataclass(frozen=True)
class Table:
    """Tensors by name, as they may have been meant.

    Attributes:
        where: the way to them, for people: "", "state_dict", "state_dict, under backbone.".
        tensors: their names without that prefix.
        outside: full names of the tensors beside them that do not begin with it.
    """

    where: str
    tensors: dict[str, Tensor]
    outside: tuple[str, ...] = ()


def read_file(path: str | Path) -> Mapping[str, Any]:
    """What a file of `save_checkpoint` or `torch.save` holds, all tensors on the CPU. Nothing in it is executed.

    Raises:
        ValueError: in one sentence, if it cannot be read, is damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give a file of weights, such as {path / 'best.pt'}.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file. Give the path of a checkpoint.")
    try:
        if is_sealed(path):
            return load_checkpoint(path)  # one of ours: its checksum is verified
        with torch.serialization.safe_globals([argparse.Namespace]):  # plain values: the flags of whoever trained it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Give the path of a checkpoint.") from None
    except ValueError:
        raise
    except Exception:  # torch raises many kinds here; none of them tells a user what to do
        raise ValueError(
            f"{path}: is not a checkpoint of tensors only, written by torch.save. Save its state_dict()."
        ) from None
    if not isinstance(content, Mapping) or not any(candidates(content)):
        raise ValueError(f"{path}: holds no tensors by name. Give a file with a state_dict.")
    return content


def candidates(content: Mapping[str, Any]) -> Iterator[Table]:
    """Every table of tensors in a file, as it stands and without each known prefix; averaged weights come first."""
    tables = sorted(nested(content), key=lambda table: not AVERAGED.search(table[0]))
    for where, tensors in tables:
        tensors = {INSERTED.sub("", key): tensor for key, tensor in tensors.items()}
        for prefix in sorted(prefixes(tensors), key=lambda prefix: not AVERAGED.search(prefix)):
            inside = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            outside = tuple(key for key in tensors if not key.startswith(prefix))
            yield Table(", ".join(filter(None, (where, prefix and f"under {prefix}"))), inside, outside)


def nested(content: Mapping[Any, Any], where: str = "", depth: int = MOST_NESTED) -> Iterator[tuple[str, dict]]:
    """("", tensors), ("state_dict", tensors), ("ema.model", tensors): each mapping that holds tensors by name."""
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in content.items() if depth else ():
        if isinstance(value, Mapping):
            yield from nested(value, f"{where}.{key}" if where else str(key), depth - 1)


def prefixes(names: Mapping[str, Tensor]) -> list[str]:
    """Each way in which names begin with known prefixes: "", "module.", "module.backbone."."""
    found = {"": None}
    for name in names:
        prefix = ""
        for part in name.split(".")[:-1]:
            if part not in PREFIXES:
                break
            prefix += f"{part}."
            found[prefix] = None
    return list(found)


def contents(content: Mapping[str, Any], most: int = 6) -> str:
    """What is there, in short: "state_dict: backbone.layers (173 tensors), decode_head.conv_seg (2)"."""
    parts = []
    for where, tensors in sorted(nested(content), key=lambda table: -len(table[1]))[:2]:
        counts = Counter(".".join(name.split(".")[:2]) for name in tensors).most_common()
        shown = ", ".join(f"{name} ({count})" for name, count in counts[:most]) + ", ..." * (len(counts) > most)
        parts.append(f"{where}: {shown}" if where else shown)
    return "; ".join(parts)
