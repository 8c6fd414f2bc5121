"""How fast is it on this machine, and what bounds it? A table, with the machine's limits measured in the same run.

    python examples/benchmark.py                                        small networks, minutes on a CPU
    python examples/benchmark.py --size report --rows "swin forward"    published sizes; rows by a part of their name
    python examples/benchmark.py --device cuda --compile                float32 and bf16, eager and compiled
    python examples/benchmark.py --network unet --size report --against peers:unet    in turn with a network of yours

With --against MODULE:FACTORY the module is imported (the current folder is searched first), and FACTORY() must return
an nn.Module. The two networks compute in turn, call by call, on the same input, in one process; with --as-run each in
a process of its own. With --network augmentation it must return f(image, target), for numpy arrays. Nothing but --out
is written. docs/benchmarks.md explains the tables.
"""

import json
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (lungseg.exits, afterwards)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.benchmark.bench import Bench, Case, network_rows, other_rows, whole_rows
from lungseg.benchmark.comparison import COLUMNS as COMPARED, compare, weights_remark
from lungseg.benchmark.limits import measure_limits
from lungseg.benchmark.rows import table_head, table_line
from lungseg.benchmark.sides import Kind, Subject
from lungseg.benchmark.timing import Timer
from lungseg.benchmark.works import warm_up
from lungseg.exits import leave, run_main
from lungseg.files import whole_file
from lungseg.flags import check_fields, from_to, option, parse_options, positive
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.training.distributed import start_processes
from lungseg.training.machine import describe_machine, keep_freed_memory

SLICE, CROP, VOLUME = (64, 64), (16, 32, 32), (96, 96, 96)
SWIN = {"patch_size": 4, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 8}
VIT = {"patch_size": 8, "embed_dim": 96, "num_heads": 3, "feature_size": 8}
NARROW = {"in_channels": 1, "stem": 16, "widths": (16, 32, 64, 128), "decoder_channels": (64, 32, 32, 16, 16)}
DEMO3 = {"spatial_dims": 3, "channels": (8, 16, 32), "norm": "instance"}
CASES = {
    "small": {  # the networks of the demos of examples/train_*.py, at their sizes
        "swin": Case(SwinUNet, SWIN, SLICE),
        "swin-conv": Case(SwinUNet, SWIN | {"stem": "conv"}, SLICE),
        "unetr": Case(UNETR, VIT | {"depth": 6, "skip_layers": (2, 4), "img_size": 64}, SLICE),
        "unetr-3d": Case(UNETR, VIT | {"depth": 4, "skip_layers": (1, 2), "img_size": CROP, "spatial_dims": 3}, CROP),
        "resnet": Case(ResNet50UNet, NARROW, SLICE),
        "unet": Case(UNet, {"channels": (16, 32, 64, 128)}, SLICE),
        "unet-3d": Case(UNet, DEMO3, CROP),
        "rrc-3d": Case(RRCUNet, DEMO3, CROP),
    },
    "report": {  # the published sizes; of swin-conv those of --recipe recommended
        "swin": Case(SwinUNet, {}, (224, 224)),
        "swin-conv": Case(
            SwinUNet, {"stem": "conv", "conv_channels": (32, 64, 128), "patch_size": 8, "window_size": 8}, (256, 256)
        ),
        "unetr": Case(UNETR, {"img_size": 256}, (256, 256)),
        "unetr-3d": Case(UNETR, {"img_size": 96, "spatial_dims": 3}, VOLUME, batches=(1,), train=1),
        "resnet": Case(ResNet50UNet, {}, (256, 256), channels=3),
        "unet": Case(UNet, {}, (256, 256)),
        "unet-3d": Case(
            UNet, DEMO3 | {"channels": (16, 32, 64, 128, 256)}, VOLUME, batches=(1,), train=1
        ),
        "rrc-3d": Case(RRCUNet, {}, (64, 96, 96), batches=(1,), train=1),
    },
}  # fmt: skip
NAMES, AUGMENTATION = tuple(CASES["small"]), "augmentation"
TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
COMPARISON = ("network", "arguments", "as_run", "img_size")  # flags that mean nothing without --against
TABLE = ("num_workers", "slices")  # ... with it
NETWORKS = ("arguments", "img_size", "precision", "size")  # ... with --network augmentation


@dataclass(frozen=True)
class Options:
    """What is measured, and how."""

    rows: tuple[str, ...] = option((), 'only rows whose name contains one of these texts: "swin forward" loader')
    size: Literal["auto", "small", "report"] = option(
        "auto", "small: the networks of the demos; report: the published sizes; auto: small on a CPU, report on a GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute; auto takes a CUDA GPU if there is one")
    precision: tuple[str, ...] = option(
        ("auto",), "number types of the networks: float32, bf16 or both; auto: float32, and on a GPU also bf16"
    )
    compile: bool = option(False, "also rows of the compiled networks, in turn with the eager ones")
    threads: int = option(0, "threads of torch on a CPU; 0 leaves the number to torch", check=from_to(0, 1024))
    num_workers: int = option(0, "processes that read slices, in the row of the loader", check=from_to(0, 1024))
    slices: int = option(4, "slices of the whole scan")
    repeats: int = option(20, "most timed calls of a row")
    seconds: float = option(4.0, "a row ends after these seconds, with at least 3 calls", check=positive)
    clock: Literal["wall", "cpu"] = option(
        "wall", "of a CPU; cpu counts the processor time of this process, for a machine that others use too"
    )
    keep_memory: bool = option(True, "on Linux, keep freed memory, as our training scripts do")
    against: str | None = option(None, "MODULE:FACTORY: compare with the network that FACTORY() returns")
    network: str | None = option(None, f"with --against: which of ours: {', '.join(NAMES)}, {AUGMENTATION}")
    arguments: str | None = option(None, "with --against: arguments of ours as JSON: '{\"embed_dim\": 48}'")
    img_size: tuple[int, ...] = option(
        (0,),
        "with --against: the sides of the images, one number for equal ones; 0: those of --size",
        check=from_to(0, 65536),
    )
    as_run: bool = option(
        False, "with --against: two processes, ours keeping freed memory as our scripts do, theirs as Python starts"
    )
    out: Path | None = option(None, "a new file: write there, too, what is printed")

    def __post_init__(self) -> None:
        check_fields(self)
        if unknown := set(self.precision) - {"auto", *TYPES}:
            raise ValueError(f"--precision must be float32, bf16 or both, got {' '.join(sorted(unknown))}")
        if "auto" in self.precision and len(self.precision) > 1:
            raise ValueError(f"--precision auto stands alone, got {' '.join(self.precision)}")
        if 0 in self.img_size and len(self.img_size) > 1:
            raise ValueError(f"--img-size 0 stands alone, got {' '.join(map(str, self.img_size))}")
        if not self.against:
            self._refuse(COMPARISON, "is for a comparison: add --against MODULE:FACTORY")
        elif self.network not in (*NAMES, AUGMENTATION):
            raise ValueError(f"--against needs --network, one of {', '.join(NAMES)}, {AUGMENTATION}")
        else:
            self._refuse(("compile",), "is not for a comparison: leave it out, or let FACTORY compile")
            self._refuse(TABLE, "is not for a comparison: leave it out")
        if self.network == AUGMENTATION:
            self._refuse(NETWORKS, f"is not for --network {AUGMENTATION}: leave it out")
        if self.out and self.out.exists():
            raise ValueError(f"--out {self.out} exists already; choose another name")
        if self.out and not (self.out.parent.is_dir() and os.access(self.out.parent, os.W_OK)):
            raise ValueError(f"--out {self.out}: there is no folder {self.out.parent} to write to; create it first")

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        """Refuse flags that would be ignored."""
        for f in fields(self):
            if f.name in names and getattr(self, f.name) != f.default:
                raise ValueError(f"--{f.name.replace('_', '-')} {why}")


def choose_cases(options: Options, device: torch.device) -> dict[str, Case]:
    auto = "report" if device.type == "cuda" else "small"
    return CASES[auto if options.size == "auto" else options.size]


def choose_types(options: Options, device: torch.device) -> dict[str, torch.dtype]:
    auto = ("float32", "bf16") if device.type == "cuda" else ("float32",)
    return {name: TYPES[name] for name in (auto if "auto" in options.precision else options.precision)}


# ---- the table --------------------------------------------------------------------------------------------------


def all_rows(bench: Bench, options: Options) -> None:
    """Print the limits of the machine, then row by row of the table."""
    cases, types = choose_cases(options, bench.device), choose_types(options, bench.device)
    warm_up(bench.device)
    for dtype in dict.fromkeys([torch.float32, *types.values()]):
        bench.limits[dtype] = measure_limits(bench.timer, dtype)
        bench.print(f"Limits, {str(dtype).removeprefix('torch.')}: {bench.limits[dtype]}.")
    bench.print(f"\n{table_head()}")
    before = len(bench.lines)
    for name, case in cases.items():
        network_rows(bench, name, case, types, compiled=options.compile)
    whole_rows(bench, cases, options.slices)
    other_rows(bench, cases["swin"], num_workers=options.num_workers)
    if len(bench.lines) == before:
        raise no_such_row(options)


def no_such_row(options: Options) -> ValueError:
    return ValueError(f"--rows {' '.join(options.rows)}: no row has such a name. Leave it out to see all.")


# ---- the comparison ---------------------------------------------------------------------------------------------


def comparison(bench: Bench, options: Options) -> None:
    """Print how far the two are apart at equal weights, then the table of their times."""
    works: list[tuple[str, Kind, tuple[int, ...], torch.dtype]] = []
    if options.network == AUGMENTATION:
        ours, theirs = (Subject(factory, None, {}, threads=options.threads) for factory in (None, options.against))
        works.append(("augmentation 256 x 256", "augmentation", (256, 256), torch.float32))
    else:
        case = choose_cases(options, bench.device)[str(options.network)]
        arguments = case.arguments | read_arguments(options.arguments)
        ours, theirs = (
            Subject(factory, case.network, arguments, threads=options.threads) for factory in (None, options.against)
        )
        shape = (arguments.get("in_channels", case.channels), *image_sides(options, case, arguments))
        bench.print(weights_remark(ours, theirs, (1, *shape), bench.device))
        for precision, dtype in choose_types(options, bench.device).items():
            suffix = "" if dtype == torch.float32 else f", {precision}"
            kinds: list[tuple[Kind, int]] = [("forward", batch) for batch in case.batches] + [("train", case.train)]
            works += [(f"{options.network} {kind} b{b}{suffix}", kind, (b, *shape), dtype) for kind, b in kinds]
    works = [work for work in works if bench.wants(work[0])]
    if not works:
        raise no_such_row(options)
    for number, cells in enumerate(compare(ours, theirs, bench.timer, works, as_run=options.as_run)):
        if number == 0:
            bench.print(f"\n{table_head(COMPARED)}")
        bench.print(table_line(cells))


def image_sides(options: Options, case: Case, arguments: dict[str, Any]) -> tuple[int, ...]:
    """As many as the network has spatial dimensions; one number of --img-size means all of them."""
    dims = arguments.get("spatial_dims")
    dims = dims if dims in (2, 3) else len(case.spatial)  # anything else is refused by the network itself
    sides = options.img_size if any(options.img_size) else case.spatial
    sides = sides * dims if len(sides) == 1 else sides
    if len(sides) != dims:
        raise ValueError(
            f"The images of this {options.network} have {dims} sides, not {' x '.join(map(str, sides))}. "
            f"Give one or {dims} numbers with --img-size."
        )
    return sides


def read_arguments(text: str | None) -> dict[str, Any]:
    """--arguments: JSON of names and values, with tuples in place of lists."""
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError(f"--arguments {text}: expected JSON of names and values, such as '{{\"embed_dim\": 48}}'.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


# ---- everything -------------------------------------------------------------------------------------------------


def benchmark(options: Options) -> int:
    """Set the process up, measure, print, write."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"  # not Apple's GPU, whose memory and limits are not measured
    with start_processes(auto if options.device == "auto" else options.device) as processes:
        if options.threads:
            torch.set_num_threads(options.threads)
        if options.keep_memory and processes.device.type == "cpu":
            keep_freed_memory()
        timer = Timer(processes.device, options.repeats, options.seconds, options.clock)
        bench = Bench(timer, options.rows)
        bench.print(", ".join(f"{name} {value}" for name, value in describe_machine(bench.device).items()) + ".")
        if options.against:
            comparison(bench, options)
        else:
            all_rows(bench, options)
    if options.out:
        with whole_file(options.out) as partial:
            partial.write_text("\n".join(bench.lines) + "\n", encoding="utf-8")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 done, 2 for what the user can fix, 130 for Ctrl-C."""
    options = parse_options(Options(), argv, description=__doc__)
    return run_main(
        "benchmark.py",
        lambda: benchmark(options),
        stopped=f"{options.out} was not written." if options.out else "Nothing was written.",
        too_little_memory="Choose fewer rows with --rows, or --size small.",
    )


if __name__ == "__main__":
    leave(main())
