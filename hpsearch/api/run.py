"""Run searches: in this process, in worker processes, or queued for workers elsewhere."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.api.studies import Notify, StudyHandle, handle_of, open_study
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import TrialRecord
from hpsearch.errors import translate_errors
from hpsearch.nn.runtime.cpu import HardwareOptions
from hpsearch.util.messages import messages_to

if TYPE_CHECKING:
    from hpsearch.core.spec import DatasetSummary
    from hpsearch.search.jobs.doctor import Finding
    from hpsearch.search.study.study import Study
    from hpsearch.search.worker.launch import WorkerOptions
    from hpsearch.search.worker.work_loop import Observer


def _overrides(key: str) -> Any:
    """A field that overrides a key of the study file; None keeps the file's value."""
    return field(default=None, metadata={"key": key})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(HardwareOptions):
    """The options of ``hpsearch run``; :func:`hpsearch.run` documents each.

    Fields that override no key of the study file say where and how this process works. A new one
    that concerns the hardware belongs in ``HardwareOptions``, which ``WorkerOptions`` has, too.
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
    sampler: str | None = _overrides("search.sampler")
    pruner: str | None = _overrides("pruning.pruner")
    objectives: Sequence[str] | str | None = _overrides("search.objectives")
    workers: int | None = _overrides("search.workers")
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

    def worker_options(
        self, *, code: Path | None = None, allow_code: bool = False
    ) -> WorkerOptions:
        """Returns the options of a worker, with defaults from the environment.

        Args:
            code: the folder in which modules with user code are looked for first.
            allow_code: run the user code that a study in the database names.
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
            "data_dir": Path(os.path.expanduser(data_dir)) if data_dir else None,
            "artifacts": artifacts,
        }
        return WorkerOptions(**{**given, **resolved}, code=code, allow_code=allow_code)


_log = logging.getLogger(__name__)

INTERRUPTED = "interrupted"  # the ending of a run that Ctrl-C or SIGTERM has ended

SpecSource = StudySpec | str | Path | None
# Shows a study while trials run; the function passed to it says whether Ctrl-C was pressed.
Watching = Callable[[StudyHandle, Callable[[], bool]], AbstractContextManager["Observer"]]


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

    The keywords are the options of ``hpsearch run``; None keeps the value of the study file.
    Nothing is printed. With one worker, trials run in this process, whose torch is limited to
    ``threads`` threads; with several, each worker is a process.

    The first Ctrl-C or SIGTERM lets the current epoch end, hands the trial back and then raises
    KeyboardInterrupt; a second one raises it at once. (Python handles signals in its main thread
    only.)

    Args:
        spec_or_path: a spec, or the path of a study file; None: the built-in default.
        trials: the study's total of complete and pruned trials.
        study: the study's name.
        storage: an SQLite file or a URL; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        dataset: a known name, a folder of class folders, or an ``.npz`` file.
        data_dir: the folder of named data sets; None: ``HPSEARCH_DATA``, or else ``data``.
        image_size: side of a folder's images in pixels.
        epochs: length of a full training.
        timeout: end after this many seconds, or after a duration such as ``"1h30m"``.
        seed: fixes sampling and training.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: CPU threads of a trial.
        sampler: tpe, nsga2, gp, random, qmc, grid or grid+random.
        pruner: forecast, margin, median, percentile, asha or none.
        objectives: names, or a text of names with commas.
        workers: processes that share the trials.
        gpus_per_worker: the share of a GPU that a worker needs.
        mixed_hardware: accept hardware other than the study's.
        artifacts: folder of checkpoints; None: ``HPSEARCH_ARTIFACTS``, or else beside the database.
        notify: called with each message for the user; None: they are only logged.
        ended: called with each trial that is complete, pruned, failed or handed back.

    Raises:
        HpsearchError: an option, the data, the device or the database is invalid, and nothing was
            written; or too many trials failed in a row.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    options = RunOptions(
        trials=trials,
        study=study,
        storage=storage,
        dataset=dataset,
        data_dir=data_dir,
        image_size=image_size,
        epochs=epochs,
        timeout=timeout,
        seed=seed,
        device=device,
        threads=threads,
        sampler=sampler,
        pruner=pruner,
        objectives=objectives,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        mixed_hardware=mixed_hardware,
        artifacts=artifacts,
    )
    return _run_silently(spec_or_path, options, notify=notify, ended=ended)


def _run_silently(
    source: SpecSource,
    options: RunOptions,
    *,
    notify: Notify | None,
    ended: Callable[[TrialRecord], None],
) -> StudyHandle:
    from hpsearch.search.worker.work_loop import Observer

    class EndedTrials(Observer):
        """Passes each ended trial on."""

        def ended(self, record: TrialRecord) -> None:
            ended(record)

    with translate_errors(), messages_to(notify):
        closed = search(
            source,
            options,
            watching=lambda handle, stopping: nullcontext(EndedTrials()),
            exits=False,
        )
    if closed.ending == INTERRUPTED:
        raise KeyboardInterrupt
    return replace(open_study(closed.name, storage=options.storage), ending=closed.ending)


def search(
    source: SpecSource,
    options: RunOptions,
    *,
    watching: Watching,
    preparing: AbstractContextManager[object] | None = None,
    finished: Callable[[StudyHandle], None] = lambda handle: None,
    exits: bool,
) -> StudyHandle:
    """Prepares a study, runs its trials and closes it; returns its handle, already closed.

    Args:
        source: a spec, or the path of a study file; None: the built-in default.
        options: the options of the run.
        watching: shows the study while trials run.
        preparing: entered while the data is loaded and the study is made or opened.
        finished: called at the end of the run, while the study is still open.
        exits: whether a second Ctrl-C ends the process instead of raising KeyboardInterrupt.

    Raises:
        HpsearchError: as :func:`run`.
    """
    from hpsearch.search.worker import launch
    from hpsearch.search.worker.watchdog import listening, watched
    from hpsearch.search.worker.work_loop import StopSignal, close

    spec, code = _read(source, options)
    worker_options, stop = options.worker_options(code=code), StopSignal(exits=exits)
    # Only the main thread of a process may install signal handlers.
    is_main = threading.current_thread() is threading.main_thread()
    with listening(stop) if is_main else watched(stop):
        with preparing or nullcontext():
            prepared = launch.prepare(spec, worker_options, stop=stop)
        stop.start_clock(spec.search.timeout)
        handle = handle_of(prepared.study, storage=options.storage)
        with (
            prepared.study.storage.closed_on_error(),
            watching(handle, lambda: bool(stop.signals)) as observer,
        ):
            ending = launch.run(prepared, worker_options, stop=stop, watcher=observer)
    handle = replace(handle, ending=ending.label)
    with prepared.study.storage.closed_on_error():
        try:
            finished(handle)
        finally:  # the study is complete, even if its end cannot be printed
            close(prepared.study, ending)
    return handle


def work(
    options: RunOptions, *, forever: bool, allow_code: bool = False, watching: Watching
) -> str:
    """Runs trials of existing studies, oldest first; returns the ending, such as ``done``.

    ``options`` say which study (None: every open one), where its data lies here, and the hardware;
    ``forever`` waits for the next study; ``allow_code`` allows to import and run the user code that
    studies name, as ``HPSEARCH_CODE`` does, too. ``watching`` shows a study while trials run,
    unless a command that does so started this worker.

    Raises:
        HpsearchError: the study cannot be run on this machine.
    """
    from hpsearch.search.worker.service import serve
    from hpsearch.search.worker.watchdog import listening
    from hpsearch.search.worker.work_loop import Observer, StopSignal

    stop = StopSignal.of_a_worker()

    def view(study: Study) -> AbstractContextManager[Observer]:
        if stop.parent:
            return nullcontext(Observer())
        return watching(handle_of(study, storage=options.storage), lambda: bool(stop.signals))

    with listening(stop):
        ending = serve(
            options.worker_options(allow_code=allow_code),
            name=options.study,
            forever=forever,
            dataset=options.dataset,
            stop=stop,
            view=view,
        )
    return ending.label


def submit(source: SpecSource, options: RunOptions) -> None:
    """Queues a study for workers; returns at once.

    Raises:
        HpsearchError: as :func:`run`; nothing was written.
    """
    from hpsearch.search.storage.records import StudyStatus
    from hpsearch.search.worker import launch

    spec, code = _read(source, options)
    submitted = launch.submit(spec, options.worker_options(code=code))
    total = submitted.spec.search.trials
    with closing(submitted.storage):
        is_done = submitted.status() is StudyStatus.DONE
    if is_done:
        _log.info("study %r has %s trials already, nothing to do", submitted.name, total)
        return
    _log.info(
        "study %r waits for workers in %s, for %s trials; start one with `hpsearch worker`",
        submitted.name,
        submitted.storage.masked,
        total,
    )


def watch(study: StudyHandle, *, watching: Watching) -> str:
    """Shows a study that runs elsewhere until its workers get no more trials; returns why."""
    from hpsearch.search.worker.pool import follow

    with watching(study, lambda: False) as observer:
        return follow(study.study, observer).words


def check(source: SpecSource, options: RunOptions) -> tuple[StudySpec, DatasetSummary | None]:
    """Validates a study file without training; returns its spec, and its images where counted.

    User code is imported. Legal settings that will not find a good model are logged.

    Raises:
        HpsearchError: a value, the data or the user code is invalid.
    """
    from hpsearch.search.study.catalog import check_names
    from hpsearch.search.worker.launch import examine

    spec, code = _read(source, options)
    check_names(spec)
    return spec, examine(spec, data_dir=options.worker_options().data_dir, code=code)


def doctor(options: RunOptions) -> tuple[list[Finding], bool]:
    """Examines this machine and the database; returns findings, and whether a search can run."""
    from hpsearch.search.jobs.doctor import Health, examine

    where = options.worker_options()
    findings = examine(where.storage, data_dir=where.data_dir, artifacts=where.artifacts)
    return findings, not any(finding.health is Health.BAD for finding in findings)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C, SIGTERM or SIGHUP has requested a stop; a second ends the process."""
    from hpsearch.search.worker.watchdog import listening
    from hpsearch.search.worker.work_loop import StopSignal

    stop = StopSignal()

    def is_stopped() -> bool:
        # From the first step on, the watchdog looks for the next; loading data may take long.
        stop.task, stop.steps = "the training", stop.steps + 1
        return stop()

    with listening(stop):
        yield is_stopped


def _read(source: SpecSource, options: RunOptions) -> tuple[StudySpec, Path | None]:
    """The spec with the options over it, and the folder of its study file, if it has one."""
    from hpsearch.config import overridden, read_spec

    if isinstance(source, StudySpec):
        return overridden(source, options.overrides()), None
    path = None if source is None else Path(os.path.expanduser(source))
    return read_spec(path, options.overrides()), path and path.parent
