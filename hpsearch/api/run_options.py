"""The options of a run, shared by the command line and the Python API."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.search.worker.launch import WorkerOptions


def _overrides(key: str) -> Any:
    """A field that overrides a key of the study file; None keeps the file's value."""
    return field(default=None, metadata={"key": key})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of ``hpsearch run``; :func:`hpsearch.run` documents each.

    Fields that override no key of the study file say where and how this process works; they are
    passed to the fields of ``WorkerOptions`` with the same names.
    """

    trials: int | None = _overrides("search.trials")
    study: str | None = _overrides("name")
    storage: str | None = None
    dataset: str | None = _overrides("data.dataset")
    data_dir: str | Path | None = None
    image_size: int | None = _overrides("data.image_size")
    epochs: int | None = _overrides("train.epochs")
    timeout: float | str | None = _overrides("search.timeout")
    seed: int | None = _overrides("search.seed")
    device: str = "auto"
    threads: int | None = None
    sampler: str | None = _overrides("search.sampler")
    pruner: str | None = _overrides("pruning.pruner")
    objectives: Sequence[str] | str | None = _overrides("search.objectives")
    workers: int | None = _overrides("search.workers")
    gpus_per_worker: float | None = None
    mixed_hardware: bool = False
    artifacts: str | None = None

    def overrides(self) -> dict[str, Any]:
        """Returns the values by study-file key, as ``load_study_file`` takes them.

        >>> found = RunOptions(seed=7, objectives="accuracy, params", device="cpu").overrides()
        >>> {key: value for key, value in found.items() if value is not None}
        {'search.seed': 7, 'search.objectives': ['accuracy', 'params']}
        """
        # The other fields describe this process, not the study.
        keys = {each.name: each.metadata["key"] for each in fields(self) if each.metadata}
        values = {key: getattr(self, name) for name, key in keys.items()}
        if (names := self.objectives) is not None:
            listed = names.split(",") if isinstance(names, str) else names
            values["search.objectives"] = [name.strip() for name in listed]
        return values

    def worker_options(self, *, code: Path | None = None) -> WorkerOptions:
        """Returns the options of a worker, with defaults from the environment.

        Args:
            code: the folder in which modules with user code are looked for first.
        """
        from hpsearch.search.storage.url import named_or_default
        from hpsearch.search.worker.launch import WorkerOptions

        names = {each.name for each in fields(self)} & {each.name for each in fields(WorkerOptions)}
        given = {name: getattr(self, name) for name in names}
        data_dir = self.data_dir or os.environ.get("HPSEARCH_DATA")
        artifacts = self.artifacts
        if artifacts is None:  # an empty text is an error, which the worker reports
            artifacts = os.environ.get("HPSEARCH_ARTIFACTS") or None
        resolved = {
            "storage": named_or_default(self.storage),
            "data_dir": Path(data_dir) if data_dir else None,
            "artifacts": artifacts,
        }
        return WorkerOptions(**{**given, **resolved}, code=code)
