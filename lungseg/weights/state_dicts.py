"""What a file of weights holds: its tables of tensors, without the wrappers and prefixes that libraries add.

A published file may hold its tensors directly, or under "state_dict", or twice ("model" and "model_ema"), and each
name may begin with "module." or "module.backbone.". Every such table is a candidate here; lungseg/weights/load.py
decides which of them is the network, by how much of the network each one fills.
"""

import argparse
import json
import math
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
    ("module", "model", "net", "network", "backbone", "encoder", "swin_unet", "student", "teacher", "ema", "base_model",
     "image_encoder")
)  # fmt: skip  # of names, from DataParallel, Lightning, mmseg, the class around Swin-Unet, DINO, SAM, ...
INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # by torch, anywhere
AVERAGED = re.compile(r"ema|teacher")  # the mean over the last steps: the weights that are meant to be used
SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
MOST_NESTED = 4  # mappings inside mappings


@dataclass(frozen=True)
class Table:
    """One reading of a file: tensors by name, perhaps without a prefix.

    Attributes:
        where: the place in the file, for people: "", "state_dict", "state_dict, under backbone.".
        tensors: the tensors, by their names without that prefix.
        outside: full names of the tensors in the same place that do not begin with the prefix.
    """

    where: str
    tensors: dict[str, Tensor]
    outside: tuple[str, ...] = ()


def read_file(path: str | Path) -> Any:
    """Read a file of `save_checkpoint`, `torch.save` or safetensors onto the CPU. Nothing in it is executed.

    Raises:
        ValueError: in one sentence, if it cannot be read, is damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give a file of weights, such as {path / 'best.pt'}.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file. Give the path of a checkpoint.")
    try:
        if is_sealed(path):
            return load_checkpoint(path)  # one of ours: its checksum is verified
        if path.suffix == ".safetensors":
            return read_safetensors(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # plain values: the flags of a training script
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Give the path of a checkpoint.") from None
    except ValueError:
        raise
    except Exception as error:  # torch raises many kinds here; none says what to do
        more = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f" (it also holds {more[1]})" if more else ""
        raise ValueError(
            f"{path}: is not a checkpoint of tensors only, written by torch.save{holds}. Save its state_dict()."
        ) from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, the format of Hugging Face in which timm offers its weights.

    Eight bytes with the length of the header (little-endian); the header, JSON: {name: {"dtype": "F32",
    "shape": [2, 3], "data_offsets": [0, 24]}}; then the numbers, from whose beginning the offsets count.

    Raises:
        ValueError: in one sentence, if the file does not follow this format.
    """
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    numbers, tensors = memoryview(data)[8 + length :], {}
    try:
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                dtype, shape, (start, end) = SAFETENSORS[entry["dtype"]], entry["shape"], entry["data_offsets"]
                raw = bytearray(numbers[start:end])  # a writable copy, which torch requires
                if min([start, *shape]) < 0 or not len(raw) == end - start == math.prod(shape) * dtype.itemsize:
                    raise ValueError(f"the length of {name} does not fit its shape")
                flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
                tensors[name] = flat.reshape(shape)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, RecursionError, OverflowError):
        raise ValueError(f"{path}: is damaged, or not in the format of safetensors. Fetch it again.") from None
    return tensors


def candidates(content: Mapping[str, Any]) -> Iterator[Table]:
    """Yield every table of tensors in a file, with full names and without each known prefix, averaged ones first."""
    tables = sorted(nested(content), key=lambda table: not AVERAGED.search(table[0]))
    for where, tensors in tables:
        tensors = {INSERTED.sub("", key): tensor for key, tensor in tensors.items()}
        for prefix in sorted(prefixes(tensors), key=lambda prefix: not AVERAGED.search(prefix)):
            inside = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            outside = tuple(key for key in tensors if not key.startswith(prefix))
            yield Table(", ".join(filter(None, (where, prefix and f"under {prefix}"))), inside, outside)


def nested(content: Mapping[Any, Any], where: str = "", depth: int = MOST_NESTED) -> Iterator[tuple[str, dict]]:
    """Yield each mapping with tensors by name: ("", tensors), ("state_dict", tensors), ("ema.model", tensors)."""
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in content.items() if depth else ():
        if isinstance(value, Mapping):
            yield from nested(value, f"{where}.{key}" if where else str(key), depth - 1)


def prefixes(names: Mapping[str, Tensor]) -> list[str]:
    """List the ways in which names begin with known prefixes: "", "module.", "module.backbone."."""
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
    """Summarise the largest tables: "state_dict: backbone.layers (173), decode_head.conv_seg (2)"."""
    parts = []
    for where, tensors in sorted(nested(content), key=lambda table: -len(table[1]))[:2]:
        counts = Counter(".".join(name.split(".")[:2]) for name in tensors).most_common()
        shown = ", ".join(f"{name} ({count})" for name, count in counts[:most]) + ", ..." * (len(counts) > most)
        parts.append(f"{where}: {shown}" if where else shown)
    return "; ".join(parts)
