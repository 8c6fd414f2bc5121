"""What a call has to do, arithmetic and bytes of each operation; and how long that takes a machine at least.

This is the roofline model (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785), operation by operation. One
operation takes at least as long as its arithmetic at the machine's rate, and at least as long as reading its inputs and
writing its outputs once. The least time of a call is the sum over its operations, because without a compiler each runs
after the other and takes its inputs from memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lungseg.benchmark.limits import Limits

OVERWRITE = ("copy_", "fill_", "zero_")  # write in place what they do not read


@dataclass(frozen=True)
class Operation:
    """One operation of torch, such as "aten.mm.default": its arithmetic operations, and the bytes it has to move."""

    name: str
    flops: int
    bytes: int

    def least(self, limits: Limits) -> tuple[str, float]:
        """What bounds it ("matmul", "convolution" or "copy"), and its least time in seconds."""
        kind = "convolution" if "conv" in self.name else "matmul"
        arithmetic = self.flops / (limits.convolution if kind == "convolution" else limits.matmul)
        copy = self.bytes / limits.copy
        return (kind, arithmetic) if arithmetic > copy else ("copy", copy)


@dataclass(frozen=True)
class Costs:
    """All operations of a call, in their order."""

    operations: tuple[Operation, ...]

    @property
    def flops(self) -> int:
        """Arithmetic operations of matrix products and convolutions; the others are not counted."""
        return sum(o.flops for o in self.operations)

    @property
    def bytes(self) -> int:
        return sum(o.bytes for o in self.operations)

    def least(self, limits: Limits) -> dict[str, float]:
        """kind -> the least seconds of the operations that it bounds, largest first; their sum is the least time."""
        seconds = {"matmul": 0.0, "convolution": 0.0, "copy": 0.0}
        for operation in self.operations:
            kind, least = operation.least(limits)
            seconds[kind] += least
        return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def count_costs(work: Callable[[], object]) -> Costs:
    """Call `work` once and count. A compiled network must be counted before it is compiled."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flops, Counter(flops) as counter:
        work()
    return Costs(tuple(counter.operations))


class Counter(TorchDispatchMode):
    """Sees each operation that torch executes, forward and backward."""

    def __init__(self, flops: FlopCounterMode):
        super().__init__()
        self.flops, self.operations = flops, list[Operation]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.flops.get_total_flops()
        out = func(*args, **(kwargs or {}))
        moved = bytes_moved(func, args, kwargs or {}, out)
        self.operations.append(Operation(str(func), self.flops.get_total_flops() - before, moved))
        return out


def bytes_moved(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Bytes that an operation reads and writes, if it touches each of its tensors once; 0 for a view."""
    read = unique_tensors((args, kwargs))
    written = {key: tensor for key, tensor in unique_tensors(out).items() if key not in read}  # new memory
    by_name = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    for argument in func._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:  # written in place
            written |= unique_tensors(by_name.get(argument.name))
    name = str(func).removeprefix("aten.").split(".")[0]
    if not written or "empty" in name:  # a view, or memory that nothing is written to yet
        return 0
    if name in OVERWRITE:
        read = {key: tensor for key, tensor in read.items() if key not in written}
    return sum(map(size_in_bytes, [*read.values(), *written.values()]))


def unique_tensors(tree: Any) -> dict[int, Tensor]:
    """The tensors in nested lists and dicts, by the address of their memory."""
    return {t.untyped_storage().data_ptr(): t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.numel()}


def size_in_bytes(tensor: Tensor) -> int:
    """Of the numbers it shows; an expanded tensor has fewer in memory."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


# ---- an operation that torch's counter does not know --------------------------------------------------------------


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of softmax(q k^T) v, from the shapes (B, heads, N, d), (B, heads, M, d) and (B, heads, M, e)."""
    *batch, tokens, depth = query
    return 2 * int(torch.Size(batch).numel()) * tokens * key[-2] * (depth + value[-1])


def attention_backward_flops(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    """q k^T again, and the gradients of q, k, v and of the weights: five products for the two of the formula."""
    *batch, tokens, depth = query
    return 2 * int(torch.Size(batch).numel()) * tokens * key[-2] * (3 * depth + 2 * value[-1])


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}
