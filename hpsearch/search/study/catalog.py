"""The studies of a database: creating, opening, listing and deleting them."""

from __future__ import annotations

import contextlib
import logging
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NoReturn

import optuna
from optuna.samplers import RandomSampler
from optuna.study._frozen import FrozenStudy

from hpsearch.core.analysis.pruning_stats import StudySummary
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.space import dims
from hpsearch.core.spec import StudySpec, to_json
from hpsearch.core.spec_text import describe_changes, differences, identity, steering
from hpsearch.core.trial import State
from hpsearch.errors import SpecError, StudyError, nearest
from hpsearch.search.storage import overviews, tables
from hpsearch.search.storage.artifacts import checkpoint_prefix
from hpsearch.search.storage.overviews import Overview, summarise
from hpsearch.search.storage.records import (
    BOUNDS,
    CHANGES,
    CREATED,
    DATA,
    REFERENCE,
    SPEC,
    STOP,
    StudyStatus,
    read_spec,
    spec_of,
)
from hpsearch.search.storage.retry import retry_while_away
from hpsearch.search.storage.storage import Storage
from hpsearch.search.storage.tables import count_states
from hpsearch.search.study.leases import stale_trials
from hpsearch.search.study.study import Study

_log = logging.getLogger(__name__)

_RUN_SETTINGS = ("search.timeout", "search.workers")  # of a single run, not of the study


def create_or_resume(
    storage: Storage,
    spec: StudySpec,
    *,
    data: Mapping[str, Any],
    reference: Mapping[str, Any],
    bounds: Callable[[], Mapping[str, tuple[float, float]]],
) -> Study:
    """Opens the study of the spec's name; creates it if it does not exist.

    An existing study may differ from the spec only in settings that may change; its total of trials
    stays at least the number of counted and running ones.

    Args:
        storage: the database.
        spec: the study's definition.
        data: the data's fingerprint, which must be the one of an existing study.
        reference: the hardware that seconds are measured on; stored with a new study.
        bounds: returns each objective's range; called only for a study that has none yet.

    Raises:
        StudyError: a study of that name differs in a fixed setting, or was not made by hpsearch.
    """
    is_known = spec.name in study_names(storage)
    fresh = {} if is_known else _data_attributes(data, reference, bounds)
    study = _create_or_open(storage, spec, fresh=fresh, data=data)
    # A submitted study has no data yet, nor has one that was deleted since the look.
    return attach_data(study, data=data, reference=reference, bounds=bounds)


_MAX_NAME = 512  # characters, of Optuna's columns; SQLite accepts more, PostgreSQL does not


def check_names(spec: StudySpec) -> None:
    """Refuses names that not every database can store: of a new study, and of its dimensions.

    Called before a study is created only, so that studies of earlier versions open and resume.

    Raises:
        SpecError: a name is too long, or holds a control character or half a character.
    """
    for key, name in [("name", spec.name), *(("space", name) for name in dims(spec.space))]:
        found = None
        if len(name) > _MAX_NAME:
            found = f"{len(name):,} characters ({name[:40]!r}…), expected at most {_MAX_NAME}"
        elif any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            found = f"{name[:100]!r}, expected a name without control characters, in UTF-8"
        if found is not None:
            raise SpecError(f"{key}: found {found}; choose another name")


def submit(storage: Storage, spec: StudySpec) -> Study:
    """Creates a study without data, which its first worker attaches; opens an existing one.

    Raises:
        StudyError: a study of that name differs in a fixed setting, or was not made by hpsearch.
    """
    return _create_or_open(storage, spec, fresh={}, data=None)


@retry_while_away
def _create_or_open(
    storage: Storage, spec: StudySpec, *, fresh: Mapping[str, Any], data: Mapping[str, Any] | None
) -> Study:
    """Opens the study of the spec's name and adopts its settings, or creates it with ``fresh``."""
    with storage.lock():
        _clear_half_created(storage, spec.name)
        if not _exists(storage, spec.name):
            return _opened(storage, _create(storage, spec, fresh), spec)
        handle = _load(storage, spec.name)
        kept = spec_of(handle)
        if kept is None:
            raise StudyError(
                f"study {spec.name!r} exists but was not made by hpsearch; choose another name with"
                " --study"
            )
        _refuse_changes(handle, kept, spec, data)
        # The total covers at least the counted trials and those that others run.
        with storage.transaction() as session:
            counts = count_states(session, handle._study_id)
        least = counts.counted + len(counts.running) - len(stale_trials(storage, counts))
        if least > spec.search.trials:
            spec = replace(spec, search=replace(spec.search, trials=least))
        if changed := differences(steering(kept), steering(spec)):
            entry = {"at": datetime.now(UTC).isoformat(), "changed": changed}
            handle.set_user_attr(CHANGES, [*handle.user_attrs.get(CHANGES, []), entry])
            handle.set_user_attr(SPEC, to_json(spec))
        if handle.user_attrs.get(STOP):  # a new run revokes `hpsearch stop`
            handle.set_user_attr(STOP, False)
    return _opened(storage, handle, spec)


@retry_while_away
def attach_data(
    study: Study,
    *,
    data: Mapping[str, Any],
    reference: Mapping[str, Any],
    bounds: Callable[[], Mapping[str, tuple[float, float]]],
) -> Study:
    """Stores data, hardware and bounds with a study that has none; returns the study with its own.

    Raises:
        StudyError: the study was created with other data.
    """
    if DATA not in study.attributes:
        fresh = _data_attributes(data, reference, bounds)  # takes long, so not under the lock
        with study.storage.lock(), study.storage.transaction():
            if DATA not in study.handle.user_attrs:
                for key, value in fresh.items():
                    study.handle.set_user_attr(key, value)
        study = _read(study.storage, study.name)
    if changed := _other_data(study.attributes, data):
        _refuse(study.name, changed)
    return study


def _data_attributes(
    data: Mapping[str, Any],
    reference: Mapping[str, Any],
    bounds: Callable[[], Mapping[str, tuple[float, float]]],
) -> dict[str, Any]:
    ranges = {name: list(pair) for name, pair in bounds().items()}
    return {BOUNDS: ranges, REFERENCE: dict(reference), DATA: dict(data)}


def open_study(storage: Storage, name: str | None = None) -> Study:
    """Opens a study to read it: the named one, else the newest; logs which one of several.

    Raises:
        StudyError: no study has that name, there is none at all, or it was not made by hpsearch.
    """
    ours = _ours(storage)
    names = [study.study_name for study in ours]
    if name is None:
        if not names:
            raise StudyError(f"no study in {storage.masked}; start one with `hpsearch run`")
        # By id, not by time: the clock may have been set back between two creations.
        readable = [study for study, _ in _readable(ours)]
        newest = (readable or ours)[-1].study_name
        if len(names) > 1 and readable:
            _log.info("study %r, the newest of %s; --study names another", newest, len(names))
        return _read(storage, newest)
    if name not in names:
        if _exists(storage, name):
            raise StudyError(f"study {name!r} was not made by hpsearch; name one that was")
        hint = nearest(name, names) if names else "start one with `hpsearch run`"
        raise StudyError(f"found no study {name!r} in {storage.masked}; {hint}")
    return _read(storage, name)


@retry_while_away
def open_numbered(storage: Storage, study_id: int) -> Study | None:
    """Opens the study of that id; None if it does not exist, or was not made by hpsearch."""
    for study in storage.studies():
        if study._study_id == study_id and SPEC in study.user_attrs:
            return _read(storage, study.study_name)
    return None


@retry_while_away
def study_names(storage: Storage) -> list[str]:
    """Returns the names of the database's hpsearch studies, oldest first."""
    return [study.study_name for study in _ours(storage)]


@retry_while_away
def _ours(storage: Storage) -> list[FrozenStudy]:
    """Returns the database's hpsearch studies with their attributes, oldest first."""
    studies = sorted(storage.studies(), key=lambda study: study._study_id)
    return [study for study in studies if SPEC in study.user_attrs]


def open_studies(
    storage: Storage, *, on_unreadable: Callable[[str], None] = _log.warning
) -> list[tuple[Study, StudyStatus | None]]:
    """Returns the studies that may still give trials to workers, oldest first, with their statuses.

    The status is None, or BUSY if other workers run the last trials. ``on_unreadable`` is called
    with a message for each study that cannot be read.
    """
    studies, found = _ours(storage), []
    counts = _tallies(storage, studies)
    for frozen, spec in _readable(studies, on_unreadable):
        counted = sum(number for state, number in counts[frozen._study_id].items() if state.counts)
        # Most studies of a database are done: these are not opened, which takes many statements.
        if counted >= spec.search.trials or frozen.user_attrs.get(STOP):
            continue
        try:
            study = _read(storage, frozen.study_name)
        except StudyError as exc:  # deleted since
            on_unreadable(str(exc))
            continue
        with contextlib.suppress(StudyError):
            found.append((study, study.status()))
    return [(study, status) for study, status in found if status in (None, StudyStatus.BUSY)]


def summaries(storage: Storage) -> list[StudySummary]:
    """Returns the summary of each study of the database, oldest first; logs unreadable ones."""
    readable = list(_readable(_ours(storage)))
    found = _overviews(storage, [study for study, _ in readable])
    return [
        summarise(
            spec,
            overview := found[study._study_id],
            study.user_attrs,
            storage=storage.masked,
            silent=len(stale_trials(storage, overview)),
        )
        for study, spec in readable
    ]


@retry_while_away
def _overviews(storage: Storage, studies: Sequence[FrozenStudy]) -> Mapping[int, Overview]:
    with storage.transaction() as session:
        return overviews.overviews(session, [study._study_id for study in studies])


@retry_while_away
def _tallies(storage: Storage, studies: Sequence[FrozenStudy]) -> Mapping[int, Mapping[State, int]]:
    with storage.transaction() as session:
        return tables.tallies(session, [study._study_id for study in studies])


def _readable(
    studies: Sequence[FrozenStudy], on_unreadable: Callable[[str], None] = _log.warning
) -> Iterator[tuple[FrozenStudy, StudySpec]]:
    """Returns the studies with their specs, except those of a newer version."""
    for study in studies:
        try:
            spec = read_spec(study.study_name, study.user_attrs[SPEC])
        except StudyError as exc:
            on_unreadable(str(exc))
        else:
            yield study, spec


def delete(storage: Storage, study: Study) -> None:
    """Deletes the study with all its trials.

    Raises:
        StudyError: a worker runs one of them.
        StorageError: the location for checkpoints cannot be used; nothing is deleted.
    """
    artifacts = storage.artifacts
    study.reap()
    with storage.lock():  # no trial starts between the check and the deletion
        if running := [r.number for r in study.records() if r.state is State.RUNNING]:
            raise StudyError(
                f"study {study.name!r} is being worked on (trial {running[0]}); end it with"
                f" `hpsearch stop --study {study.name}` first, or wait a minute if its worker has"
                " died"
            )
        optuna.delete_study(study_name=study.name, storage=storage.backend)
        if _exists(storage, study.name):  # Optuna raises nothing if a worker wrote meanwhile
            raise StudyError(f"study {study.name!r} could not be deleted; try again")
    if artifacts is not None:
        for key in set(artifacts.keys(checkpoint_prefix(study.created))):
            artifacts.remove(key)


@retry_while_away
def _exists(storage: Storage, name: str) -> bool:
    return any(study.study_name == name for study in storage.studies())


def _load(storage: Storage, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage.backend, sampler=RandomSampler())


@retry_while_away
def _read(storage: Storage, name: str) -> Study:
    handle = _load(storage, name)
    spec = spec_of(handle)
    assert spec is not None, "study_names lists our studies only"
    return _opened(storage, handle, spec)


def _opened(storage: Storage, handle: optuna.Study, spec: StudySpec) -> Study:
    return Study(storage=storage, handle=handle, spec=spec, attributes=handle.user_attrs)


def _create(storage: Storage, spec: StudySpec, attributes: Mapping[str, Any]) -> optuna.Study:
    check_names(spec)
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
    return handle


def _clear_half_created(storage: Storage, name: str) -> None:
    """Removes a study whose creation was cut short: it has our attributes, but no spec."""
    for study in storage.studies():
        is_ours = [key.startswith("hpsearch:") for key in study.user_attrs]
        if study.study_name == name and SPEC not in study.user_attrs and is_ours and all(is_ours):
            optuna.delete_study(study_name=name, storage=storage.backend)


def log_changes(before: Study | None, now: Study) -> None:
    """Logs the settings of an existing study that differ from now on."""
    if before is None:
        return
    changed = differences(steering(before.spec), steering(now.spec))
    if changed := {key: changed[key] for key in changed if key not in _RUN_SETTINGS}:
        _log.info("study %r continues with changes: %s", now.name, describe_changes(changed))


def _refuse_changes(
    handle: optuna.Study, kept: StudySpec, spec: StudySpec, data: Mapping[str, Any] | None
) -> None:
    """Raises a StudyError if a setting that may not change, or the data, differs from ``kept``."""
    changed = differences(identity(kept), identity(spec))
    if others := _other_data(handle.user_attrs, data):
        before, now = kept.data.dataset, spec.data.dataset
        renamed = {"data.dataset": (before, now)} if before != now else {}
        changed |= {**renamed, **others}
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
