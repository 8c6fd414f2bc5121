"""How a training script begins, goes on and ends; what lies between is in the script.

def train(run): ...                                    the story: network, data, optimizer, epochs, test
def main(argv=None): return run_script(train, RECIPES, argv, ...)
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from lungseg import __version__
from lungseg.checkpoint import save_checkpoint
from lungseg.data.classes import read_classes
from lungseg.evaluation.baselines import lesion_fractions
from lungseg.exits import run_main
from lungseg.files import whole_file
from lungseg.flags import parse_recipe
from lungseg.training.contents import differences, digest, look_at, read_contents, write_contents
from lungseg.training.data import Data, empty_channels, open_data
from lungseg.training.distributed import Processes, start_processes
from lungseg.training.early_stopping import EarlyStopping
from lungseg.training.log import RunLog, RunOptions, machine, rng_state, seed_everything, set_rng_state
from lungseg.training.longer import command_from_best, with_more_epochs
from lungseg.training.recipe import TrainingRecipe, about_precision, autocast_dtype
from lungseg.training.resume import (
    UNFIT,
    check_same_run,
    held,
    how_to_go_on,
    load_best,
    load_parts,
    open_run,
    read_start,
    this_script,
)
from lungseg.training.step import Evaluation, freeze, keep_freed_memory
from lungseg.training.summary import epoch_line, write_summary
from lungseg.typed import form
from lungseg.weights.checkpoint_layouts import encoder_names
from lungseg.weights.load import load_published


def run_script(
    train: Callable[["Run"], float],
    recipes: Mapping[str, TrainingRecipe],
    argv: Sequence[str] | None,
    *,
    script: str,
    out: str,
    description: str | None,
) -> float | int:
    """Read the flags, train, and turn what a user can mend into one sentence.

    Args:
        train: the story of the script; returns the mean test Dice.
        recipes, argv, description: as in `parse_recipe`.
        script: its file, for messages.
        out: default of --out.

    Returns:
        What `train` returned, or an exit code (`lungseg.exits`): 2 for what the user can mend, 130 for Ctrl-C.
    """
    recipe, options, given = parse_recipe(recipes, replace(RunOptions(), out=Path(out)), argv, description=description)
    recipe, given = replace(recipe, **from_the_root(asdict(recipe))), from_the_root(given)

    def work() -> float:
        with start_processes(options.device) as processes, held(options.out, processes):
            return train(Run(recipe, options, given, processes, recipes))

    return run_main(
        Path(script).name,
        work,
        stopped=lambda: how_to_go_on(options.out),
        too_little_memory="Make the network or --img-size smaller, halve --batch-size, or set --accumulate 2.",
    )


def from_the_root(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, with whole paths: a run may be resumed in another current folder."""
    return {k: str(Path(v).absolute()) if k in ("weights", "pretrained") and v else v for k, v in settings.items()}


class Run:
    """A training that a script is telling: its settings, its folder, and the checkpoint it goes on from.

    Call its methods in the order in which they stand here.

    Attributes:
        recipe, options: as asked for, or, of a resumed run, as it was started.
        saved: the checkpoint to go on from, or None for a new run.
        place: keywords of `train_one_epoch` and `evaluate` about where and in which number type to compute.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        options: RunOptions,
        given: dict[str, Any],
        processes: Processes,
        recipes: Mapping[str, TrainingRecipe] | None = None,
    ):
        if processes.device.type == "cpu":
            keep_freed_memory()
        self.processes, self.device, self.out = processes, processes.device, options.out
        self.saved = open_run(options, processes)
        self.started: dict[str, Any] = {}  # of a resumed run, all that must stay as it was
        self.head_is_fresh = True  # until weights are loaded into it
        self.recipes = recipes or {"default": type(recipe)()}
        self.recipe, self.options = self.as_it_was_started(recipe, options, given)
        if self.recipe.threads and self.device.type == "cpu":
            torch.set_num_threads(self.recipe.threads)
        self.place = {"autocast_dtype": autocast_dtype(self.recipe.amp, self.device), "processes": processes}
        if processes.is_main and (remark := about_precision(self.recipe.amp, self.device)):
            print(remark)

    def as_it_was_started(
        self, recipe: TrainingRecipe, options: RunOptions, given: dict[str, Any]
    ) -> tuple[TrainingRecipe, RunOptions]:
        """The settings of the run in --out, if we resume one; `given` must not contradict them."""
        if not options.resume:
            return recipe, options
        start = read_start(self.saved, self.out, type(recipe))
        then, settings = start.recipe, start.settings
        check_same_run(settings, {name: value for name, value in given.items() if name != "epochs"}, self.out)
        if start.data and not options.data and not start.data.exists():
            raise ValueError(f"The data of the run in {self.out} are no longer in {start.data}. Say with --data where.")
        options = replace(options, seed=settings["seed"], data=options.data or start.data)
        if given.get("epochs", 0) > then.epochs:
            then = self.longer(then, options, given["epochs"])
            settings = settings | {"epochs": then.epochs}
        check_same_run(settings, given, self.out)
        self.started = settings
        return then, options

    def longer(self, then: TrainingRecipe, options: RunOptions, epochs: int) -> TrainingRecipe:
        """The recipe with more epochs, where the run may go on; else a ValueError says how to train longer."""
        state = self.saved["stopping"] if self.saved else {"epochs": 0, "stop": False}
        done = state["epochs"] if state["stop"] else then.epochs  # of a run that is let end first
        new_run = command_from_best(
            this_script(), then, self.recipes, epochs - done, self.out, data=options.data, seed=options.seed
        )
        then = with_more_epochs(then, epochs, self.out, done=state["epochs"], stopped=state["stop"], new_run=new_run)
        if self.processes.is_main:
            print(f"The run goes on to epoch {epochs}, as if it had been started so (schedule {then.schedule}).")
        return then

    def build(
        self, network: type[nn.Module], arguments: dict[str, Any], *, weights: str | None = None, reminder: str = ""
    ) -> nn.Module:
        """Seed everything and make the network. Before any file: what it refuses shall leave no trace.

        Args:
            arguments: of the network; they go into each checkpoint, with the number of lesion classes of --data.
            weights: file to start from, unless we go on: best.pt of another run, or a published checkpoint
                (`lungseg.weights.load.load_published`).
            reminder: what to say if a new run starts without any.
        """
        if self.saved and self.saved["network"]["name"] != network.__name__:
            raise ValueError(f"The run in {self.out} is of another script or version. Resume it with that one.")
        classes = read_classes(self.options.data) if self.options.data else ()
        if len(classes) > 1:
            arguments = arguments | {"num_classes": len(classes)}
        seed_everything(self.options.seed, self.device)
        self.network = {"name": network.__name__, "arguments": arguments}
        model = network(**arguments)
        if weights and not self.saved:
            report = load_published(model, weights, arguments=arguments)
            self.head_is_fresh = "head.weight" in report.fresh
            if self.processes.is_main:
                print(report)
        elif self.recipe.freeze_encoder and not self.saved and self.processes.is_main:
            print("There are no --weights, so --freeze-encoder keeps the encoder at random numbers.")
        elif reminder and not self.saved and self.processes.is_main:
            print(reminder)
        return model

    def open_data(self) -> Data:
        """The slices (or volumes) to train and test on; of a resumed run they must be those it began with."""
        self.data = open_data(self.recipe, self.options, self.processes)
        self.settings = asdict(self.recipe) | {"seed": self.options.seed, "processes": self.processes.size}
        self.settings["slices"] = self.data.fingerprint
        check_same_run(self.started, self.settings, self.out)
        self._check_contents()
        self._check_lesions()
        return self.data

    def _check_contents(self) -> None:
        """A ValueError if the files differ from those that the run has learned from so far."""
        before, folder = read_contents(self.out), self.data.folder
        self.contents = look_at(folder, before) if self.processes.is_main else {}  # the others take its word for it
        self.settings["contents"] = self.processes.gather(digest(self.contents))[0]
        then = self.started.get("contents")  # older versions did not look
        if self.started and not self.saved and before:  # stopped in its first epoch
            then = digest(before)
        if then not in (None, self.settings["contents"]):
            what = differences(before, self.contents) if digest(before) == then else "some of its files"
            raise ValueError(
                f"{folder} is not as it was when the run in {self.out} began: {what}. "
                f"Restore it, or start a new run in another --out."
            )

    def _check_lesions(self) -> None:
        """A ValueError where a split has no lesion to learn or to be judged on; validation may lack a class."""
        classes, several = self.data.classes, len(self.data.classes) > 1
        train = self.data.plain_train_set if several else self.data.train_set  # windows miss a rare class by chance
        for split, samples in (("training", train), ("validation", self.data.val_set)):
            needed = split == "training" or self.recipe.monitor != "loss"
            missing = empty_channels(samples, len(classes)) if needed or several else []
            if needed and len(missing) == max(1, len(classes)):
                shrunk = min(self.data.input["scale"]) < 1
                hint = f", or raise --img-size: at {self.recipe.img_size} pixels small lesions vanish" if shrunk else ""
                raise ValueError(
                    f"No {split} image of {self.data.folder} holds a lesion. Put some into that split{hint}."
                )
            names = ", ".join(classes[k] for k in missing) if several else ""
            if names and split == "training":
                raise ValueError(
                    f"No training image of {self.data.folder} holds a lesion of {names}, so the network could not "
                    f"learn it. Put some into that split, or take the class out of classes.txt and the masks."
                )
            if names and self.processes.is_main:
                print(f"No validation image holds a lesion of {names}: no score, and no part in the mean over classes.")

    def prepare(self, model: nn.Module) -> None:
        """The prior of the network's last layer, called `head`, unless that was learned; then to the device."""
        if self.recipe.prior_bias and self.head_is_fresh and not self.saved:
            odds = [p / (1 - p) for p in lesion_fractions(self.data.train_set)]  # of each class
            model.head.bias.data.copy_(torch.tensor([math.log(o) for o in odds]))  # whose sigmoid is p
        model.to(self.device)
        if self.options.compile:
            model.compile()

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to train: with several processes, a network that averages their gradients."""
        done = self.saved["stopping"]["epochs"] if self.saved else 0
        return self.processes.wrap(model, may_freeze=done < self.recipe.freeze_encoder)

    def freeze_encoder(self, model: nn.Module, epoch: int) -> list[nn.Module]:
        """Let the encoder stand still in the first `freeze_encoder` epochs, and learn after them (`freeze`)."""
        if not self.recipe.freeze_encoder:
            return []
        return freeze(model, encoder_names(model), epoch < self.recipe.freeze_encoder)

    def scaler(self) -> GradScaler:
        """For float16, whose smallest gradients are 0; else it does nothing."""
        return GradScaler(self.device.type, enabled=self.place["autocast_dtype"] is torch.float16)

    def begin(self, *, stopping: EarlyStopping, **learned: Any) -> None:
        """Start the log, or undo everything since the checkpoint; each of `learned` has a state_dict or is None."""
        self.stopping, self.best_epochs = stopping, set()
        self.learned = {name: part for name, part in learned.items() if part is not None} | {"stopping": stopping}
        seed_everything(self.options.seed + self.processes.rank, self.device)  # each process drops out on its own
        if self.saved:
            self._go_on(self.saved, self.out / "last.pt")
        self.log = self.open_log()

    def _go_on(self, saved: dict[str, Any], path: Path) -> None:
        """Put everything where it was after the last epoch; a ValueError if the files do not fit together."""
        load_parts(self.learned, saved, path)
        try:
            set_rng_state(saved["rng"][self.processes.rank])
        except UNFIT:
            raise ValueError(f"{path} is damaged: rng, the state of the random generators, does not fit.") from None
        if self.stopping.best_epoch is not None or (self.out / "best.pt").exists():
            # A kill between the two leaves best.pt one epoch ahead of last.pt, which is then repeated.
            self.best_epochs |= {self.load_best({self.stopping.epochs + 1})["stopping"]["epochs"]}

    def open_log(self) -> RunLog:
        """The log, where the checkpoint left it; or a new one, with recipe.json beside it."""
        out, is_main = self.out, self.processes.is_main
        if self.saved and is_main:
            write_contents(out, self.contents)  # with the times of a folder that was copied
        if self.saved or not is_main:
            return RunLog(out / "log.jsonl", position=self.saved and self.saved["log_position"], enabled=is_main)
        out.mkdir(parents=True, exist_ok=True)
        (out / "best.pt").unlink(missing_ok=True)  # of a start that did not get as far as its first last.pt
        settings = {"recipe": asdict(self.recipe), "seed": self.options.seed}
        settings |= {"processes": self.processes.size, "data": self.data_path()}
        with whole_file(out / "recipe.json") as partial:  # all of it or nothing: --resume reads it
            partial.write_text(json.dumps(settings, indent=1, default=str) + "\n")
        write_contents(out, self.contents)
        log = RunLog(out / "log.jsonl")
        log.write(**settings, **machine(self.device))
        return log

    def data_path(self) -> str | None:
        """From the root: a run may be resumed in another current folder."""
        return self.options.data and str(self.options.data.absolute())

    def epochs(self) -> Iterator[int]:
        """The epochs still to do, counted from 0; each has its own order and its own variations of the slices."""
        for epoch in range(self.stopping.epochs, self.recipe.epochs):
            if self.stopping.stop:
                return
            self.started = time.perf_counter()
            self.data.train_set.set_epoch(epoch)
            self.data.train.batch_sampler.set_epoch(epoch)
            yield epoch

    def title(self, epoch: int) -> str:
        """What stands before the progress bar."""
        best = self.stopping.best
        best = "none yet" if best is None else f"{best:.3f}"
        return f"epoch {epoch + 1}/{self.recipe.epochs}, best {self.recipe.monitor} {best}"

    def end_epoch(self, epoch: int, train_loss: float, val: dict[str, float], *, lr: float, is_best: bool) -> None:
        """Log, print, save. A kill at any moment loses no finished epoch."""
        seconds = round(time.perf_counter() - self.started, 2)
        self.log.write(epoch=epoch + 1, train_loss=train_loss, val=val, lr=lr, is_best=is_best, seconds=seconds)
        state = self.snapshot()
        if self.processes.is_main:
            if is_best:  # before last.pt: a kill in between repeats this epoch and ends with the same best.pt
                save_checkpoint(self.out / "best.pt", state)
            save_checkpoint(self.out / "last.pt", state, keep_previous=True)
            print(epoch_line(epoch + 1, self.recipe.epochs, train_loss, val, is_best), flush=True)  # now it is true

    def snapshot(self) -> dict[str, Any]:
        """All that decides how the run goes on, as plain types and tensors."""
        return {name: part.state_dict() for name, part in self.learned.items()} | {
            "recipe": asdict(self.recipe),
            "network": self.network,
            "input": self.data.input,
            "data": self.data_path(),
            "run": self.settings,
            "log_position": self.log.position,
            "rng": self.processes.gather(rng_state()),
            "lungseg": __version__,
        }

    def best(self) -> dict[str, Any]:
        """The weights of the best epoch."""
        return self.load_best(self.best_epochs)["model"]

    def load_best(self, epochs: set[int]) -> dict[str, Any]:
        """best.pt, if it fits this run, and is of its best epoch so far or of one of `epochs`."""
        with self.processes.main_first():  # it has written the file that the others wait for
            if self.stopping.best_epoch is None and not (self.out / "best.pt").exists():
                raise ValueError(
                    f"No epoch of {self.out} had a validation score. Does any validation image hold a lesion?"
                )
            best = load_best(self.out, self.settings, self.network, epochs | ({self.stopping.best_epoch} - {None}))
        if different := form(best["model"], self.learned["model"].state_dict(), "model"):
            raise ValueError(f"{self.out / 'best.pt'} does not fit this run: {different}.")
        return best

    def end(self, test: Evaluation, model: nn.Module) -> float:
        """Write the pictures and the last line of the log, say how good it is; return the mean Dice."""
        if self.processes.is_main:
            split = self.data.test_set.records[0].split
            if split != "test":
                print("There is no test split: these are the images that chose the epoch, so their scores flatter.")
            plain = self.data.plain_train_set
            print(write_summary(self.log, test, model, plain, self.data.test_set, split=split))
        return test.scores["dice"]
