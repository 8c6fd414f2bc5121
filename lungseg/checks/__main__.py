"""python -m lungseg.checks student.py: say which functions of a file keep their promises.

A function or class is checked when the file defines it under the name it has in lungseg (`shifted_window_mask`,
`dice_loss`, ...), with the same arguments; `augment` is a function (image, target, rng) -> (image, target).
What the file only imports is not checked. Exit code 0: all passed; 1: some failed; 2: nothing to check.

The file is imported, so its code runs: point this at files you would run yourself.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from lungseg.checks.attention import check_attention, check_window_attention
from lungseg.checks.augment import check_augmentation, check_elastic_displacement
from lungseg.checks.losses import check_dice_loss
from lungseg.checks.metrics import check_confusion_counts, check_hausdorff95, check_per_image, check_summarise
from lungseg.checks.patches import check_patch_expanding, check_patch_merging
from lungseg.checks.running import run_checks
from lungseg.checks.windows import check_relative_position_index, check_shifted_window_mask, check_window_round_trip

CHECKS = {
    ("window_partition", "window_reverse"): check_window_round_trip,
    ("shifted_window_mask",): check_shifted_window_mask,
    ("relative_position_index",): check_relative_position_index,
    ("attention",): check_attention,
    ("WindowAttention",): check_window_attention,
    ("PatchMerging",): check_patch_merging,
    ("PatchExpanding",): check_patch_expanding,
    ("augment",): check_augmentation,
    ("elastic_displacement",): check_elastic_displacement,
    ("dice_loss",): check_dice_loss,
    ("confusion_counts",): check_confusion_counts,
    ("per_image",): check_per_image,
    ("summarise",): check_summarise,
    ("hausdorff95",): check_hausdorff95,
}


def import_file(path: Path) -> ModuleType:
    """Import a Python file by its path."""
    sys.path.insert(0, str(path.parent.resolve()))  # the file may import its neighbours
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)  # a file torch.py hides no torch
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lungseg.checks", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("file", type=Path, help="a Python file that defines one or more of these functions")
    path = parser.parse_args(argv).file
    if path.suffix != ".py" or not path.is_file():
        print(f"{path}: is no Python file. Give the path of a .py file.", file=sys.stderr)
        return 2
    try:
        module = import_file(path)
    except (Exception, SystemExit) as error:  # the file is the student's; whatever it raises is its news
        print(f"{path}: cannot be imported: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    results = run_checks(module, CHECKS)
    if not results:
        known = ", ".join(name for names in CHECKS for name in names)
        print(f"{path}: defines none of the functions that have a check: {known}.", file=sys.stderr)
        return 2
    for name, problem in results.items():
        print(f"FAILED {name}\n{problem}\n" if problem else f"passed {name}")
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
