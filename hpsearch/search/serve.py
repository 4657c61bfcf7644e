"""A worker's life: from one open study of the database to the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime

from hpsearch.core.spec import to_json
from hpsearch.errors import DataError, DeviceError, SpecError, StudyError
from hpsearch.search import catalog, launch
from hpsearch.search.heartbeat import show_alive
from hpsearch.search.launch import Ending, Notify, Place
from hpsearch.search.observer import Observer
from hpsearch.search.standing import Standing
from hpsearch.search.storage import Storage, open_storage
from hpsearch.search.study import Study
from hpsearch.search.worker import Stopper

_WAIT_SECONDS = 1.0

View = Callable[[Study], AbstractContextManager[Observer]]


def serve(
    place: Place,
    *,
    name: str | None,
    forever: bool,
    dataset: str | None,
    stop: Stopper,
    view: View,
    notify: Notify,
) -> Ending:
    """Works on the named study, else on every open one, oldest first.

    Args:
        place: where it runs; its storage must be there, unless ``forever`` waits for it.
        name: the study, or None.
        forever: wait for the next open study instead of ending.
        dataset: where the data lies here, if not where the study has it.
        stop: says when to end.
        view: shows a study while it is worked on.
        notify: takes a line for the person.

    Raises:
        HpsearchError: the study cannot be worked on from here. One of several studies, or of
            those that may come, is left alone instead, and the person told why.
    """
    storage = open_storage(place.storage, create=forever, artifacts=place.artifacts)
    left_alone: set[tuple[datetime, str]] = set()  # studies as they were made and steered
    while not stop():
        show_alive()
        study = _next(storage, name, left_alone, forever=forever)
        if study is None:
            if not forever:
                notify(_nothing_open(storage, name))
                return Ending.DONE
            time.sleep(_WAIT_SECONDS)
            continue
        try:
            ending = _work_on(study, place, dataset=dataset, stop=stop, view=view, notify=notify)
        except (DataError, DeviceError, SpecError, StudyError) as exc:
            if name is not None and not forever:
                raise
            notify(f"study {study.name!r} is left alone: {exc}")
            left_alone.add(_as_it_is(study))
            continue
        if ending in (Ending.INTERRUPTED, Ending.TIMED_OUT):
            return ending
        notify(f"study {study.name!r}: {ending.value}")
        if name is not None and not forever:
            return ending
    return Ending.INTERRUPTED


def _as_it_is(study: Study) -> tuple[datetime, str]:
    return study.created, to_json(study.spec)


def _work_on(
    study: Study,
    place: Place,
    *,
    dataset: str | None,
    stop: Stopper,
    view: View,
    notify: Notify,
) -> Ending:
    stop.raises = True  # while it prepares, which cannot ask
    prepared = launch.join(study, place, dataset=dataset, notify=notify)
    with view(prepared.study) as observer:
        ending = launch.run_here(prepared, stop=stop, observer=observer)
    launch.close(prepared.study, ending)
    return ending


def _next(
    storage: Storage,
    name: str | None,
    left_alone: set[tuple[datetime, str]],
    *,
    forever: bool,
) -> Study | None:
    if name is not None and not forever:
        storage.patiently(lambda: catalog.open_study(storage, name))  # or says which there are
    studies = storage.patiently(lambda: catalog.open_studies(storage))
    wanted = (s for s in studies if name in (None, s.name) and _as_it_is(s) not in left_alone)
    return next(wanted, None)


def _nothing_open(storage: Storage, name: str | None) -> str:
    if name is not None:
        standing = storage.patiently(lambda: catalog.open_study(storage, name).standing())
        return f"study {name!r} {(standing or Standing.DONE).words}"
    return f"no open study in {storage.masked}; `hpsearch submit` queues one"
