"""The whole search against a plain Optuna script: time until ours has the front that it ends with.

    python tests/benchmarks/bench_vs_plain.py [--cost flops] [--trials 40] [--seeds 3] …

Both search the embedded default's space, epochs and images with Optuna's TPE on two objectives,
each in a process of its own, one after the other, with the same thread count; who goes first
alternates with the seed. The plain script is the first part of this file, as people write it:
DataLoader, float32, no stopping. Both search accuracy against seconds, the plain script by the
wall clock of a trial, or with ``--cost flops`` against FLOPs. It is given the images ready in one
file, measures accuracy once, at a trial's end, and augments nothing unless ``--shift``
lets it crop as our recipe does; ``--passive`` gives it our OpenMP waiting, without which a busy
neighbour slows it far more than us.

Both fronts are scored on one axis: the hypervolume of accuracy (chance to 1) and the logarithm of
FLOPs × epochs (one image's forward pass times the epochs of a full training), between bounds that
depend on the space alone. Time runs from the start of the process, imports included.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
from arguments import parser_of
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from hpsearch.core.spec import StudySpec

# --- the plain script -------------------------------------------------------------------------


class Shifted(Dataset):
    """Images cropped at random out of their padded selves, one by one."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, pixels: int) -> None:
        from torchvision.transforms import RandomCrop

        self.images, self.labels = images, labels
        self.crop = RandomCrop(images.shape[-1], padding=pixels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.crop(self.images[index]), self.labels[index]


def plain_model(trial: optuna.Trial, side: int, classes: int) -> nn.Module:
    n_blocks = trial.suggest_int("n_blocks", 1, 5)
    base_width = trial.suggest_int("base_width", 4, 16, log=True)
    growth = trial.suggest_categorical("growth", [1.0, 1.5, 2.0])
    kernel_size = trial.suggest_categorical("kernel_size", [3, 5])
    batch_norm = trial.suggest_categorical("batch_norm", [True, False])
    layers, channels = [], 1
    for block in range(n_blocks):
        width = min(64, 4 * round(base_width * growth**block / 4))
        layers.append(nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        if side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        channels = width
    if trial.suggest_categorical("head", ["flatten", "gap"]) == "gap":
        layers.append(nn.AdaptiveAvgPool2d(1))
        side = 1
    dropout = nn.Dropout(trial.suggest_float("dropout", 0.0, 0.5))
    layers += [nn.Flatten(), dropout, nn.Linear(channels * side * side, classes)]
    return nn.Sequential(*layers)


def plain_optimizer(trial: optuna.Trial, model: nn.Module) -> torch.optim.Optimizer:
    name = trial.suggest_categorical("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
    options = {}
    if name == "sgd":
        options = {"momentum": trial.suggest_float("momentum", 0.8, 0.98), "nesterov": True}
    options["lr"] = trial.suggest_float("learning_rate", 3e-4, 0.1, log=True)
    options["weight_decay"] = trial.suggest_float("weight_decay", 1e-6, 0.03, log=True)
    kinds = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    return kinds[name](model.parameters(), **options)


def plain_schedule(
    trial: optuna.Trial, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    name = trial.suggest_categorical("schedule", ["constant", "cosine", "one-cycle"])
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if name == "one-cycle":
        rate = optimizer.param_groups[0]["lr"]
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps, cycle_momentum=False
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def plain_accuracy(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(1) == labels).sum().item()
            total += len(labels)
    return correct / total


def plain_flops(model: nn.Module, side: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 1, side, side))
    return counter.get_total_flops()


def plain_data(path: str, shift: int) -> tuple[Dataset, Dataset, int, int]:
    arrays = np.load(path)
    mean, std = arrays["x_train"].mean() / 255, arrays["x_train"].std() / 255

    def tensors(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(arrays[f"x_{part}"]).float().unsqueeze(1) / 255
        return (images - mean) / std, torch.from_numpy(arrays[f"y_{part}"])

    images, labels = tensors("train")
    train_set = Shifted(images, labels, shift) if shift else TensorDataset(images, labels)
    return train_set, TensorDataset(*tensors("val")), images.shape[-1], int(labels.max()) + 1


def plain_study(settings: dict) -> optuna.Study:
    torch.manual_seed(settings["seed"])
    train_set, val_set, side, classes = plain_data(settings["data"], settings["shift"])
    loss_of = nn.CrossEntropyLoss(label_smoothing=settings["label_smoothing"])

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        begin = time.time()
        model = plain_model(trial, side, classes)
        optimizer = plain_optimizer(trial, model)
        batch_size = trial.suggest_categorical("batch_size", [64, 128, 256])
        loader = DataLoader(train_set, batch_size=batch_size, shuffle=True)
        schedule = plain_schedule(trial, optimizer, settings["epochs"] * len(loader))
        for _ in range(settings["epochs"]):
            model.train()
            for images, labels in loader:
                optimizer.zero_grad()
                loss_of(model(images), labels).backward()
                optimizer.step()
                schedule.step()
        accuracy = plain_accuracy(model, DataLoader(val_set, batch_size=128))
        if settings["cost"] == "flops":
            return accuracy, plain_flops(model, side)
        return accuracy, time.time() - begin

    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.TPESampler(seed=settings["seed"]),
    )
    study.optimize(objective, n_trials=settings["trials"])
    return study


def plain_main(settings: dict) -> None:
    """Runs the plain script in this process and writes its trials to a file, as JSON."""
    torch.set_num_threads(settings["threads"])
    trials = [
        {
            "params": trial.params,
            "accuracy": trial.values[0],
            "ended": trial.datetime_complete.isoformat(),
            "space": {k: repr(v) for k, v in trial.distributions.items()},
        }
        for trial in plain_study(settings).trials
    ]
    with open(settings["out"], "w") as file:
        json.dump(trials, file)


# --- the benchmark: hpsearch is imported where it is used, never by the plain script's process --


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A trial trained in full: seconds from the start of the process to its end, and its worth."""

    seconds: float
    accuracy: float
    flops: float  # of one image's forward pass, times the epochs of a full training


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search: its trials trained in full, in the order of their ends, and all trials' ends."""

    finished: Sequence[Finished]
    ends: Sequence[float]
    load: float  # average of the minute before

    def hypervolumes(self, bounds: Mapping[str, tuple[float, float]]) -> list[float]:
        """The front's hypervolume after each finished trial."""
        from hpsearch.core.analysis.pareto import hypervolume
        from hpsearch.core.objectives import merit

        points = [merit({"accuracy": f.accuracy, "flops": f.flops}, bounds) for f in self.finished]
        return [hypervolume(points[: n + 1]) for n in range(len(points))]

    def reaches(self, target: float, bounds: Mapping[str, tuple[float, float]]) -> float:
        """Seconds until the front has that hypervolume; infinity if it never does."""
        pairs = zip(self.finished, self.hypervolumes(bounds), strict=True)
        return next((f.seconds for f, worth in pairs if worth >= target - 1e-12), float("inf"))


def run_plain(spec: StudySpec, chosen: argparse.Namespace, folder: Path) -> Run:
    """Runs the plain script in a process of its own."""
    settings = {
        "data": str(write_images(spec, folder)),
        "out": str(folder / "plain.json"),
        "seed": spec.search.seed,
        "epochs": spec.train.epochs,
        "label_smoothing": spec.train.label_smoothing,
        "trials": chosen.trials,
        "cost": chosen.cost,
        "threads": chosen.threads,
        "shift": spec.train.shift if chosen.shift else 0,
    }
    environment = {**os.environ, **({"OMP_WAIT_POLICY": "PASSIVE"} if chosen.passive else {})}
    command = [sys.executable, __file__, "--plain", json.dumps(settings)]
    load, began = os.getloadavg()[0], datetime.now()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the plain script ended with {done.returncode}:\n{done.stderr[-2000:]}")
    trials = json.loads(Path(settings["out"]).read_text())
    check_space(spec, trials)
    finished = [
        Finished(
            seconds=(datetime.fromisoformat(trial["ended"]) - began).total_seconds(),
            accuracy=trial["accuracy"],
            flops=flops_of(spec, trial["params"]) * spec.train.epochs,
        )
        for trial in trials
    ]
    return Run(finished=finished, ends=[f.seconds for f in finished], load=load)


def run_ours(spec: StudySpec, chosen: argparse.Namespace, folder: Path) -> Run:
    """Runs `hpsearch run` in a process of its own."""
    from bench_quickstart import search

    from hpsearch.core.trial import State

    options = {"trials": chosen.our_trials, "seed": spec.search.seed, "threads": chosen.threads}
    options |= {"epochs": spec.train.epochs, "device": "cpu"}
    options |= {"objectives": f"accuracy,{chosen.cost}"}
    load = os.getloadavg()[0]
    done = search([f"--{key}={value}" for key, value in options.items()], folder=folder)
    records = sorted(done.study.records(), key=lambda record: record.ended)
    seconds = {r.number: (r.ended - done.began).total_seconds() for r in records}
    finished = [
        Finished(
            seconds=seconds[r.number],
            accuracy=r.values["accuracy"],
            flops=r.cost["flops"] * spec.train.epochs,
        )
        for r in records
        if r.state is State.COMPLETE
    ]
    return Run(finished=finished, ends=list(seconds.values()), load=load)


def write_images(spec: StudySpec, folder: Path) -> Path:
    """Writes the study's training and validation images to a file for the plain script."""
    from hpsearch.nn.data.dataset import load

    data = load(spec.data, seed=spec.search.seed)
    arrays = {}
    for part in ("train", "val"):
        chosen = getattr(data.split, part)
        arrays |= {f"x_{part}": data.images[chosen, :, :, 0], f"y_{part}": data.labels[chosen]}
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


def check_space(spec: StudySpec, trials: Sequence[Mapping[str, Any]]) -> None:
    """Ends the benchmark if the plain script has searched another space than ours."""
    from hpsearch.core.space import dims
    from hpsearch.search.samplers import distribution

    ours = {name: repr(distribution(dim)) for name, dim in dims(spec.space).items()}
    for name, theirs in {k: v for trial in trials for k, v in trial["space"].items()}.items():
        if ours.get(name) != theirs:
            sys.exit(f"{name}: the plain script searches {theirs}, ours {ours.get(name)}")


def flops_of(spec: StudySpec, params: Mapping[str, Any]) -> int:
    """Returns the operations of one image's forward pass through a net of the plain script."""
    from hpsearch.core.spec import resolve
    from hpsearch.nn.models import count_costs

    model = resolve(spec, number=0, params=params).model
    return int(count_costs(model, INPUT_SHAPE, CLASSES)["flops"])


def score_bounds(spec: StudySpec) -> dict[str, tuple[float, float]]:
    """Returns the ends of both scales: of accuracy, and of FLOPs × epochs over the space."""
    from hpsearch.nn.data.dataset import load
    from hpsearch.nn.data.tensors import tensors_of
    from hpsearch.search.worker.bounds import objective_bounds

    images = tensors_of(load(spec.data, seed=spec.search.seed), device="cpu")
    assert (images.input_shape, images.classes) == (INPUT_SHAPE, CLASSES)
    search = dataclasses.replace(spec.search, objectives=("accuracy", "flops"))
    bounds = objective_bounds(dataclasses.replace(spec, search=search), images, torch.device("cpu"))
    low, high = bounds["flops"]
    return {**bounds, "flops": (low * spec.train.epochs, high * spec.train.epochs)}


INPUT_SHAPE, CLASSES = (1, 28, 28), 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """One seed: what the plain script ended with and when, and when ours had as much."""

    seed: int
    target: float  # the hypervolume that the plain script ends with
    plain_seconds: float  # until its last trial's end
    plain_reach: float  # until its front had that hypervolume
    our_reach: float
    our_trials: int  # that had ended by then, stopped ones included
    our_seconds: float
    our_end: float  # the hypervolume of ours at its end
    our_meanwhile: float  # the hypervolume of ours when the plain script ended
    plain_accuracy: float
    our_accuracy: float
    plain_load: float
    our_load: float


def race(spec: StudySpec, chosen: argparse.Namespace) -> Race:
    """Runs both, ours first on odd seeds, and scores them."""
    runners = {"plain": run_plain, "ours": run_ours}
    runs = {}
    for name in sorted(runners, reverse=spec.search.seed % 2 == 0):
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = runners[name](spec, chosen, Path(folder))
        print(f"seed {spec.search.seed}, {name}: {runs[name].ends[-1]:.1f} s", file=sys.stderr)
    plain, ours, bounds = runs["plain"], runs["ours"], score_bounds(spec)
    target, worths = plain.hypervolumes(bounds)[-1], ours.hypervolumes(bounds)
    reach, deadline = ours.reaches(target, bounds), plain.ends[-1]
    in_time = [w for f, w in zip(ours.finished, worths, strict=True) if f.seconds <= deadline]
    return Race(
        seed=spec.search.seed,
        target=target,
        plain_seconds=deadline,
        plain_reach=plain.reaches(target, bounds),
        our_reach=reach,
        our_trials=sum(end <= reach for end in ours.ends),
        our_seconds=ours.ends[-1],
        our_end=worths[-1] if worths else 0.0,
        our_meanwhile=in_time[-1] if in_time else 0.0,
        plain_accuracy=max(f.accuracy for f in plain.finished),
        our_accuracy=max((f.accuracy for f in ours.finished), default=0.0),
        plain_load=plain.load,
        our_load=ours.load,
    )


LINES: tuple[tuple[str, Callable[[Race], float], str], ...] = (
    ("plain: hypervolume at its end", lambda r: r.target, "{:.4f}"),
    ("plain: seconds to its end", lambda r: r.plain_seconds, "{:.1f}"),
    ("plain: seconds until it had that", lambda r: r.plain_reach, "{:.1f}"),
    ("ours: seconds until it had that", lambda r: r.our_reach, "{:.1f}"),
    ("ours: trials until it had that", lambda r: r.our_trials, "{:.0f}"),
    ("times faster than plain's end", lambda r: r.plain_seconds / r.our_reach, "{:.2f}"),
    ("times faster than plain had it", lambda r: r.plain_reach / r.our_reach, "{:.2f}"),
    ("ours: hypervolume at plain's end", lambda r: r.our_meanwhile, "{:.4f}"),
    ("ours: hypervolume at its end", lambda r: r.our_end, "{:.4f}"),
    ("ours: seconds to its end", lambda r: r.our_seconds, "{:.1f}"),
    ("plain: best accuracy, %", lambda r: 100 * r.plain_accuracy, "{:.2f}"),
    ("ours: best accuracy, %", lambda r: 100 * r.our_accuracy, "{:.2f}"),
    ("load average before plain", lambda r: r.plain_load, "{:.2f}"),
    ("load average before ours", lambda r: r.our_load, "{:.2f}"),
)


def rows(races: Sequence[Race]) -> list[list[str]]:
    """Returns the table: each line's value for each seed, their median and their range.

    Where ours never has as much, its seconds are infinite and it is 0 times faster.
    """
    lines = []
    for label, value, form in LINES:
        values = [value(race) for race in races]
        ends = f"{form.format(min(values))} to {form.format(max(values))}"
        middle = form.format(statistics.median(values))
        lines.append([label, *map(form.format, values), middle, ends])
    return lines


def options() -> argparse.Namespace:
    from hpsearch.nn.runtime.cpu import usable_cpus

    parser = parser_of(__doc__, seeds=3)
    parser.add_argument("--trials", type=int, default=40, help="of the plain script")
    parser.add_argument("--our-trials", type=int, default=100, help="the budget of hpsearch")
    parser.add_argument("--cost", choices=("train_seconds", "flops"), default="train_seconds")
    parser.add_argument("--epochs", type=int, help="instead of the embedded default's")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of either")
    parser.add_argument("--passive", action="store_true", help="plain too waits passively (OpenMP)")
    parser.add_argument("--shift", action="store_true", help="plain too shifts its images")
    return parser.parse_args()


def main() -> None:
    """Races both over the seeds and prints the table."""
    from environment import describe_environment, print_table

    from hpsearch.config import build_spec

    chosen = options()
    print(describe_environment())
    changes = {"train.epochs": chosen.epochs}
    specs = [build_spec(None, {**changes, "search.seed": seed}) for seed in range(chosen.seeds)]
    races = [race(spec, chosen) for spec in specs]
    print(
        f"\naccuracy against {chosen.cost}: plain Optuna script, {chosen.trials} trials,"
        f" {'' if chosen.shift else 'not '}shifting images,"
        f" {'passive' if chosen.passive else 'default'} OpenMP waiting; hpsearch run, at"
        f" most {chosen.our_trials} trials;\n{specs[0].train.epochs} epochs, {chosen.threads}"
        f" threads; n = {len(races)} seeds; seconds include the start of the process\n"
    )
    header = ["", *(f"seed {race.seed}" for race in races), "median", "range"]
    print_table(header, rows(races))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain_main(json.loads(sys.argv[2]))
    else:
        main()
