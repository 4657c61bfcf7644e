"""A worker's life: from one open study of the database to the next."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from hpsearch.core.spec import to_json
from hpsearch.errors import AwayError, DataError, DeviceError, SpecError, StorageError, StudyError
from hpsearch.search.storage.retry import AWAY_SECONDS
from hpsearch.search.storage.storage import Storage, open_storage
from hpsearch.search.study import catalog
from hpsearch.search.study.status import StudyStatus
from hpsearch.search.study.study import Study
from hpsearch.search.worker import launch
from hpsearch.search.worker.heartbeat import touch_alive_file
from hpsearch.search.worker.launch import WorkerOptions
from hpsearch.search.worker.observer import Observer
from hpsearch.search.worker.work_loop import StopSignal, close

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0
_REST = 10  # times what a look for an open study took is waited until the next
_AGAIN_SECONDS = 300.0  # until a study is tried again whose images or code were missing

View = Callable[[Study], AbstractContextManager[Observer]]


def serve(
    options: WorkerOptions,
    *,
    name: str | None,
    forever: bool,
    dataset: str | None,
    stop: StopSignal,
    view: View,
) -> StudyStatus:
    """Works on the named study, else on every open one, oldest first.

    A study whose last trials others run is left to them while another one is open.

    Args:
        options: where it runs; its storage must be there, unless ``forever`` waits for it.
        name: the study, or None.
        forever: wait for the next open study instead of ending, and for a database that is away.
        dataset: where the data lies here, if not where the study has it.
        stop: says when to end.
        view: shows a study while it is worked on.

    Raises:
        HpsearchError: the study cannot be worked on from here. One of several studies, or of
            those that may come, is left alone instead, and the person told why: for a while, or
            for good where the hardware is not the study's.
    """
    server = _Server(
        options=options,
        name=name,
        forever=forever,
        dataset=dataset,
        stop=stop,
        view=view,
    )
    ending = None
    while ending is None and not stop():
        try:
            ending = server.work()
        except StorageError as exc:
            if not forever:
                raise
            _log.info("%s; it is waited for", exc)
            stop.wait(_WAIT_SECONDS)
    return ending or StudyStatus.INTERRUPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """What :func:`serve` was given, and the studies that it leaves alone."""

    options: WorkerOptions
    name: str | None
    forever: bool
    dataset: str | None
    stop: StopSignal
    view: View
    # Studies as they were made and steered, and until when (monotonic seconds).
    left_alone: dict[tuple[datetime, str], float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    @property
    def only_one(self) -> bool:
        """Whether it ends with the study that was named."""
        return self.name is not None and not self.forever

    def work(self) -> StudyStatus | None:
        """Opens the database and works on what is open in it; None if asked to stop meanwhile."""
        storage = self._opened()
        while storage is not None and not self.stop():
            touch_alive_file()
            began = time.monotonic()
            studies = self._open_studies(storage)
            study = next((study for study, standing in studies if standing is None), None)
            if self.name is not None and studies:
                study = studies[0][0]
            if study is not None:
                ending = self._work_on(study)
                if ending is not None:
                    return ending
                continue
            if not studies and not self.forever:
                rest = f"nothing else is open in {storage.masked}"
                self._tell(rest if self.left_alone else _nothing_open(storage, self.name))
                return StudyStatus.DONE
            self.stop.wait(max(_WAIT_SECONDS, _REST * (time.monotonic() - began)))
        return None

    def _opened(self) -> Storage | None:
        """Opens the database; a command that started this worker had it open, so it comes back.

        Raises:
            StorageError: as :func:`hpsearch.search.storage.storage.open_storage`.
        """
        options, deadline, told = self.options, time.monotonic() + AWAY_SECONDS, ""
        while not self.stop():
            try:
                return open_storage(
                    options.storage,
                    create=self.forever,
                    artifacts=options.artifacts,
                    gives_up=self.stop.gives_up,
                )
            except AwayError as exc:
                is_child = self.stop.parent is not None and time.monotonic() < deadline
                if not self.forever and not is_child:
                    raise
                if str(exc) != told:
                    told = str(exc)
                    _log.info("%s; it is waited for", told)
            self.stop.wait(_WAIT_SECONDS)
        return None

    def _open_studies(self, storage: Storage) -> list[tuple[Study, StudyStatus | None]]:
        """The studies to work on, oldest first, and why no worker would get a trial of one now."""
        name = self.name
        if self.only_one:
            catalog.open_study(storage, name)  # or says which there are
        return [
            (study, standing)
            for study, standing in catalog.open_studies(storage)
            if name in (None, study.name) and not self._is_left_alone(study)
        ]

    def _is_left_alone(self, study: Study) -> bool:
        return time.monotonic() < self.left_alone.get(_as_it_is(study), 0.0)

    def _work_on(self, study: Study) -> StudyStatus | None:
        """Works on the study; returns how it ended if that ends the worker, too."""
        try:
            ending = self._run(study)
        except (DataError, DeviceError, SpecError, StudyError) as exc:
            if self.only_one:
                raise
            self._tell_once(f"study {study.name!r} is left alone: {exc}")
            until = math.inf if isinstance(exc, DeviceError) else time.monotonic() + _AGAIN_SECONDS
            self.left_alone[_as_it_is(study)] = until
            return None
        if ending in (StudyStatus.INTERRUPTED, StudyStatus.TIMED_OUT):
            return ending
        self._tell(f"study {study.name!r}: {ending.label}")
        return ending if self.only_one else None

    def _run(self, study: Study) -> StudyStatus:
        with self.stop.interrupting():  # it cannot poll
            prepared = launch.attach_worker(study, self.options, dataset=self.dataset)
        if prepared.study.storage.artifacts is None:
            self._tell(launch.NO_ARTIFACTS)
        with self.view(prepared.study) as observer:
            ending = launch.run_here(
                prepared, stop=self.stop, observer=observer, waits=self.name is not None
            )
        close(prepared.study, ending)
        return ending

    def _tell_once(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            _log.info(text)

    def _tell(self, text: str) -> None:
        """Says what the command that started this worker, if one did, says for all."""
        if self.stop.parent is None:
            _log.info(text)


def _as_it_is(study: Study) -> tuple[datetime, str]:
    return study.created, to_json(study.spec)


def _nothing_open(storage: Storage, name: str | None) -> str:
    if name is not None:
        standing = catalog.open_study(storage, name).status()
        return f"study {name!r} {(standing or StudyStatus.DONE).words}"
    return f"no open study in {storage.masked}; `hpsearch submit` queues one"
