"""Start a search on this machine: check everything first, then run the workers."""

from __future__ import annotations

import functools
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.core.initial_trials import few_steps_warning
from hpsearch.core.objectives import OBJECTIVES, costs_alone
from hpsearch.core.spec import DatasetSummary, StudySpec, check_shift, with_dataset
from hpsearch.errors import DeviceError, plural
from hpsearch.nn.runtime import cpu
from hpsearch.nn.runtime.cpu import HardwareOptions
from hpsearch.nn.user_code import CODE, add_import_path, check_allowed, check_user_code
from hpsearch.search.samplers import grid_cells
from hpsearch.search.storage.records import REFERENCE, StudyStatus
from hpsearch.search.storage.storage import Storage, check_storage, exists, open_storage
from hpsearch.search.study import catalog
from hpsearch.search.study.leases import process_identity
from hpsearch.search.study.study import Study
from hpsearch.search.worker.pool import Pool, worker_command
from hpsearch.search.worker.watchdog import rehearsing
from hpsearch.search.worker.work_loop import Observer, StopSignal, work

if TYPE_CHECKING:
    import torch

    from hpsearch.nn.data.tensors import Tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions(HardwareOptions):
    """Locations and hardware of a search; None selects a default.

    ``code`` is the folder that is searched first for user modules, before the current one (None:
    that of ``HPSEARCH_CODE``), and ``allow_code`` allows those that a database names.
    ``artifacts`` is the location of checkpoints (None: the default of the database).
    """

    storage: str
    data_dir: Path | None = None
    artifacts: str | None = None
    code: Path | None = None
    allow_code: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedStudy:
    """An open study with its images and device, ready to be worked on.

    ``origin`` is stored with each trial: process, hardware and versions. ``devices`` has one entry
    for each worker process; it is empty if this process is the only worker.
    """

    study: Study
    images: Tensors
    device: torch.device
    origin: Mapping[str, Any]
    devices: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resources:
    """The images and hardware of this process. ``bounds`` trains a few steps on its first call."""

    images: Tensors
    device: torch.device
    fingerprint: Mapping[str, Any]
    reference: Mapping[str, Any]
    bounds: Callable[[], Mapping[str, tuple[float, float]]]


NO_ARTIFACTS = (
    "no checkpoints are kept, so a trial that loses its worker starts over; pass --artifacts with a"
    " folder that all workers can reach"
)


def prepare(spec: StudySpec, options: WorkerOptions, *, stop: StopSignal) -> PreparedStudy:
    """Checks storage, device and data, in this order, and only then creates or opens the study.

    Raises:
        HpsearchError: a check failed; nothing has been written.
    """
    _check_grid(spec)
    # When to stop waiting for a lost database: a worker may still have to store an epoch.
    gives_up = stop.gives_up if spec.search.workers == 1 else stop.is_signalled
    # The database is checked first, because loading the data may take minutes.
    storage, known = _open_existing(spec, options, gives_up=gives_up)
    threads = _thread_count(options, known, workers=spec.search.workers)
    resources = _load_resources(spec, options, threads, stop)
    if known is None:
        _log_spec_warnings(spec, images=len(resources.images.train_labels))
        # Before any file is created: the most expensive net may not fit in memory.
        resources.bounds()
    else:
        _check_hardware(known, resources.reference, allow_mixed=options.mixed_hardware)
    from hpsearch.nn.runtime.device import assign_devices, check_share
    from hpsearch.nn.training.custom_loop import worker_memory
    from hpsearch.search.worker.bounds import most_memory_trial

    images, device = resources.images, resources.device
    check_share(device, options.gpus_per_worker)
    devices: Sequence[str] = ()
    if spec.search.workers > 1:
        devices = assign_devices(
            options.device,
            workers=spec.search.workers,
            gpus_per_worker=options.gpus_per_worker,
            footprint=lambda: worker_memory(most_memory_trial(spec), images, device=device),
        )
    # A server may have restarted meanwhile: opening it reads its age, and so spares live workers.
    if storage is None or not storage.is_sqlite:
        storage = open_storage(
            options.storage, create=True, artifacts=options.artifacts, gives_up=gives_up
        )
    with storage.closed_on_error():
        study = catalog.create_or_resume(
            storage,
            spec,
            data=resources.fingerprint,
            reference=resources.reference,
            bounds=resources.bounds,
        )
    if (total := study.spec.search.trials) > spec.search.trials:
        is_done = study.status() is StudyStatus.DONE
        note = "nothing to do" if is_done else "including those that other workers are running"
        _log.info("study %r has %s trials already, %s", study.name, total, note)
    catalog.log_changes(known, study)
    if study.storage.artifacts is None:
        _log.info(NO_ARTIFACTS)
    return _prepared(study, options, resources, devices=devices)


def attach_worker(
    study: Study, options: WorkerOptions, *, dataset: str | None, stop: StopSignal | None = None
) -> PreparedStudy:
    """Prepares this process to work on an existing study.

    Loads the data from the study's own location, or from ``dataset``; it must be the same data.

    Raises:
        HpsearchError: the data, the hardware or the study's user code is refused.
    """
    check_allowed(study.spec, is_allowed=options.allow_code)
    spec = with_dataset(study.spec, dataset)
    threads = _thread_count(options, study, workers=1)
    resources = _load_resources(spec, options, threads, stop or StopSignal())
    _check_hardware(study, resources.reference, allow_mixed=options.mixed_hardware)
    equipped = catalog.attach_data(
        study, data=resources.fingerprint, reference=resources.reference, bounds=resources.bounds
    )
    return _prepared(equipped, options, resources)


def submit(spec: StudySpec, options: WorkerOptions) -> Study:
    """Creates a study whose data, hardware and bounds are added by its first worker.

    Raises:
        HpsearchError: a check failed; nothing has been written.
    """
    _check_grid(spec)
    examine(spec, data_dir=options.data_dir, code=options.code)
    # The workers keep the checkpoints; this machine need not reach their location.
    storage, known = _open_existing(spec, replace(options, artifacts=None))
    study = catalog.submit(storage or open_storage(options.storage, create=True), spec)
    catalog.log_changes(known, study)
    return study


def examine(spec: StudySpec, *, data_dir: Path | None, code: Path | None) -> DatasetSummary | None:
    """Checks a study without decoding an image; returns a summary of its image folder, if any.

    Imports user code but does not run it. Logs settings that are legal but unlikely to find a good
    net.

    Raises:
        HpsearchError: a check failed.
    """
    from hpsearch.nn.data.dataset import check, known_size, summarise

    check(spec.data, data_dir=data_dir)
    images, size = summarise(spec.data, seed=spec.search.seed), known_size(spec.data)
    if size is not None:
        check_shift(spec.train.shift, height=size[0], width=size[1])
    check_user_code(spec, folder=code)
    _log_spec_warnings(spec, images=None if images is None else images.train)
    return images


def run(
    prepared: PreparedStudy, options: WorkerOptions, *, stop: StopSignal, watcher: Observer
) -> StudyStatus:
    """Works on the study until its budget is met, the time is up or a signal arrives.

    A single worker is this process; several are processes that this one starts and watches.
    """
    study = prepared.study
    if study.spec.search.workers == 1:
        return run_here(prepared, stop=stop, observer=watcher)
    threads = int(prepared.origin["threads"])
    arguments = ["--study", study.name, "--threads", str(threads)]
    places = {"--data-dir": options.data_dir, "--artifacts": options.artifacts}
    arguments += [str(word) for pair in places.items() if pair[1] is not None for word in pair]
    # The code needs no other permission: the user has passed the definition of the study.
    flags = {"--mixed-hardware": options.mixed_hardware, "--allow-code": study.spec.has_user_code}
    arguments += [name for name, is_set in flags.items() if is_set]
    counted = sum(number for state, number in study.tally().items() if state.counts)
    # A worker without a trial would load the data for nothing.
    left = max(1, study.spec.search.trials - counted)
    commands = [
        worker_command("--device", device, *arguments) for device in prepared.devices[:left]
    ]
    if prepared.device.type == "cpu" and len(commands) * threads > cpu.usable_cpus():
        _log.info(
            "%s workers with %s each share %s cores; fewer workers would be as fast",
            len(commands),
            plural(threads, "thread"),
            cpu.usable_cpus(),
        )
    # Not an argument: the URL may hold a password, and other users can list arguments.
    environment = {"HPSEARCH_STORAGE": options.storage}
    if options.code is not None and study.spec.has_user_code:  # the variable is a permission
        environment[CODE] = str(options.code.resolve())
    with (
        study.storage.translate_errors(),
        Pool(study=study, commands=commands, environment=environment, watcher=watcher) as pool,
    ):
        return pool.run(stop)


def run_here(
    prepared: PreparedStudy, *, stop: StopSignal, observer: Observer, waits: bool = True
) -> StudyStatus:
    """Works on the study in this process; ``waits`` is passed to :func:`work`."""
    from hpsearch.search.worker.trainer import Trainer

    study = prepared.study
    trainer = Trainer(
        study=study, images=prepared.images, device=prepared.device, observer=observer
    )
    with cpu.worker_presence(), study.storage.translate_errors():
        return work(
            study, trainer, origin=prepared.origin, observer=observer, stop=stop, waits=waits
        )


def configure_torch(options: WorkerOptions, threads: int) -> torch.device:
    """Sets the number of threads that torch uses in this process; returns the device to use.

    Raises:
        DeviceError: this machine has no such device.
    """
    cpu.prepare_environment(threads)  # before torch is imported, which reads it once
    from hpsearch.nn.runtime.device import pick_device

    device = pick_device(options.device)
    cpu.apply_threads(threads)
    cpu.keep_freed_memory()
    return device


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    names = ("hpsearch", "torch", "torchvision", "optuna", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def hardware(reference: Mapping[str, Any]) -> str:
    """Returns the hardware that seconds are measured on as text: processor and threads."""
    return f"{reference['processor']} with {plural(reference['threads'], 'thread')}"


def _open_existing(
    spec: StudySpec, options: WorkerOptions, *, gives_up: Callable[[], bool] = lambda: False
) -> tuple[Storage | None, Study | None]:
    """Checks and opens the database and the study, each None if missing; creates no file."""
    check_storage(options.storage, artifacts=options.artifacts)
    if not exists(options.storage):
        catalog.check_names(spec)
        return None, None
    storage = open_storage(
        options.storage, create=True, artifacts=options.artifacts, gives_up=gives_up
    )
    with closing(storage):  # while data is loaded; the next use connects again
        storage.check_writable()
        is_known = spec.name in catalog.study_names(storage)
        known = catalog.open_study(storage, spec.name) if is_known else None
    if known is None:
        catalog.check_names(spec)
    return storage, known


def _load_resources(
    spec: StudySpec, options: WorkerOptions, threads: int, stop: StopSignal
) -> _Resources:
    """Loads the images onto the device and tries custom code on the extremes of the space."""
    device = configure_torch(options, threads)
    from hpsearch.nn.data.dataset import load
    from hpsearch.nn.data.tensors import tensors_of
    from hpsearch.nn.runtime.device import describe
    from hpsearch.nn.training.custom_loop import smoke_test
    from hpsearch.search.worker.bounds import extreme_trials, objective_bounds

    data = load(spec.data, data_dir=options.data_dir, seed=spec.search.seed)
    images = tensors_of(data, device=device)
    _, height, width = images.input_shape
    check_shift(spec.train.shift, height=height, width=width)
    measure = objective_bounds
    # User code fails here, before a study is created, rather than in its first trials.
    if spec.has_user_code:
        add_import_path(options.code)
        with rehearsing(stop, spec.search):
            for trial in extreme_trials(spec):
                smoke_test(trial, images, device=device)
        # unlike the built-in training, which may be slow on a busy machine
        measure = rehearsing(stop, spec.search)(measure)
    return _Resources(
        images=images,
        device=device,
        fingerprint=data.fingerprint,
        reference={"device": device.type, "processor": describe(device), "threads": threads},
        bounds=functools.cache(lambda: measure(spec, images, device)),
    )


def _prepared(
    study: Study, options: WorkerOptions, resources: _Resources, *, devices: Sequence[str] = ()
) -> PreparedStudy:
    reference, device = resources.reference, resources.device
    origin = {
        "process": process_identity(),
        **reference,
        "versions": versions(),
        "index": device.index,
    }
    if _check_hardware(study, reference, allow_mixed=options.mixed_hardware):
        origin["mixed_hardware"] = True
    return PreparedStudy(
        study=study, images=resources.images, device=device, origin=origin, devices=devices
    )


def _check_hardware(study: Study, reference: Mapping[str, Any], *, allow_mixed: bool) -> bool:
    """Returns whether this worker measures its seconds on other hardware than the study.

    Raises:
        DeviceError: it does, and ``allow_mixed`` is False.
    """
    kept = study.attributes.get(REFERENCE, {})
    is_timed = any(OBJECTIVES[name].is_timed for name in study.objectives)
    if not is_timed or all(kept[key] == reference[key] for key in kept):
        return False
    if not allow_mixed:
        raise DeviceError(
            f"this worker runs on {hardware(reference)}, but study {study.name!r} measures its"
            f" seconds on {hardware(kept)}; use the same, or pass --mixed-hardware to mix them"
        )
    return True


def _thread_count(options: WorkerOptions, known: Study | None, *, workers: int) -> int:
    """The requested threads, else those of the study if this host has as many cores."""
    if options.threads is None and known is not None and REFERENCE in known.attributes:
        used_before = int(known.attributes[REFERENCE]["threads"])
        if used_before <= cpu.usable_cpus():
            return used_before
    return cpu.decide_threads(requested=options.threads, workers=workers)


def _check_grid(spec: StudySpec) -> None:
    if not spec.search.sampler.startswith("grid"):
        return
    n_cells, trials = len(grid_cells(spec)), spec.search.trials
    if trials < n_cells:
        message = "the grid has %s cells but trials = %s: not every cell will be tried"
        _log.info(message, n_cells, trials)


def _log_spec_warnings(spec: StudySpec, *, images: int | None) -> None:
    """Logs settings that are legal but unlikely to find a good net.

    ``images`` is the number of training images, None if unknown.
    """
    few = images and few_steps_warning(spec.space, epochs=spec.train.epochs, images=images)
    for warning in (few, costs_alone(spec.search.objectives)):
        if warning:
            _log.info(warning)
