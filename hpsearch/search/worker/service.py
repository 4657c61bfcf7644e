"""The worker command: works on one open study of the database after another."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import datetime

from hpsearch.core.spec import to_json
from hpsearch.errors import (
    AwayError,
    DataError,
    DeviceError,
    MovedError,
    SpecError,
    StorageError,
    StudyError,
)
from hpsearch.search.storage.records import StudyStatus
from hpsearch.search.storage.retry import AWAY_SECONDS
from hpsearch.search.storage.storage import Storage, open_storage
from hpsearch.search.storage.url import parse_url
from hpsearch.search.study import catalog
from hpsearch.search.study.study import Study
from hpsearch.search.worker import launch
from hpsearch.search.worker.launch import WorkerOptions
from hpsearch.search.worker.work_loop import Observer, StopSignal, close, touch_alive_file

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0
_WAIT_FACTOR = 10  # wait for at least this many times the duration of the last query
_RETRY_SECONDS = 300.0  # until a study whose images or code were missing is tried again

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

    Leaves a study whose last trials are running elsewhere while another one is open. With
    ``forever``, waits for the next open study instead of ending, and for a missing or unreachable
    database. ``dataset`` is the location of the data on this machine, if not that of the study;
    ``view`` shows a study while it is worked on.

    Raises:
        HpsearchError: the named study cannot be worked on from here. If there may be others, the
            study is skipped instead and the reason logged: for five minutes, or for good if its
            hardware differs.
    """
    parse_url(options.storage)  # a misspelt URL is refused: waiting would not correct it
    service = _Service(
        options=options, name=name, forever=forever, dataset=dataset, stop=stop, view=view
    )
    ending = None
    while ending is None and not stop():
        try:
            ending = service.work()
        except StorageError as exc:
            # Opening it again would create a new database in the place of one that was moved.
            if not forever or isinstance(exc, MovedError):
                raise
            _log.info("%s; waiting for it", exc)
            stop.wait(_WAIT_SECONDS)
    return ending or StudyStatus.INTERRUPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """The arguments of :func:`serve`, and the studies that it skips."""

    options: WorkerOptions
    name: str | None
    forever: bool
    dataset: str | None
    stop: StopSignal
    view: View
    # Until when to skip a study, in monotonic seconds; a study that is changed is tried again.
    skipped: dict[tuple[datetime, str], float] = field(default_factory=dict)
    logged: set[str] = field(default_factory=set)

    @property
    def is_single(self) -> bool:
        """Whether the worker ends with the named study."""
        return self.name is not None and not self.forever

    def work(self) -> StudyStatus | None:
        """Opens the database and works on its open studies; None if asked to stop meanwhile."""
        storage = self._open_storage()
        if storage is None:
            return None
        with closing(storage):
            return self._work_in(storage)

    def _work_in(self, storage: Storage) -> StudyStatus | None:
        while not self.stop():
            touch_alive_file()
            began = time.monotonic()
            studies = self._open_studies(storage)
            # Trials to start come before waiting for another study's last trials.
            study = next((study for study, status in studies if status is None), None)
            if self.name is not None and studies:
                study = studies[0][0]
            if study is not None:
                ending = self._work_on(study)
                if ending is not None:
                    return ending
                continue
            if not studies and not self.forever:
                message = f"no open study in {storage.masked}; queue one with `hpsearch submit`"
                if names := catalog.study_names(storage):
                    newest = catalog.open_study(storage, names[-1])
                    why = (newest.status() or StudyStatus.DONE).words
                    which = "" if len(names) == 1 else f", the newest of {len(names)},"
                    message = f"no open study in {storage.masked}: {newest.name!r}{which} {why}"
                if self.skipped:
                    message = f"no other study is open in {storage.masked}"
                elif self.name is not None:
                    status = catalog.open_study(storage, self.name).status() or StudyStatus.DONE
                    message = f"study {self.name!r} {status.words}"
                self._log(message)
                return StudyStatus.DONE
            self.stop.wait(max(_WAIT_SECONDS, _WAIT_FACTOR * (time.monotonic() - began)))
        return None

    def _open_storage(self) -> Storage | None:
        """Opens the database; waits for it if ``forever``, or if the parent process had it open.

        Raises:
            StorageError: the database is missing, not reachable or not an hpsearch database.
        """
        options, deadline, last_error = self.options, time.monotonic() + AWAY_SECONDS, ""
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
                if str(exc) != last_error:
                    last_error = str(exc)
                    _log.info("%s; waiting for it", last_error)
            self.stop.wait(_WAIT_SECONDS)
        return None

    def _open_studies(self, storage: Storage) -> list[tuple[Study, StudyStatus | None]]:
        """The studies to work on, oldest first, and why each gives workers no trial now, if so."""
        name = self.name
        if self.is_single:
            catalog.open_study(storage, name)  # raises if it is missing
        return [
            (study, status)
            for study, status in catalog.open_studies(storage, on_unreadable=self._log_once)
            if name in (None, study.name)
            and time.monotonic() >= self.skipped.get(_version(study), 0.0)
        ]

    def _work_on(self, study: Study) -> StudyStatus | None:
        """Works on the study; returns how the run ended if that also ends the worker."""
        try:
            with self.stop.interrupting():  # loading data never asks whether to stop
                study.storage.check_writable()
                if study.storage.artifacts is None:
                    self._log(launch.NO_ARTIFACTS)
                prepared = launch.attach_worker(
                    study, self.options, dataset=self.dataset, stop=self.stop
                )
            with self.view(prepared.study) as observer:
                ending = launch.run_here(
                    prepared, stop=self.stop, observer=observer, waits=self.name is not None
                )
            close(prepared.study, ending)
        except (DataError, DeviceError, SpecError, StudyError) as exc:
            if self.is_single:
                raise
            self._log_once(f"skipping study {study.name!r}: {exc}")
            until = math.inf if isinstance(exc, DeviceError) else time.monotonic() + _RETRY_SECONDS
            self.skipped[_version(study)] = until
            return None
        if ending in (StudyStatus.INTERRUPTED, StudyStatus.TIMED_OUT):
            return ending
        self._log(f"study {study.name!r}: {ending.label}")
        return ending if self.is_single else None

    def _log(self, message: str) -> None:
        """Logs the message unless another process started this worker and logs it for all."""
        if self.stop.parent is None:
            _log.info(message)

    def _log_once(self, message: str) -> None:
        if message not in self.logged:
            self.logged.add(message)
            _log.info(message)


def _version(study: Study) -> tuple[datetime, str]:
    """Identifies the study with its current settings."""
    return study.created, to_json(study.spec)
