"""What hpsearch keeps of studies and trials, in short: as a table of attributes has room for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpsearch.errors import StudyError
from hpsearch.search.storage.records import (
    CREATED,
    DATA,
    REFERENCE,
    SPEC,
    STOP,
    curve_of,
    read_spec,
)


def of_trial(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a trial's attributes as a page shows them: a line each, numbers where they are.

    >>> sorted(of_trial({"cost": {"params": 7890}, "beat": 1.0, "history": [{}], "mine": "x"}))
    ['mine', 'params', 'starts']
    """
    own = {key: value for key, value in kept.items() if key not in _KEPT and _is_short(value)}
    told: dict[str, Any] = dict(kept.get("cost") or {})
    if curve := curve_of(kept.get("curve")):
        last = curve[-1]
        told |= {"epochs": last.epoch, "val_accuracy": last.val_accuracy}
        told |= {"val_loss": last.val_loss, "train_loss": last.train_loss}
        told["train_seconds (estimated)"] = last.train_seconds
    origin = kept.get("origin") or {}
    told |= {name: origin[name] for name in ("seed", "device", "processor") if name in origin}
    if host := origin.get("process", {}).get("host"):
        told["host"] = host
    if kept.get("history"):
        told["starts"] = len(kept["history"]) + 1
    return {**told, **own}


_KEPT = frozenset(("cost", "curve", "origin", "history", "spec", "beat", "pruning", "would_prune"))


def of_study(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a study's attributes as a page shows them.

    Those of another program, or of a newer version, as they are.
    """
    if SPEC not in kept:
        return dict(kept)
    try:
        spec = read_spec("", kept[SPEC])
    except StudyError:
        return dict(kept)
    told: dict[str, Any] = {
        "images": f"{spec.data.dataset}{_split(kept.get(DATA) or {})}",
        "trials": spec.search.trials,
        "epochs": spec.train.epochs,
        "sampler": spec.search.sampler,
        "pruner": spec.pruning.pruner,
        "made": str(kept.get(CREATED, ""))[:19].replace("T", " "),
    }
    if processor := (kept.get(REFERENCE) or {}).get("processor"):
        told["seconds are measured on"] = processor
    if kept.get(STOP):
        told["stopped"] = "by `hpsearch stop`"
    ours = {key: value for key, value in kept.items() if not key.startswith("hpsearch:")}
    return {**told, **ours}


def _split(data: Mapping[str, Any]) -> str:
    parts = [f"{data[part]:,} {word}" for part, word in _PARTS.items() if part in data]
    return f": {', '.join(parts)}" if parts else ""


_PARTS = {"train": "to train", "val": "to validate", "test": "to test"}


def _is_short(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or len(str(value)) <= 200
