"""Searching from Python: the commands' words as functions, which print nothing and end nothing."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hpsearch.core.analysis.pareto import front
from hpsearch.core.analysis.pruning_stats import StudySummary
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import TrialRecord
from hpsearch.errors import HpsearchError, StorageError, lost_database
from hpsearch.util.messages import messages_to

if TYPE_CHECKING:
    from hpsearch.search.storage.storage import Storage
    from hpsearch.search.study.status import StudyStatus
    from hpsearch.search.study.study import Study
    from hpsearch.search.worker.launch import WorkerOptions
    from hpsearch.search.worker.observer import Observer
    from hpsearch.search.worker.work_loop import StopSignal

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHandle:
    """An open study, to be looked at. Made by :func:`open_study` and :func:`run`.

    What it returns is the study as it stands when it is asked, while others may be working on it.
    ``ending`` says how the run went that returned it (``done``, ``timed out`` or ``stopped``); it
    is None where the study was only opened. Used as a context, it is closed at the end.
    """

    study: Study = field(repr=False)
    name: str
    ending: str | None = None
    storage_options: Sequence[str] = field(
        default=(), repr=False
    )  # the options that name its database

    @property
    def spec(self) -> StudySpec:
        """What the study is."""
        return self.study.spec

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of what is optimised."""
        return self.study.objectives

    def trials(self) -> list[TrialRecord]:
        """Returns all trials by number, whatever their state."""
        with translate_errors():
            return self.study.records()

    def front(self) -> list[TrialRecord]:
        """Returns the non-dominated complete trials, cheapest first; empty without any."""
        return list(front(self.trials(), self.objectives).trials)

    def knee(self) -> TrialRecord | None:
        """Returns the front's best bargain; None while no trial is complete."""
        return front(self.trials(), self.objectives).knee_trial

    def summary(self) -> StudySummary:
        """Returns the study in a line: its counts, the front's size and hypervolume."""
        with translate_errors():
            return self.study.summary()

    def report(self, path: str | Path | None = None, *, kind: str | None = None) -> Path:
        """Writes the report, whole or not at all; returns where.

        Args:
            path: the file; None: ``report-STUDY`` in the current folder.
            kind: ``html`` (one page that opens offline), ``md``, or ``json`` (all the numbers);
                None: as the file's name ends, else ``html``.

        Raises:
            HpsearchError: there is no such kind, or it cannot be written there.
        """
        from hpsearch.search.jobs.analyse import analyse_study
        from hpsearch.view.report.report import check_format, default_path, format_of, render, write

        if kind is None:
            kind = format_of(None if path is None else Path(path))
        check_format(kind)
        with translate_errors():
            text = render(analyse_study(self.study), kind, storage_options=self.storage_options)
        target = default_path(self.name).with_suffix(f".{kind}") if path is None else Path(path)
        write(text, target)
        return target

    def close(self) -> None:
        """Closes the connection to the database; what was returned stays."""
        self.study.storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_study(
    name: str | None = None,
    *,
    storage: str | None = None,
    notify: Notify | None = None,
) -> StudyHandle:
    """Opens a study to look at it.

    Args:
        name: the study's name; None: the only one, or the newest.
        storage: an SQLite file or a URL; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        notify: called with each message for the user; None: they are only logged.

    Raises:
        StudyError: there is none of that name, or none at all.
        StorageError: the database is not there or cannot be read.
    """
    from hpsearch.search.storage.url import typed_again
    from hpsearch.search.study import catalog

    with translate_errors(), messages_to(notify):
        opened = open_database(storage)
        try:
            study = catalog.open_study(opened, name)
        except BaseException:
            opened.close()
            raise
    storage_options = typed_again(storage, masked=opened.masked)
    return StudyHandle(study=study, name=study.name, storage_options=storage_options)


def run(
    spec_or_path: StudySpec | str | Path | None = None,
    *,
    trials: int | None = None,
    study: str | None = None,
    storage: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    timeout: float | str | None = None,
    seed: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    objectives: Sequence[str] | str | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    mixed_hardware: bool = False,
    artifacts: str | None = None,
    notify: Notify | None = None,
    ended: Callable[[TrialRecord], None] = lambda record: None,
) -> StudyHandle:
    """Searches until the study holds its total of trials; the same call resumes.

    The words are those of ``hpsearch run``; None leaves a value as the study file has it. Prints
    nothing. torch is set to so many threads in this process. With one worker the trials run in this
    process, with several in processes of their own.

    The first Ctrl-C, or SIGTERM, lets the epoch at hand end, hands the trial back and then raises
    KeyboardInterrupt; a second one raises it at once. (Python hears them in its main thread alone.)

    Args:
        spec_or_path: a spec, or the path of a study file; None: the built-in default.
        trials: the study's total of complete and pruned trials.
        study: the study's name.
        storage: an SQLite file or a URL; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        dataset: a known name, a folder of class folders, or an ``.npz`` file.
        data_dir: where named data sets lie; None: ``HPSEARCH_DATA``, or else ``data``.
        image_size: side of a folder's images in pixels.
        epochs: of a full training.
        timeout: end after so many seconds, or after a duration such as ``"1h30m"``.
        seed: fixes what is drawn and trained.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: of the processor, for a trial.
        sampler: tpe, nsga2, gp, random, qmc, grid or grid+random.
        pruner: forecast, margin, median, percentile, asha or none.
        objectives: names, or a text of names with commas.
        workers: processes that share the trials.
        gpus_per_worker: the share of a GPU that a worker needs.
        mixed_hardware: let other hardware than the study's take part.
        artifacts: where checkpoints lie; None: ``HPSEARCH_ARTIFACTS``, or else beside the database.
        notify: called with each message for the user; None: they are only logged.
        ended: takes each trial as it is complete, pruned, failed or handed back.

    Raises:
        HpsearchError: something is not as it must be, and nothing was written; or too many trials
            failed in a row.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    from hpsearch.config import overrides_of
    from hpsearch.search.storage.url import named_or_default
    from hpsearch.search.study.status import StudyStatus
    from hpsearch.search.worker.launch import WorkerOptions
    from hpsearch.search.worker.observer import EndedTrials
    from hpsearch.search.worker.work_loop import StopSignal, close

    words = {
        "study": study,
        "dataset": dataset,
        "image_size": image_size,
        "epochs": epochs,
        "trials": trials,
        "timeout": timeout,
        "seed": seed,
        "sampler": sampler,
        "objectives": objectives,
        "workers": workers,
        "pruner": pruner,
    }
    spec, code = _read(spec_or_path, overrides_of(words))
    worker_options = WorkerOptions(
        storage=named_or_default(storage),
        data_dir=data_folder(data_dir),
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
        artifacts=artifacts or os.environ.get("HPSEARCH_ARTIFACTS") or None,
        code=code,
        gpus_per_worker=gpus_per_worker,
    )
    with translate_errors(), messages_to(notify):
        done, ending = _search(spec, worker_options, StopSignal(exits=False), EndedTrials(ended))
        close(done, ending)
    if ending is StudyStatus.INTERRUPTED:
        raise KeyboardInterrupt
    return replace(open_study(spec.name, storage=storage), ending=ending.label)


def open_database(storage: str | None) -> Storage:
    """Opens the database that was named, or the default one, to look at its studies.

    Raises:
        StorageError: it is not there or cannot be read.
    """
    from hpsearch.search.storage.storage import open_storage
    from hpsearch.search.storage.url import named_or_default

    return open_storage(
        named_or_default(storage),
        create=False,
        artifacts=os.environ.get("HPSEARCH_ARTIFACTS") or None,
    )


def data_folder(data_dir: str | Path | None) -> Path | None:
    """Returns where named data sets lie: there, or else where ``HPSEARCH_DATA`` says."""
    named = data_dir or os.environ.get("HPSEARCH_DATA")
    return Path(named) if named else None


def _read(
    spec_or_path: StudySpec | str | Path | None, overrides: Mapping[str, Any]
) -> tuple[StudySpec, Path | None]:
    """The spec, and the folder of its file, if it has one."""
    from hpsearch.config import overridden, read_spec

    if isinstance(spec_or_path, StudySpec):
        return overridden(spec_or_path, overrides), None
    path = None if spec_or_path is None else Path(spec_or_path)
    return read_spec(path, overrides), path and path.parent


def _search(
    spec: StudySpec, worker_options: WorkerOptions, stop: StopSignal, watcher: Observer
) -> tuple[Study, StudyStatus]:
    from hpsearch.search.worker import launch

    hears = threading.current_thread() is threading.main_thread()
    with stop.listening() if hears else contextlib.nullcontext():
        prepared = launch.prepare(spec, worker_options, stop=stop)
        stop.start_clock(prepared.study.spec.search.timeout)
        return prepared.study, launch.run(prepared, worker_options, stop=stop, watcher=watcher)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Tells what the database's libraries raise as an error of ours."""
    try:
        yield
    except HpsearchError:
        raise
    except Exception as exc:
        if (lost := lost_database(exc)) is None:
            raise
        raise StorageError(f"{lost} and try again") from exc
