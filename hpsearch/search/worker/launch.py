"""From a spec to a finished search on this machine: check everything, then work."""

from __future__ import annotations

import functools
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.core.initial_trials import few_steps_warning
from hpsearch.core.objectives import OBJECTIVES, costs_alone
from hpsearch.core.plural import plural
from hpsearch.core.spec import DatasetSummary, StudySpec, check_shift, with_dataset
from hpsearch.core.spec_diff import describe_changes, differences, steering
from hpsearch.errors import DeviceError
from hpsearch.nn.runtime import cpu
from hpsearch.nn.user_code import CODE, add_import_path, check_user_code
from hpsearch.search.samplers import grid_cells
from hpsearch.search.storage.records import REFERENCE
from hpsearch.search.storage.storage import check_storage, exists, open_storage
from hpsearch.search.study import catalog
from hpsearch.search.study.process import identity
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study
from hpsearch.search.worker.observer import Observer
from hpsearch.search.worker.pool import Pool, worker_command
from hpsearch.search.worker.work_loop import StopSignal, work

if TYPE_CHECKING:
    import torch

    from hpsearch.nn.data.dataset import ImageData
    from hpsearch.nn.data.tensors import Tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Where a search runs: its database, data folder, device and threads (None: decided here).

    ``code`` is the folder where modules of the person's own are looked for first, None that of
    ``HPSEARCH_CODE``; then the current one. ``artifacts`` is where checkpoints lie, None the
    default place; ``gpus_per_worker`` is the share of a GPU that a worker needs, None as many
    workers on each as the deal gives it.
    """

    storage: str
    data_dir: Path | None = None
    device: str = "auto"
    threads: int | None = None
    mixed_hardware: bool = False
    artifacts: str | None = None
    code: Path | None = None
    gpus_per_worker: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A study that is open and ready to be worked on."""

    study: Study
    images: Tensors
    device: torch.device
    origin: Mapping[str, Any]
    devices: Sequence[str] = ()  # of the worker processes, where there are several


_OF_A_RUN = ("search.timeout", "search.workers")  # and nothing of the study's

NO_ARTIFACTS = (
    "no checkpoints are kept, and a trial that loses its worker starts over; name a folder that all"
    " workers see with --artifacts"
)


def prepare(spec: StudySpec, options: WorkerOptions, *, stop: StopSignal) -> Prepared:
    """Checks storage, device and data, in this order, and only then makes or opens the study.

    Raises:
        HpsearchError: something is not as it must be; nothing has been written.
    """
    _check_grid(spec)
    check_storage(options.storage, artifacts=options.artifacts)
    known = _existing(spec, options)
    threads = _threads(options, known, workers=spec.search.workers)
    ground = _survey(spec, options, threads)
    if known is None:
        _warn(spec, len(ground.images.train_labels))
        ground.bounds()  # before any file is made: the dearest net may not fit in memory
    if known is not None and REFERENCE in known.attributes:
        _differs(known, ground.reference, mixed=options.mixed_hardware)
    devices = _devices(spec, options, ground)
    study = catalog.create_or_resume(
        open_storage(
            options.storage,
            create=True,
            artifacts=options.artifacts,
            gives_up=stop.gives_up if spec.search.workers == 1 else stop.is_signalled,
        ),
        spec,
        data=ground.fingerprint,
        reference=ground.reference,
        bounds=ground.bounds,
    )
    if (total := study.spec.search.trials) > spec.search.trials:
        is_done = study.status() is StudyStatus.DONE
        rest = "nothing to do" if is_done else "with those that others run"
        _log.info("study %r has %s trials already, %s", study.name, total, rest)
    _tell_changes(known, study)
    if study.storage.artifacts is None:
        _log.info(NO_ARTIFACTS)
    return replace(_prepared(study, options, ground), devices=devices)


def _devices(spec: StudySpec, options: WorkerOptions, ground: _Ground) -> Sequence[str]:
    """The device of each worker process; none where this process is the worker."""
    from hpsearch.nn.runtime.device import assign_devices, check_share
    from hpsearch.nn.training.smoke_test import worker_memory
    from hpsearch.search.worker.bounds import most_memory_trial

    workers, share = spec.search.workers, options.gpus_per_worker
    check_share(ground.device, share)
    if workers == 1:
        return ()
    return assign_devices(
        options.device,
        workers=workers,
        gpus_per_worker=share,
        footprint=lambda: worker_memory(
            most_memory_trial(spec), ground.images, device=ground.device
        ),
    )


def attach_worker(study: Study, options: WorkerOptions, *, dataset: str | None) -> Prepared:
    """Makes this process ready to work on a study that is there.

    The data is looked for where the study has it, or at ``dataset``, and must be the study's.

    Raises:
        HpsearchError: the data cannot be had or is other data, or the hardware differs.
    """
    spec = with_dataset(study.spec, dataset)
    ground = _survey(spec, options, _threads(options, study, workers=1))
    if REFERENCE in study.attributes:
        _differs(study, ground.reference, mixed=options.mixed_hardware)
    equipped = catalog.attach_data(
        study, data=ground.fingerprint, reference=ground.reference, bounds=ground.bounds
    )
    return _prepared(equipped, options, ground)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What this process has found to work with."""

    images: Tensors
    device: torch.device
    fingerprint: Mapping[str, Any]
    reference: Mapping[str, Any]
    bounds: Callable[[], Mapping[str, tuple[float, float]]]


def _survey(spec: StudySpec, options: WorkerOptions, threads: int) -> _Ground:
    device = configure_torch(options, threads)
    data, images = _load(spec, options, device)
    _, height, width = images.input_shape
    check_shift(spec.train.shift, height=height, width=width)
    from hpsearch.nn.runtime.device import describe
    from hpsearch.nn.training.smoke_test import smoke_test
    from hpsearch.search.worker.bounds import extreme_trials, objective_bounds

    if spec.has_user_code:
        add_import_path(options.code)
        for corner in extreme_trials(spec):
            smoke_test(corner, images, device=device)
    return _Ground(
        images=images,
        device=device,
        fingerprint=data.fingerprint,
        reference={"device": device.type, "processor": describe(device), "threads": threads},
        bounds=functools.cache(lambda: objective_bounds(spec, images, device)),
    )


def configure_torch(options: WorkerOptions, threads: int) -> torch.device:
    """Makes torch in this process compute with that many threads; returns the device to use.

    Raises:
        DeviceError: this machine has no such device.
    """
    cpu.prepare_environment(threads)
    from hpsearch.nn.runtime.device import pick_device

    device = pick_device(options.device)
    cpu.apply_threads(threads)
    cpu.keep_freed_memory()
    return device


def _prepared(study: Study, options: WorkerOptions, ground: _Ground) -> Prepared:
    reference = ground.reference
    here = {"versions": versions(), "index": ground.device.index}
    origin = {"process": identity(), **reference, **here}
    if _differs(study, reference, mixed=options.mixed_hardware):
        origin["mixed_hardware"] = True
    return Prepared(study=study, images=ground.images, device=ground.device, origin=origin)


def submit(spec: StudySpec, options: WorkerOptions) -> Study:
    """Makes a study that the first worker to come equips with data, hardware and bounds.

    Raises:
        HpsearchError: something is not as it must be; nothing has been written.
    """
    _check_grid(spec)
    examine(spec, data_dir=options.data_dir, code=options.code)
    check_storage(options.storage)
    known = _existing(spec, options)
    study = catalog.submit(open_storage(options.storage, create=True), spec)
    _tell_changes(known, study)
    return study


def examine(spec: StudySpec, *, data_dir: Path | None, code: Path | None) -> DatasetSummary | None:
    """Checks what can be told of a study before its images are there; returns what is told of them.

    User code is imported, not run. Settings that are legal but will not find a good net are logged.

    Raises:
        HpsearchError: something is not as it must be.
    """
    from hpsearch.nn.data.dataset import check, known_size, summarise

    check(spec.data, data_dir=data_dir)
    images, size = summarise(spec.data, seed=spec.search.seed), known_size(spec.data)
    if size is not None:
        check_shift(spec.train.shift, height=size[0], width=size[1])
    check_user_code(spec, folder=code)
    _warn(spec, None if images is None else images.train)
    return images


def run(
    prepared: Prepared, options: WorkerOptions, *, stop: StopSignal, watcher: Observer
) -> StudyStatus:
    """Works on the study until its budget is met, the time is up or a signal comes.

    One worker is this process; several are processes of their own.
    """
    if prepared.study.spec.search.workers == 1:
        return run_here(prepared, stop=stop, observer=watcher)
    return _run_workers(prepared, options, stop=stop, watcher=watcher)


def run_here(
    prepared: Prepared, *, stop: StopSignal, observer: Observer, waits: bool = True
) -> StudyStatus:
    """Works on the study in this process; ``waits`` as for :func:`work`."""
    from hpsearch.search.worker.trainer import Trainer

    study = prepared.study
    trainer = Trainer(
        study=study, images=prepared.images, device=prepared.device, observer=observer
    )
    with cpu.worker_presence(), study.storage.translate_errors():
        return work(
            study, trainer, origin=prepared.origin, observer=observer, stop=stop, waits=waits
        )


def _run_workers(
    prepared: Prepared, options: WorkerOptions, *, stop: StopSignal, watcher: Observer
) -> StudyStatus:
    """Has processes of this host work on the study, as many as its spec says, and watches them."""
    study = prepared.study
    threads = int(prepared.origin["threads"])
    counted = sum(number for state, number in study.tally().items() if state.counts)
    left = max(1, study.spec.search.trials - counted)
    commands = [
        worker_command("--study", study.name, *_arguments(options, device=device, threads=threads))
        for device in prepared.devices[:left]
    ]
    if prepared.device.type == "cpu" and len(commands) * threads > cpu.usable_cpus():
        _log.info(
            "%s workers of %s share %s cores: fewer would search as fast",
            len(commands),
            plural(threads, "thread"),
            cpu.usable_cpus(),
        )
    known = {"HPSEARCH_STORAGE": options.storage}  # not among the options: it may hold a password
    if options.code is not None:
        known[CODE] = str(options.code.resolve())
    with (
        study.storage.translate_errors(),
        Pool(study=study, commands=commands, environment=known, watcher=watcher) as pool,
    ):
        return pool.run(stop)


def _arguments(options: WorkerOptions, *, device: str, threads: int) -> list[str]:
    arguments = ["--device", device, "--threads", str(threads)]
    if options.data_dir is not None:
        arguments += ["--data-dir", str(options.data_dir)]
    if options.artifacts is not None:
        arguments += ["--artifacts", options.artifacts]
    return [*arguments, *(["--mixed-hardware"] if options.mixed_hardware else [])]


def versions() -> dict[str, str]:
    """Returns the versions a trial was run with."""
    names = ("hpsearch", "torch", "torchvision", "optuna", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _check_grid(spec: StudySpec) -> None:
    if not spec.search.sampler.startswith("grid"):
        return
    n_cells, trials = len(grid_cells(spec)), spec.search.trials
    if trials < n_cells:
        _log.info(
            "the grid has %s cells but trials = %s: not every cell will be tried", n_cells, trials
        )


def _tell_changes(before: Study | None, now: Study) -> None:
    """Says what a study that goes on is steered by from here on, and was not before."""
    if before is None:
        return
    found = differences(steering(before.spec), steering(now.spec))
    changed = {key: pair for key, pair in found.items() if key not in _OF_A_RUN}
    if changed:
        _log.info("study %r goes on: %s", now.name, describe_changes(changed))


def _warn(spec: StudySpec, images: int | None) -> None:
    """Says of a new study what is legal and will not find a good net.

    ``images`` to train on; None: not known.
    """
    few = images and few_steps_warning(spec.space, epochs=spec.train.epochs, images=images)
    for told in (few or None, costs_alone(spec.search.objectives)):
        if told is not None:
            _log.info(told)


def _threads(options: WorkerOptions, known: Study | None, *, workers: int) -> int:
    """The threads asked for; else those the study was made with, if this host has so many."""
    if options.threads is None and known is not None and REFERENCE in known.attributes:
        made_with = int(known.attributes[REFERENCE]["threads"])
        if made_with <= cpu.usable_cpus():
            return made_with
    return cpu.decide_threads(requested=options.threads, workers=workers)


def _existing(spec: StudySpec, options: WorkerOptions) -> Study | None:
    if not exists(options.storage):
        return None
    storage = open_storage(options.storage, create=True)
    if spec.name in catalog.study_names(storage):
        return catalog.open_study(storage, spec.name)
    storage.close()
    return None


def _load(
    spec: StudySpec, options: WorkerOptions, device: torch.device
) -> tuple[ImageData, Tensors]:
    from hpsearch.nn.data.dataset import load
    from hpsearch.nn.data.tensors import tensors_of

    data = load(spec.data, data_dir=options.data_dir, seed=spec.search.seed)
    return data, tensors_of(data, device=device)


def _differs(study: Study, reference: Mapping[str, Any], *, mixed: bool) -> bool:
    """Whether this worker's seconds differ from the study's; refuses that unless ``mixed``.

    Raises:
        DeviceError: they differ, an objective is timed, and ``mixed`` is False.
    """
    kept = study.attributes[REFERENCE]
    timed = any(OBJECTIVES[name].is_timed for name in study.objectives)
    if not timed or all(kept[key] == reference[key] for key in kept):
        return False
    if not mixed:
        raise DeviceError(
            f"this worker runs on {hardware(reference)}, but study {study.name!r} measures its"
            f" seconds on {hardware(kept)}; use the same, or pass --mixed-hardware to mix them"
        )
    return True


def hardware(reference: Mapping[str, Any]) -> str:
    """Returns in words what seconds are measured on: the processor and its threads."""
    threads = reference["threads"]
    return f"{reference['processor']} with {plural(threads, 'thread')}"
