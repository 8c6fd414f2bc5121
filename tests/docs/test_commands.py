"""Each command that README, docs and the scripts' own help show has flags that its script knows."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")), *EXAMPLES]
START = r"^ *(?:\w+=\w+ )*(?:python|torchrun [^\n]*?) examples/(\w+\.py)"
LINE = re.compile(START + r"((?:[^\n\\]|\\\n|\\[^\n])*)", re.MULTILINE)  # a backslash at its end continues a line
INLINE = re.compile(r"`(?:python )?(?:examples/)?(\w+\.py) ([^`]*)`")


def commands():
    """(page, script, flags), for every command with flags."""
    for page in PAGES:
        text = page.read_text()
        for match in [*LINE.finditer(text), *(INLINE.finditer(text) if page.suffix == ".md" else ())]:
            line = re.sub(r" *\\\n *", " ", match[2])  # continued on the next
            words = line.split("  ")[0]  # two blanks begin a remark in the help of a script
            flags = [word.split("=")[0] for word in shlex.split(words) if re.match("--[a-z]", word)]
            if flags and (ROOT / "examples" / match[1]) in EXAMPLES:
                yield page.relative_to(ROOT).as_posix(), match[1], flags


COMMANDS = list(commands())
KNOWN: dict[str, set[str]] = {}


def flags_of(script, capsys):
    """Those that --help explains; its first part is the text whose commands are in question."""
    if script not in KNOWN:
        spec = importlib.util.spec_from_file_location(script[:-3], ROOT / "examples" / script)
        module = importlib.util.module_from_spec(spec)
        sys.modules[script[:-3]] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        with pytest.raises(SystemExit) as end:
            module.main(["--help"])
        assert end.value.code == 0
        lines = re.findall(r"^  (?:-h, )?(--[a-z].*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)  # "--x, --no-x"
        KNOWN[script] = {flag for line in lines for flag in re.findall(r"--[a-z][a-z-]*", line)}
    return KNOWN[script]


@pytest.mark.parametrize(("page", "script", "flags"), COMMANDS)
def test_a_command_has_flags_that_exist(page, script, flags, capsys):
    unknown = set(flags) - flags_of(script, capsys)
    assert not unknown, f"{page}: {script} has no {', '.join(sorted(unknown))}"


def test_the_commands_are_found():
    assert {script for _, script, _ in COMMANDS} == {path.name for path in EXAMPLES}
    of_readme = [(script, flags) for page, script, flags in COMMANDS if page == "README.md"]
    assert ("train_unet.py", ["--out", "--resume"]) in of_readme
    assert ("prepare_data.py", ["--images", "--masks", "--patient-from", "--out"]) in of_readme
