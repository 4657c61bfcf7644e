"""A database of two studies typed by hand: no training, no clock, and only Optuna to write it.

Nothing of hpsearch is imported, so a database that an earlier version left must stay readable.
Curves come from ``+ - * /`` alone, which give the same bits on every processor.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

EPOCHS = 3
TRIALS = 30
START = datetime(2030, 1, 1, 12)
DIRECTIONS = ["maximize", "minimize"]
BOUNDS = {"accuracy": [0.1, 1.0], "train_seconds": [0.5, 8.0]}
REFERENCE = {"device": "cpu", "processor": "cpu: Test 1", "threads": 1}
VERSIONS = {"python": "3.11.1", "hpsearch": "0.1.0", "torch": "2.9.1", "optuna": "5.0.0"}
DATA = {
    "content": "0123456789abcdef0123456789abcdef",
    "shape": [1, 8, 8],
    "classes": [str(digit) for digit in range(10)],
    "train": 1259,
    "val": 269,
    "test": 269,
    "split": "0123456789abcdef",
}
SPEC = {
    "data": {"dataset": "digits", "image_size": None, "test_fraction": 0.15, "val_fraction": 0.15},
    "model": {"factory": None, "max_width": 64, "widths": "geometric"},
    "pruning": {
        "control": 0.05,
        "margin": 0.3,
        "min_finished": 5,
        "percentile": 25.0,
        "pruner": "forecast",
        "reduction": 3,
        "risk": 0.05,
        "rungs": [],
    },
    "search": {
        "grid": [],
        "grid_points": 3,
        "max_failures": 5,
        "objectives": ["accuracy", "train_seconds"],
        "sampler": "tpe",
        "seed": 0,
        "timeout": None,
        "trials": TRIALS,
        "workers": 1,
    },
    "space": {
        "n_blocks": {"low": 1, "high": 4, "log": False},
        "base_width": {"low": 4, "high": 16, "log": True},
        "growth": 1.0,
        "kernel_size": 3,
        "batch_norm": {"choices": [True, False]},
        "head": "gap",
        "dropout": 0.0,
        "optimizer": {"choices": ["sgd", "adam"]},
        "momentum": {"low": 0.8, "high": 0.98, "log": False},
        "learning_rate": {"low": 0.0003, "high": 0.1, "log": True},
        "weight_decay": 0.0001,
        "batch_size": {"choices": [64, 128]},
        "schedule": "cosine",
    },
    "train": {
        "epochs": EPOCHS,
        "flip": False,
        "function": None,
        "label_smoothing": 0.05,
        "rotate": 0.0,
        "shift": 1,
    },
}
DISTRIBUTIONS = {
    "n_blocks": IntDistribution(1, 4),
    "base_width": IntDistribution(4, 16, log=True),
    "batch_norm": CategoricalDistribution([True, False]),
    "optimizer": CategoricalDistribution(["sgd", "adam"]),
    "momentum": FloatDistribution(0.8, 0.98),
    "learning_rate": FloatDistribution(0.0003, 0.1, log=True),
    "batch_size": CategoricalDistribution([64, 128]),
}

# number of blocks, base width, batch norm, optimizer, learning rate, batch size: the result is
# the accuracy and the training seconds of a whole training.
ROWS: list[tuple[int, int, bool, str, float, int, float, float]] = [
    (1, 4, True, "adam", 0.006, 64, 0.62, 1.0),
    (1, 8, True, "adam", 0.01, 64, 0.71, 1.25),
    (2, 4, True, "sgd", 0.02, 64, 0.78, 1.75),
    (2, 8, True, "adam", 0.004, 128, 0.84, 2.0),
    (2, 16, False, "sgd", 0.05, 128, 0.8, 3.0),
    (3, 8, True, "adam", 0.008, 64, 0.91, 3.5),
    (3, 16, True, "sgd", 0.03, 64, 0.93, 5.0),
    (4, 4, True, "adam", 0.002, 64, 0.86, 4.0),
    (4, 16, True, "adam", 0.003, 64, 0.945, 7.0),
    (1, 16, False, "sgd", 0.0005, 128, 0.41, 1.5),
    (2, 6, True, "adam", 0.012, 64, 0.82, 1.875),
    (3, 6, False, "adam", 0.007, 128, 0.87, 3.25),
    (3, 12, True, "sgd", 0.015, 64, 0.9, 4.5),
    (4, 8, True, "adam", 0.005, 128, 0.92, 5.5),  # a control trial that the rule would prune
    (4, 12, False, "sgd", 0.0004, 64, 0.3, 6.5),  # pruned
    (4, 16, False, "sgd", 0.0008, 128, 0.35, 7.5),  # pruned
    (2, 16, True, "sgd", 0.1, 64, 0.1, 3.0),  # diverged
    (3, 4, True, "adam", 0.006, 64, 0.0, 0.0),  # failed
    (1, 4, False, "sgd", 0.001, 64, 0.0, 0.0),  # out of memory
    (2, 12, True, "adam", 0.009, 64, 0.0, 0.0),  # waiting
    (2, 5, True, "adam", 0.011, 64, 0.79, 1.8125),
    (3, 10, True, "sgd", 0.025, 64, 0.9, 4.25),
    (1, 12, True, "adam", 0.02, 128, 0.69, 1.375),
    (4, 6, False, "sgd", 0.06, 128, 0.83, 4.75),
    (2, 9, False, "adam", 0.0035, 64, 0.81, 2.125),
    (3, 14, False, "adam", 0.0025, 128, 0.885, 4.875),
    (1, 6, True, "sgd", 0.08, 64, 0.64, 1.125),
    (4, 10, True, "sgd", 0.018, 64, 0.925, 6.0),
]
CONTROL, PRUNED, DIVERGED, FAILED, OUT_OF_MEMORY, WAITING = 13, (14, 15), 16, 17, 18, 19
# The front, and the mean accuracy that it came to with fresh seeds.
_SEEN = [0.6, 0.72, 0.77, 0.83, 0.9, 0.925, 0.935, 0.81, 0.88, 0.78, 0.63]
CONFIRMED = dict(zip((0, 1, 2, 3, 5, 6, 8, 10, 11, 20, 26), _SEEN, strict=True))


def write_database(path: Path) -> None:
    """Writes the studies ``plain`` (half as long) and ``fixed``, the newer one, to an SQLite file.

    Optuna takes the times as local: call it in UTC for the same file everywhere.
    ``fixed`` has complete, pruned, diverged, failed and waiting trials, and its front confirmed.
    """
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        plain = _new(storage, "plain", day=1, sampler="random")
        plain.add_trials([_trial(number, less=0.02) for number in range(10)])
        fixed = _new(storage, "fixed", day=2, sampler="tpe")
        fixed.add_trials([_trial(number, less=0.0) for number in range(len(ROWS))])
        for number, accuracy in CONFIRMED.items():
            for place in (0, 1):
                kept = _repeat(number, place, accuracy=accuracy + 0.01 * place)
                fixed.set_user_attr(f"hpsearch:confirmed:{number}:{place}", kept)
        changed = {"search.trials": [10, TRIALS], "pruning.pruner": ["none", "forecast"]}
        at = "2030-01-01T12:00:30+00:00"
        fixed.set_user_attr("hpsearch:changes", [{"at": at, "changed": changed}])
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _new(storage: Any, name: str, *, day: int, sampler: str) -> optuna.Study:
    study = optuna.create_study(storage=storage, study_name=name, directions=DIRECTIONS)
    search = {**SPEC["search"], "sampler": sampler}
    study.set_user_attr("hpsearch:spec", json.dumps({**SPEC, "name": name, "search": search}))
    study.set_user_attr("hpsearch:bounds", BOUNDS)
    study.set_user_attr("hpsearch:reference", REFERENCE)
    study.set_user_attr("hpsearch:data", DATA)
    study.set_user_attr("hpsearch:created", f"2030-01-0{day}T11:59:00+00:00")
    return study


def _trial(number: int, *, less: float) -> FrozenTrial:
    params = _params(number)
    *_, accuracy, seconds = ROWS[number]
    state = _state(number)
    ended = state not in (TrialState.WAITING, TrialState.RUNNING)
    start = START + timedelta(seconds=10 * number)
    is_waiting = state is TrialState.WAITING
    complete = state is TrialState.COMPLETE
    return optuna.trial.FrozenTrial(
        number=number,
        trial_id=-1,  # Optuna gives it one
        state=state,
        value=None,
        values=[accuracy - less, seconds] if complete else None,
        datetime_start=None if is_waiting else start,
        datetime_complete=start + timedelta(seconds=1 + seconds) if ended else None,
        params={} if is_waiting else params,
        distributions={} if is_waiting else {name: DISTRIBUTIONS[name] for name in params},
        user_attrs={"enqueued": params} if is_waiting else _attributes(number, less=less),
        system_attrs={"fixed_params": params} if is_waiting else {},
        intermediate_values={},
    )


def _state(number: int) -> TrialState:
    if number in (*PRUNED, DIVERGED):
        return TrialState.PRUNED
    if number in (FAILED, OUT_OF_MEMORY):
        return TrialState.FAIL
    return TrialState.WAITING if number == WAITING else TrialState.COMPLETE


def _params(number: int) -> dict[str, Any]:
    blocks, width, norm, optimizer, rate, batch, *_ = ROWS[number]
    momentum = {"momentum": 0.9} if optimizer == "sgd" else {}
    named = {"n_blocks": blocks, "base_width": width, "batch_norm": norm, "optimizer": optimizer}
    return {**named, **momentum, "learning_rate": rate, "batch_size": batch}


def _attributes(number: int, *, less: float) -> dict[str, Any]:
    origin = _origin(number)
    if number == OUT_OF_MEMORY:  # before anything was measured
        failure = {"kind": "out of memory", "traceback": "Traceback: typed"}
        return {"origin": origin, "reason": "out of memory: 2 GB", "failure": failure}
    blocks, width, *_, accuracy, seconds = ROWS[number]
    known: dict[str, Any] = {
        "origin": origin,
        "beat": 1893499200.0 + 10 * number,
        "cost": {
            "params": 100 * blocks * width + 90,
            "flops": 4000 * blocks * width,
            "latency_ms": 0.25 * blocks,
        },
        "spec": _trial_spec(number, origin["seed"]),
    }
    if number == FAILED:
        failure = {"kind": "bug", "traceback": "Traceback: typed"}
        return {**known, "reason": "bug: ValueError: it broke", "failure": failure}
    epochs = 2 if number in (*PRUNED, DIVERGED) else EPOCHS
    known["curve"] = _curve(epochs, accuracy=accuracy - less, seconds=seconds)
    verdict = {"pruner": "forecast", "epoch": 2, "value": 1.25, "limit": 0.75, "beaten_by": 5}
    if number in PRUNED:
        reason = "hopeless after epoch 2: typed"
        known |= {"pruning": verdict, "reason": reason}
    if number == DIVERGED:
        reason = "diverged: the loss of epoch 3 is NaN"
        known |= {"reason": reason, "failure": {"kind": "NaN"}}
    if number == CONTROL:
        known["would_prune"] = verdict
    if number == 2:  # its first worker was lost
        known["history"] = [
            {
                "start": 1,
                "host": "other",
                "pid": 7,
                "epochs": 1,
                "ended": "worker lost",
                "from": "2030-01-01T12:00:05+00:00",
                "until": "2030-01-01T12:00:15+00:00",
                "kept": 1,
            }
        ]
    return known


def _origin(number: int) -> dict[str, Any]:
    process = {
        "host": "here",
        "node": 1,
        "boot": "b",
        "namespace": "n",
        "pid": 1 + number % 2,
        "started": 5,
    }
    return {
        "process": process,
        **REFERENCE,
        "versions": VERSIONS,
        "index": None,
        "claim": f"{number:032x}",
        "seed": 1000 + number,
        "slot": None,
        "control": number == CONTROL,
        "starts": 2 if number == 2 else 1,
    }


def _trial_spec(number: int, seed: int) -> dict[str, Any]:
    blocks, width, norm, optimizer, rate, batch, *_ = ROWS[number]
    model = {"widths": [width] * blocks, "kernel_size": 3, "batch_norm": norm}
    train = {"epochs": EPOCHS, "batch_size": batch, "optimizer": optimizer, "learning_rate": rate}
    recipe = {
        "weight_decay": 0.0001,
        "momentum": 0.9 if optimizer == "sgd" else 0.0,
        "schedule": "cosine",
        "label_smoothing": 0.05,
        "shift": 1,
        "rotate": 0.0,
        "flip": False,
        "function": None,
        "params": {},
        "seed": seed,
    }
    return {"model": {**model, "dropout": 0.0, "head": "gap"}, "train": {**train, **recipe}}


def _curve(epochs: int, *, accuracy: float, seconds: float) -> dict[str, list[float]]:
    """As a trial's attribute holds it: a list per measurement."""
    numbers = range(1, epochs + 1)
    missing = [(EPOCHS - number) / 8 for number in numbers]
    return {
        "epoch": list(numbers),
        "train_loss": [2 * (1 - accuracy) + share for share in missing],
        "train_accuracy": [accuracy - share / 2 for share in missing],
        "val_loss": [2 * (1 - accuracy) + 0.125 + share for share in missing],
        "val_accuracy": [accuracy - share / 2 if share else accuracy for share in missing],
        "train_seconds": [seconds for _ in numbers],
        "wall_seconds": [seconds / EPOCHS + 0.25 for _ in numbers],
    }


def _repeat(number: int, place: int, *, accuracy: float) -> dict[str, Any]:
    *_, seconds = ROWS[number]
    measured = {"accuracy": accuracy, "val_loss": 1 - accuracy, "train_seconds": seconds * 1.0625}
    blocks, width, *_ = ROWS[number]
    cost = {
        "params": 100 * blocks * width + 90,
        "flops": 4000 * blocks * width,
        "latency_ms": 0.25 * blocks,
    }
    return {
        "trial": number,
        "place": place,
        "seed": 2000 + 10 * number + place,
        "values": {**cost, **measured},
        "reason": None,
        "elsewhere": False,
        "at": "2030-01-02T12:00:00+00:00",
        "origin": _origin(number),
    }
