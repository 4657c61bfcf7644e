"""Making, finding, listing and deleting the studies of a database."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NoReturn

import optuna
from optuna.samplers import RandomSampler

from hpsearch.core.analysis.pruning_stats import StudySummary
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.spec import StudySpec, to_json
from hpsearch.core.spec_diff import describe_changes, differences, identity, steering
from hpsearch.core.trial import State
from hpsearch.errors import StudyError, nearest
from hpsearch.search.storage.artifacts import checkpoint_prefix
from hpsearch.search.storage.records import (
    BOUNDS,
    CHANGES,
    CREATED,
    DATA,
    REFERENCE,
    SPEC,
    STOP,
    spec_of,
)
from hpsearch.search.storage.storage import Storage
from hpsearch.search.storage.tables import count_states
from hpsearch.search.study.leases import stale_trials
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study

_log = logging.getLogger(__name__)


def create_or_resume(
    storage: Storage,
    spec: StudySpec,
    *,
    data: Mapping[str, Any],
    reference: Mapping[str, Any],
    bounds: Callable[[], Mapping[str, tuple[float, float]]],
) -> Study:
    """Opens the study of the spec's name; makes it, once, if it is not there.

    Args:
        storage: the database.
        spec: what the study is; where it is there already, only what may change may differ, and
            the total of trials becomes no smaller than the number it has had and others run.
        data: the data's fingerprint; likewise.
        reference: the hardware that seconds are measured on; kept when the study is made.
        bounds: gives each objective's range for the hypervolume; asked only for a study that has
            none yet.

    Raises:
        StudyError: a study of that name differs in what must not change, or is not ours.
    """
    is_known = spec.name in study_names(storage)
    fresh = {} if is_known else _equipment(data, reference, bounds)
    study = _made_or_opened(storage, spec, fresh=fresh, data=data)
    # Again where it was submitted, or deleted meanwhile.
    return attach_data(study, data=data, reference=reference, bounds=bounds)


def submit(storage: Storage, spec: StudySpec) -> Study:
    """Makes a study for workers to come, or opens it; its first worker equips it.

    Raises:
        StudyError: a study of that name differs in what must not change, or is not ours.
    """
    return _made_or_opened(storage, spec, fresh={}, data=None)


def _made_or_opened(
    storage: Storage, spec: StudySpec, *, fresh: Mapping[str, Any], data: Mapping[str, Any] | None
) -> Study:
    """The study of the spec's name, as the spec steers it; where it is not there made, as fresh."""
    with storage.lock():
        _clear_half_made(storage, spec.name)
        if not _exists(storage, spec.name):
            return _create(storage, spec, fresh)
        handle = _load(storage, spec.name)
        _refuse_changes(handle, spec, data)
        spec = _with_room(storage, handle, spec)
        _note_changes(handle, spec)
    return _opened(storage, handle, spec)


def attach_data(
    study: Study,
    *,
    data: Mapping[str, Any],
    reference: Mapping[str, Any],
    bounds: Callable[[], Mapping[str, tuple[float, float]]],
) -> Study:
    """Returns the study with its data, hardware and bounds: those it has, else these, for good.

    Raises:
        StudyError: the study was made with other data.
    """
    if DATA not in study.attributes:
        fresh = _equipment(data, reference, bounds)  # takes a while: not under the lock
        with study.storage.lock(), study.storage.transaction():
            if DATA not in study.handle.user_attrs:
                for key, value in fresh.items():
                    study.handle.set_user_attr(key, value)
        study = _read(study.storage, study.name)
    if changed := _other_data(study.attributes, data):
        _refuse(study.name, changed)
    return study


def _equipment(
    data: Mapping[str, Any],
    reference: Mapping[str, Any],
    bounds: Callable[[], Mapping[str, tuple[float, float]]],
) -> dict[str, Any]:
    ends = {name: list(pair) for name, pair in bounds().items()}
    return {BOUNDS: ends, REFERENCE: dict(reference), DATA: dict(data)}


def open_study(storage: Storage, name: str | None = None) -> Study:
    """Opens a study to read it: the named one, else the only one, else the newest.

    Logs which one it is if the database holds several.

    Raises:
        StudyError: there is none of that name, none at all, or it is not ours.
    """
    names = study_names(storage)
    if name is None:
        if not names:
            raise StudyError(f"no study in {storage.masked}; start one with `hpsearch run`")
        readable = _readable(storage, names)
        newest = max(readable, key=lambda study: study.created, default=None)
        if len(names) > 1 and newest is not None:
            _log.info("study %r, the newest of %s; --study names another", newest.name, len(names))
        return newest or _read(storage, names[-1])
    if name not in names:
        if _exists(storage, name):
            raise StudyError(f"study {name!r} was not made by hpsearch; name one that was")
        hint = nearest(name, names) if names else "start one with `hpsearch run`"
        raise StudyError(f"found no study {name!r} in {storage.masked}; {hint}")
    return _read(storage, name)


def open_numbered(storage: Storage, study_id: int) -> Study | None:
    """Opens the study of that id in the database; None if there is none, or it is not ours."""
    studies = storage.with_retry(storage.studies)
    for study in studies:
        if study._study_id == study_id and SPEC in study.user_attrs:
            return _read(storage, study.study_name)
    return None


def study_names(storage: Storage) -> list[str]:
    """Returns the names of the database's hpsearch studies, oldest first."""
    studies = sorted(storage.studies(), key=lambda study: study._study_id)
    return [study.study_name for study in studies if SPEC in study.user_attrs]


def open_studies(
    storage: Storage, *, on_unreadable: Callable[[str], None] = _log.warning
) -> list[tuple[Study, StudyStatus | None]]:
    """Returns the studies that still give trials to workers, oldest first.

    With each, why no worker would get one now: None, or BUSY where others run the last ones.
    ``on_unreadable`` is called with a message for each study that cannot be read.
    """
    found = []
    for study in _readable(storage, study_names(storage), on_unreadable):
        with contextlib.suppress(StudyError):  # deleted since
            found.append((study, study.status()))
    return [(study, standing) for study, standing in found if standing in (None, StudyStatus.BUSY)]


def summaries(storage: Storage) -> list[StudySummary]:
    """Returns a summary of each study of the database, oldest first; logs unreadable ones."""
    return [study.summary() for study in _readable(storage, study_names(storage))]


def _readable(
    storage: Storage, names: Sequence[str], on_unreadable: Callable[[str], None] = _log.warning
) -> Iterator[Study]:
    """Opens the studies of those names, but for those of a newer version and those just deleted."""
    for name in names:
        try:
            study = storage.with_retry(functools.partial(_read, storage, name))
        except StudyError as exc:
            on_unreadable(str(exc))
        else:
            yield study


def delete(storage: Storage, study: Study) -> None:
    """Deletes the study with all its trials.

    Raises:
        StudyError: a worker is in one of them.
        StorageError: the place for checkpoints cannot be used; nothing is deleted.
    """
    artifacts = storage.artifacts
    study.reap()
    with storage.lock():  # nobody starts a trial between the look and the deletion
        if running := [r.number for r in study.records() if r.state is State.RUNNING]:
            raise StudyError(
                f"study {study.name!r} is being worked on (trial {running[0]}); end it with"
                f" `hpsearch stop --study {study.name}` first, or wait a minute if its worker is"
                " gone"
            )
        optuna.delete_study(study_name=study.name, storage=storage.backend)
        if _exists(storage, study.name):  # Optuna is silent where a worker wrote meanwhile
            raise StudyError(f"study {study.name!r} could not be deleted; try again")
    if artifacts is not None:
        for key in set(artifacts.keys(checkpoint_prefix(study.created))):
            artifacts.remove(key)


def _exists(storage: Storage, name: str) -> bool:
    return any(study.study_name == name for study in storage.studies())


def _load(storage: Storage, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage.backend, sampler=RandomSampler())


def _read(storage: Storage, name: str) -> Study:
    handle = _load(storage, name)
    spec = spec_of(handle)
    assert spec is not None, "study_names lists our studies only"
    return _opened(storage, handle, spec)


def _opened(storage: Storage, handle: optuna.Study, spec: StudySpec) -> Study:
    return Study(storage=storage, handle=handle, spec=spec, attributes=handle.user_attrs)


def _create(storage: Storage, spec: StudySpec, attributes: Mapping[str, Any]) -> Study:
    objectives = [OBJECTIVES[name] for name in spec.search.objectives]
    with storage.transaction(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        handle = optuna.create_study(
            study_name=spec.name,
            storage=storage.backend,
            sampler=RandomSampler(),
            directions=["maximize" if o.maximize else "minimize" for o in objectives],
        )
        handle.set_metric_names([objective.label for objective in objectives])
        for key, value in attributes.items():
            handle.set_user_attr(key, value)
        handle.set_user_attr(CREATED, datetime.now(UTC).isoformat())
        handle.set_user_attr(SPEC, to_json(spec))
    return _opened(storage, handle, spec)


def _clear_half_made(storage: Storage, name: str) -> None:
    """Removes a study of ours whose making was cut short: our marks on it, but no spec."""
    for study in storage.studies():
        marks = [key.startswith("hpsearch:") for key in study.user_attrs]
        if study.study_name == name and SPEC not in study.user_attrs and marks and all(marks):
            optuna.delete_study(study_name=name, storage=storage.backend)


def _refuse_changes(handle: optuna.Study, spec: StudySpec, data: Mapping[str, Any] | None) -> None:
    kept = spec_of(handle)
    if kept is None:
        raise StudyError(
            f"study {spec.name!r} is there but was not made by hpsearch; choose another name"
            " with --study"
        )
    changed = differences(identity(kept), identity(spec))
    if others := _other_data(handle.user_attrs, data):
        before, now = kept.data.dataset, spec.data.dataset
        named = {"data.dataset": (before, now)} if before != now else {}
        changed |= {**named, **others}
    if changed:
        _refuse(spec.name, changed)


def _other_data(
    attributes: Mapping[str, Any], data: Mapping[str, Any] | None
) -> dict[str, tuple[Any, Any]]:
    if data is None or DATA not in attributes:
        return {}
    return {f"data.{key}": pair for key, pair in differences(attributes[DATA], data).items()}


def _refuse(name: str, changed: Mapping[str, tuple[Any, Any]]) -> NoReturn:
    raise StudyError(
        f"study {name!r} has changed: {describe_changes(changed)}; run it as it was, or choose"
        " another name with --study"
    )


def _with_room(storage: Storage, handle: optuna.Study, spec: StudySpec) -> StudySpec:
    """The spec with a total of trials that is no smaller than the number the study has had.

    With those that others run at this moment, which will count, too.
    """
    with storage.transaction() as session:
        roll = count_states(session, handle._study_id)
    least = roll.counted + len(roll.running) - len(stale_trials(storage, roll, claim=None))
    if least <= spec.search.trials:
        return spec
    return replace(spec, search=replace(spec.search, trials=least))


def _note_changes(handle: optuna.Study, spec: StudySpec) -> None:
    """Logs what was changed that may change, and takes a `hpsearch stop` back."""
    kept = spec_of(handle)
    assert kept is not None
    changed = differences(steering(kept), steering(spec))
    if changed:
        entry = {"at": datetime.now(UTC).isoformat(), "changed": changed}
        handle.set_user_attr(CHANGES, [*handle.user_attrs.get(CHANGES, []), entry])
        handle.set_user_attr(SPEC, to_json(spec))
    if handle.user_attrs.get(STOP):
        handle.set_user_attr(STOP, False)
