"""Exports a study as files for other tools: a table of trials, one of epochs, its study file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpsearch.core.analysis.pareto import front
from hpsearch.core.space import ordered
from hpsearch.core.spec_text import to_toml
from hpsearch.core.trial import Epoch, TrialRecord
from hpsearch.search.study.study import Study
from hpsearch.util.atomic import FolderKind, atomic_folder, check_target

Columns = dict[str, list[Any]]

EXPORT_FOLDER = FolderKind(
    name="folder of an earlier export",
    marks=frozenset(("study.toml", "trials.csv")),
    files=frozenset(("study.toml", "trials.csv", "trials.parquet", "curves.csv", "curves.parquet")),
)


def export(study: Study, folder: Path, *, force: bool) -> list[str]:
    """Writes the study into a new folder, each table as CSV and as Parquet.

    Returns the names of the files. ``force`` replaces the folder of an earlier export.

    Raises:
        HpsearchError: the folder exists or cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    check_target(folder, EXPORT_FOLDER, force=force)
    records = study.records()
    tables = {
        "trials": trial_columns(records, study.objectives),
        "curves": curve_columns(records),
    }
    with atomic_folder(folder, EXPORT_FOLDER, force=force) as draft:
        (draft / "study.toml").write_text(to_toml(study.spec), encoding="utf-8")
        for name, columns in tables.items():
            rows = zip(*columns.values(), strict=True)
            with (draft / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows([_cell(value) for value in row] for row in rows)
            parquet.write_table(pyarrow.table(columns), draft / f"{name}.parquet")
        return sorted(path.name for path in draft.iterdir())


def trial_columns(records: Sequence[TrialRecord], objectives: Sequence[str]) -> Columns:
    """Returns one row per trial, by column; values that a trial lacks are None.

    Objectives and hyperparameters have Optuna's names: ``values_accuracy``,
    ``params_learning_rate``. Costs are ``cost_params`` and so on; ``widths`` are the channels of
    the blocks, as ``8-16``. Times are in UTC.

    >>> trial_columns([], ["accuracy"])["values_accuracy"]
    []
    """
    found = front(records, objectives)
    params = ordered(_keys(r.params for r in records))
    models = [r.attributes.get("spec", {}).get("model", {}) for r in records]
    origins = [r.attributes.get("origin", {}) for r in records]
    return {
        "number": [r.number for r in records],
        "state": [r.state.value for r in records],
        "front": [r.number in found.numbers for r in records],
        "knee": [r.number == found.knee for r in records],
        **_prefixed("values", [r.values for r in records], objectives),
        **_prefixed("cost", [r.cost for r in records], _keys(r.cost for r in records)),
        **_prefixed("params", [r.params for r in records], params),
        "widths": ["-".join(map(str, m["widths"])) if "widths" in m else None for m in models],
        "epochs": [len(r.curve) for r in records],
        "control": [r.control for r in records],
        "seed": [r.seed for r in records],
        "started": [_in_utc(r.started) for r in records],
        "ended": [_in_utc(r.ended) for r in records],
        "reason": [r.reason for r in records],
        "device": [origin.get("device") for origin in origins],
        "processor": [origin.get("processor") for origin in origins],
        "threads": [origin.get("threads") for origin in origins],
    }


def curve_columns(records: Sequence[TrialRecord]) -> Columns:
    """Returns one row per epoch of every trial, by column, with the trial's number and state."""
    rows = [(record, epoch) for record in records for epoch in record.curve]
    measured = [field.name for field in fields(Epoch)]
    return {
        "number": [record.number for record, _ in rows],
        "state": [record.state.value for record, _ in rows],
        **{name: [getattr(epoch, name) for _, epoch in rows] for name in measured},
    }


def _prefixed(prefix: str, rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> Columns:
    return {f"{prefix}_{name}": [row.get(name) for row in rows] for name in names}


def _keys(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _in_utc(local: datetime | None) -> datetime | None:
    """A record's time has no zone: it is local, which a reader on another machine cannot know."""
    return None if local is None else local.astimezone(UTC)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else value
