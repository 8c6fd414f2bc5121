"""What can be imported by name, from where; and what an import does not load."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lungseg

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["lungseg", *(m.name for m in pkgutil.walk_packages(lungseg.__path__, "lungseg.") if m.ispkg)]
LAZY = [name for name in PACKAGES if "_EXPORTS" in (ROOT / name.replace(".", "/") / "__init__.py").read_text()]


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout


@pytest.mark.parametrize("name", PACKAGES)
def test_all_names_what_a_package_offers(name):
    package = importlib.import_module(name)
    names = getattr(package, "__all__", [])
    assert sorted(set(names)) == sorted(names)
    for exported in names:
        assert getattr(package, exported) is not None and exported in dir(package)


@pytest.mark.parametrize("name", LAZY)
def test_editors_and_python_see_the_same_names(name):
    """The imports for type checkers, `__all__` and the table of lazy imports are three lists of one thing."""
    package = importlib.import_module(name)
    tree = ast.parse((ROOT / name.replace(".", "/") / "__init__.py").read_text())
    typed = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lungseg.")
        for alias in node.names
        if alias.asname
    }
    assert typed == {key: f"{name}.{module}" for module, keys in package._EXPORTS.items() for key in keys}
    assert sorted(package.__all__) == sorted(typed)
    for key, module in typed.items():
        assert getattr(package, key) is getattr(importlib.import_module(module), key)


def test_the_door_of_the_library_is_as_documented():
    from lungseg.nn.resnet_unet import ResNet50UNet  # noqa: F401
    from lungseg.nn.rrc_unet import RRCUNet  # noqa: F401
    from lungseg.nn.swin_unet import SwinUNet  # noqa: F401
    from lungseg.nn.unet import UNet  # noqa: F401
    from lungseg.nn.unetr import UNETR  # noqa: F401
    from lungseg.predictor import load_predictor  # noqa: F401
    from lungseg.weights.load import load_published  # noqa: F401

    assert lungseg.losses.dice_loss.__name__ == "dice_loss"
    assert lungseg.nn.WindowAttention.__module__ == "lungseg.nn.attention"
    assert lungseg.evaluation.metrics.per_image.__name__ == "per_image"
    with pytest.raises(AttributeError, match="module 'lungseg' has no attribute 'los'"):
        lungseg.los  # noqa: B018
    with pytest.raises(ImportError):
        from lungseg import nothing_of_this_name  # noqa: F401


def test_import_lungseg_loads_nothing_heavy():
    loaded = run("import sys, lungseg; print(*sys.modules)").split()
    heavy = {"torch", "numpy", "scipy", "PIL", "tqdm", "hypothesis"} & set(loaded)
    assert not heavy, heavy
    ours = [name for name in loaded if name.startswith("lungseg")]
    assert sorted(ours) == ["lungseg", "lungseg._lazy"]


def test_a_name_is_found_without_the_detour_from_the_second_time_on():
    seen = "print('UNet' in vars(lungseg), 'UNet' in dir(lungseg))"
    code = f"import lungseg; {seen}; lungseg.UNet; {seen}"
    assert run(code).split() == ["False", "True", "True", "True"]
