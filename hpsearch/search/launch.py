"""From a spec to a finished search on this machine: check everything, then work."""

from __future__ import annotations

import enum
import functools
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.spec import StudySpec
from hpsearch.errors import DeviceError, SpecError, StudyError
from hpsearch.nn import host
from hpsearch.search import catalog
from hpsearch.search.observer import Observer
from hpsearch.search.process import identity
from hpsearch.search.samplers import grid_cells
from hpsearch.search.storage import check_storage, exists, open_storage
from hpsearch.search.study import REFERENCE, Standing, Study
from hpsearch.search.worker import Stopper, work

if TYPE_CHECKING:
    import torch

    from hpsearch.nn.batches import Tensors
    from hpsearch.nn.data import ImageData


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a search runs: its database, data folder, device and threads (None: decided here)."""

    storage: str
    data_dir: Path | None = None
    device: str = "auto"
    threads: int | None = None
    mixed_hardware: bool = False


class Ending(enum.Enum):
    """How a run ended."""

    DONE = "done"  # the budget is met, or the grid used up
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"  # Ctrl-C or SIGTERM
    STOPPED = "stopped"  # `hpsearch stop`
    FAILING = "failing"  # too many failures in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A study that is open and ready to be worked on."""

    study: Study
    images: Tensors
    device: torch.device
    origin: Mapping[str, Any]


Notify = Callable[[str], None]


def prepare(spec: StudySpec, place: Place, *, notify: Notify) -> Prepared:
    """Checks storage, device and data, in this order, and only then makes or opens the study.

    Raises:
        HpsearchError: something is not as it must be; nothing has been written.
    """
    _check_workers(spec)
    _check_grid(spec, notify)
    check_storage(place.storage)
    known = _existing(spec, place)
    threads = _threads(spec, place, known)
    host.prepare_environment(threads)
    from hpsearch.nn.device import describe, pick_device

    device = pick_device(place.device)
    host.apply_threads(threads)
    host.keep_freed_memory()
    data, images = _load(spec, place, device, notify)
    reference = {"device": device.type, "processor": describe(device), "threads": threads}
    from hpsearch.search.objective import objective_bounds

    bounds = functools.cache(lambda: objective_bounds(spec, images, device))
    if known is None:
        bounds()  # before any file is made: it may not fit in memory
    else:
        _differs(known, reference, mixed=place.mixed_hardware)
    study = catalog.create_or_resume(
        open_storage(place.storage, create=True),
        spec,
        data=data.fingerprint,
        reference=reference,
        bounds=bounds,
    )
    origin = {"process": identity(), **reference, "versions": versions(), "index": device.index}
    if _differs(study, reference, mixed=place.mixed_hardware):
        origin["mixed_hardware"] = True
    return Prepared(study=study, images=images, device=device, origin=origin)


def run(prepared: Prepared, *, stop: Stopper, observer: Observer) -> Ending:
    """Works on the study until its budget is met, the time is up or a signal comes."""
    from hpsearch.search.objective import Trainer

    study = prepared.study
    trainer = Trainer(
        study=study, images=prepared.images, device=prepared.device, observer=observer
    )
    with host.worker_presence(), study.storage.watched():
        standing = work(study, trainer, origin=prepared.origin, observer=observer, stop=stop)
    if standing is None:
        return Ending.INTERRUPTED if stop.signals else Ending.TIMED_OUT
    return _ENDINGS[standing]


_ENDINGS = {
    Standing.DONE: Ending.DONE,
    Standing.USED_UP: Ending.DONE,
    Standing.STOPPED: Ending.STOPPED,
    Standing.FAILING: Ending.FAILING,
}


def close(study: Study, ending: Ending) -> None:
    """Closes the study's database; SQLite folds its write-ahead log into the file.

    Raises:
        StudyError: the run ended because too many trials failed in a row.
    """
    failures = study.failures(study.records())
    study.storage.close()
    if ending is Ending.FAILING:
        last = failures[-1]
        raise StudyError(
            f"{len(failures)} trials failed in a row, the last one, trial {last.number}, with"
            f" {last.reason}; see `hpsearch show {last.number}` for where, mend it and run again"
        )


def versions() -> dict[str, str]:
    """Returns the versions a trial was run with."""
    names = ("hpsearch", "torch", "torchvision", "optuna", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _check_grid(spec: StudySpec, notify: Notify) -> None:
    if not spec.search.sampler.startswith("grid"):
        return
    n_cells, trials = len(grid_cells(spec)), spec.search.trials
    if trials < n_cells:
        notify(f"the grid has {n_cells} cells but trials = {trials}: not every cell will be tried")


def _check_workers(spec: StudySpec) -> None:
    if spec.search.workers != 1:
        raise SpecError(
            f"search.workers: found {spec.search.workers}, expected 1: this version runs one"
            " worker a command; drop --workers"
        )


def _threads(spec: StudySpec, place: Place, known: Study | None) -> int:
    """The threads asked for; else those the study was made with, if this host has so many."""
    if place.threads is None and known is not None:
        made_with = int(known.attributes[REFERENCE]["threads"])
        if made_with <= host.usable_cpus():
            return made_with
    return host.decide_threads(requested=place.threads, workers=spec.search.workers)


def _existing(spec: StudySpec, place: Place) -> Study | None:
    if not exists(place.storage):
        return None
    storage = open_storage(place.storage, create=True)
    if spec.name in catalog.study_names(storage):
        return catalog.open_study(storage, spec.name)
    storage.close()
    return None


def _load(
    spec: StudySpec, place: Place, device: torch.device, notify: Notify
) -> tuple[ImageData, Tensors]:
    from hpsearch.nn.batches import tensors
    from hpsearch.nn.data import load

    data = load(spec.data, data_dir=place.data_dir, seed=spec.search.seed, notify=notify)
    images = tensors(
        data.images,
        data.labels,
        data.split.train,
        data.split.val,
        mean=data.mean,
        std=data.std,
        classes=len(data.classes),
        device=device,
    )
    return data, images


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
            f"this worker runs on {_words(reference)}, but study {study.name!r} measures its"
            f" seconds on {_words(kept)}; use the same, or pass --mixed-hardware to mix them"
        )
    return True


def _words(reference: Mapping[str, Any]) -> str:
    threads = reference["threads"]
    return f"{reference['processor']} with {threads} thread{'s' * (threads != 1)}"
