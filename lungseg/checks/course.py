"""`python -m lungseg.checks --course DIR`: exercises in the order in which networks are built, and one's progress."""

import json
import re
import shlex
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from lungseg.checks.report import Silent, collect, indent
from lungseg.files import whole_file

STARTERS = files("lungseg.checks") / "starters"
LADDERS = (range(1, 19), range(19, 26))  # a Swin-UNet of one's own; then parts of the other networks, data and training
TRAINED = 0.5  # validation Dice of the demo, from which step 18 counts as done
NAMES = {  # what each step has one write; step 18 trains the network of step 16
    1: ("window_partition",), 2: ("window_reverse",), 3: ("cyclic_shift",), 4: ("pad_to_multiple",),
    5: ("shifted_window_mask",), 6: ("relative_position_index",), 7: ("attention",), 8: ("split_heads", "merge_heads"),
    9: ("WindowAttention",), 10: ("MLP", "DropPath"), 11: ("PatchEmbed",), 12: ("PatchMerging",),
    13: ("PatchExpanding",), 14: ("SwinBlock",), 15: ("swin_stage",), 16: ("SwinUNet",), 17: ("train_step", "overfit"),
    18: (), 19: ("SelfAttention", "TransformerBlock"), 20: ("hidden_states", "tokens_to_map"), 21: ("Bottleneck",),
    22: ("elastic_displacement",), 23: ("dice", "dice_loss"), 24: ("split_by_group",), 25: ("EarlyStopping",),
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One exercise: its file, and what its first lines say."""

    number: int
    file: str  # step05_mask.py
    title: str
    page: str
    minutes: int
    text: str  # of the starter

    @classmethod
    def from_starter(cls, file: str, text: str) -> "Step":
        """Read what the docstring of a starter says."""
        number, title = re.search(r'^"""Step (\d+) of \d+: (.*)$', text, re.M).groups()  # type: ignore[union-attr]
        page, minutes = re.search(r"^Read: (\S+)\. Time: about (\d+) minutes", text, re.M).groups()  # type: ignore[union-attr]
        return cls(int(number), file, title, page, int(minutes), text)


def read_steps() -> list[Step]:
    """All steps, in their order."""
    starters = sorted((f for f in STARTERS.iterdir() if f.name.endswith(".py.txt")), key=lambda f: f.name)
    return [Step.from_starter(f.name.removesuffix(".txt"), f.read_text(encoding="utf-8")) for f in starters]


def main(folder: Path, *, time_limit: float = 60.0) -> int:
    """Write the starters that are missing, judge the others, and say what is next; returns the exit code."""
    steps = read_steps()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not any(folder.glob("step*.py")))):
        print(f"{folder}: holds something other than the course. Give a new folder.", file=sys.stderr)
        return 2
    missing = [step for step in steps if not (folder / step.file).exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for step in missing:
        with whole_file(folder / step.file) as file:
            file.write_text(step.text, encoding="utf-8")
    if len(missing) == len(steps):
        print(
            f"{folder}: {len(steps)} exercises, about {sum(s.minutes for s in steps) / 60:.0f} hours. Write what "
            f"{steps[0].file} asks for, then run this command again: it checks all steps and says which is next."
        )
        return 2
    for step in missing:
        print(f"{step.file} was missing and is written again.")
    verdicts = judge(folder, steps, time_limit)
    print(progress(folder, steps, verdicts))
    worst = {verdict for verdict, _ in verdicts.values()}
    return 0 if worst == {"passed"} else 1 if "failed" in worst else 2


Verdict = tuple[str, str]  # passed, failed, not yet written or not judged; and the answer


def judge(folder: Path, steps: list[Step], time_limit: float) -> dict[int, Verdict]:
    """The verdict of each step."""
    written = [step for step in steps if NAMES[step.number]]
    results = collect([folder / step.file for step in written], [], time_limit, Silent())
    verdicts = {step.number: verdict_of(step, result) for step, result in zip(written, results, strict=True)}
    verdicts[18] = verdict_of_training(folder)
    return {step.number: verdicts[step.number] for step in steps}


def verdict_of(step: Step, result: dict[str, Any]) -> Verdict:
    """One verdict for all names of a step: that of the first that did not pass."""
    if result["error"]:
        return "failed", f"{step.file} cannot be imported: {result['error']}"
    answers = {check["name"]: check for check in result["checks"]}
    for name in NAMES[step.number]:
        if name not in answers:
            return "failed", f"{step.file} no longer defines {name}: keep the name of the exercise."
        if answers[name]["verdict"] != "passed":
            message = answers[name]["message"]
            return answers[name]["verdict"], f"{name}:\n{message}" if message else ""
    return "passed", ""


def verdict_of_training(folder: Path) -> Verdict:
    """Whether the demo was trained with the student's network, in DIR/run, and how well it did."""
    log = folder / "run" / "log.jsonl"
    if not log.is_file():
        return "not yet written", ""
    first, *epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    if Path(str(first["recipe"].get("network"))).name != "step16_swin_unet.py":
        return "failed", "run was trained with another network: give --network step16_swin_unet.py."
    best = max((line["val"]["dice"] or 0.0 for line in epochs if "val" in line), default=0.0)
    if best < TRAINED:
        return "failed", f"the best validation Dice is {best:.2f}, expected at least {TRAINED}. Train to the end."
    return "passed", f"validation Dice {best:.2f}"


def progress(folder: Path, steps: list[Step], verdicts: dict[int, Verdict]) -> str:
    """A line per step; then of each ladder how many steps have passed, and the next one with its answer."""
    width = max(len(step.file) for step in steps)
    lines = [f"{step.file:{width}}  {verdicts[step.number][0]}" for step in steps]
    for ladder in LADDERS:
        rungs = [step for step in steps if step.number in ladder]
        still_open = [step for step in rungs if verdicts[step.number][0] != "passed"]
        so_far = f"{len(rungs) - len(still_open)} of {len(rungs)}"
        if not still_open:
            lines += ["", f"{so_far}: steps {ladder[0]} to {ladder[-1]} are done."]
            continue
        if ladder != LADDERS[0] and all(verdicts[step.number][0] == "not yet written" for step in rungs):
            lines += ["", f"{so_far}: steps {ladder[0]} to {ladder[-1]}, in any order; 19 needs 7, 8 and 10."]
            continue
        step, answer = still_open[0], verdicts[still_open[0].number][1]
        lines += ["", f"{so_far}; next: {folder / step.file}: {step.title}",
                  f"About {step.minutes} minutes; read {step.page}."]  # fmt: skip
        lines += [indent(answer)] if answer else []
        failed = [step for step in still_open if verdicts[step.number][0] == "failed"]
        if failed and failed[0] != step:
            lines += [f"And {failed[0].file} failed:", indent(verdicts[failed[0].number][1])]
        if failed and NAMES[failed[0].number]:
            path = shlex.quote(str(folder / failed[0].file))
            lines += [f"Only this step, and a picture: python -m lungseg.checks {path} --draw wrong.png"]
    return "\n".join(lines)
