"""Trials typed by hand, for the tests of analyses and views."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hpsearch.core.trial import Epoch, State, TrialRecord

START = datetime(2030, 1, 1)


def epoch(number: int, accuracy: float, *, loss: float, train_loss: float, seconds: float) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=train_loss,
        train_accuracy=accuracy,
        val_loss=loss,
        val_accuracy=accuracy,
        train_seconds=seconds,
        wall_seconds=1.0,
    )


def trial(
    number: int,
    accuracy: float,
    seconds: float,
    *,
    state: State = State.COMPLETE,
    objectives: tuple[str, ...] = ("accuracy", "train_seconds"),
    epochs: int = 4,
    blocks: int = 2,
    optimizer: str = "adam",
    loss: float | None = None,
    train_loss: float = 0.1,
    ended: float | None = None,
    worker: int = 1,
    control: bool = False,
    **attributes: Any,
) -> TrialRecord:
    """A trial that ended ``ended`` seconds after the study's start and took 2 s."""
    loss = 1 - accuracy if loss is None else loss
    last = {"loss": loss, "train_loss": train_loss, "seconds": seconds}
    curve = tuple(epoch(n, accuracy, **last) for n in range(1, epochs + 1))
    cost = {"params": 100.0 * seconds, "flops": 1e6, "latency_ms": 0.1, "train_seconds": seconds}
    known = {**cost, "accuracy": accuracy, "val_loss": loss}
    end = START + timedelta(seconds=number * 2 + 2 if ended is None else ended)
    process = {"host": "here", "pid": worker}
    return TrialRecord(
        number=number,
        state=state,
        params={"n_blocks": blocks, "optimizer": optimizer, "learning_rate": 0.01},
        values={n: known[n] for n in objectives} if state is State.COMPLETE else {},
        curve=curve if state in (State.COMPLETE, State.PRUNED) else (),
        cost=cost if epochs else {},
        control=control,
        reason="bug: it broke" if state is State.FAILED else None,
        started=end - timedelta(seconds=2),
        ended=None if state is State.RUNNING else end,
        attributes={"origin": {"process": process}, **attributes},
    )
