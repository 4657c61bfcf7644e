"""A study as files that other tools read: its trials, its curves and its study file."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path
from typing import Any

from hpsearch.core.analysis.columns import Columns, curve_columns, trial_columns
from hpsearch.core.study_file import to_toml
from hpsearch.search.study.study import Study
from hpsearch.util.atomic import FolderKind, atomic_folder, check_target

EXPORT_FOLDER = FolderKind(
    name="folder of an earlier export",
    marks=frozenset(("study.toml", "trials.csv")),
    files=frozenset(("study.toml", "trials.csv", "trials.parquet", "curves.csv", "curves.parquet")),
)


def export(study: Study, folder: Path, *, force: bool) -> list[str]:
    """Writes the study into a new folder; returns the names of the files.

    Raises:
        HpsearchError: the folder may not be written there, or cannot.
    """
    check_target(folder, EXPORT_FOLDER, force=force)
    records = study.records()
    tables = {
        "trials": trial_columns(records, study.objectives),
        "curves": curve_columns(records),
    }
    with atomic_folder(folder, EXPORT_FOLDER, force=force) as draft:
        (draft / "study.toml").write_text(to_toml(study.spec), encoding="utf-8")
        for name, columns in tables.items():
            _write_csv(draft / f"{name}.csv", columns)
            _write_parquet(draft / f"{name}.parquet", columns)
        return sorted(path.name for path in draft.iterdir())


def _write_csv(path: Path, columns: Columns) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(v) for v in row] for row in zip(*columns.values(), strict=True))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else value


def _write_parquet(path: Path, columns: Columns) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
