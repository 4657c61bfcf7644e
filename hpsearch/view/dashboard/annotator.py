"""Keeps the annotations of the studies that somebody looks at, in one thread, rarely."""

from __future__ import annotations

import io
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from hpsearch.errors import HpsearchError
from hpsearch.search.jobs.analyse import essentials
from hpsearch.search.storage.overlay import annotated
from hpsearch.search.storage.storage import Storage
from hpsearch.search.study.catalog import open_numbered
from hpsearch.search.study.study import Study
from hpsearch.view.dashboard.annotations import NOTHING, Annotations, annotate, of_study, of_trial
from hpsearch.view.dashboard.auth import READING

REFRESH_SECONDS = 15.0
_SHARE = 50  # of the time that the refreshes may take
_PATIENCE_SECONDS = 3.0  # of a page that waits for a study's first annotations
_STUDY_PATH = re.compile(r"/api/studies/(\d+)/?")

_log = logging.getLogger(__name__)


class Annotator:
    """The notes, figures and files of a database's studies, made when they are looked at.

    A study's first ones are made at once. They are made anew if trials have begun or ended since,
    at most every 15 seconds and for at most a fiftieth of the time, whichever study it is. Nothing
    is written to the database: they live here.

    ``backend`` is the database's storage with all that on its studies, ``due`` when (by ``clock``,
    which returns monotonic seconds) annotations may be made anew.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        storage_options: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend: Any = annotated(storage, self)
        self._storage = storage
        self._storage_options = storage_options
        self._clock = clock
        self._made: dict[int, Annotations] = {}
        self._states: dict[int, object] = {}
        self._asked: dict[int, None] = {}  # in the order of asking
        self.due = 0.0
        self._changed = threading.Condition()
        self._answering = threading.local()

    def start(self) -> None:
        """Starts to work, in a thread that ends with the process."""
        threading.Thread(target=self._work, name="annotator", daemon=True).start()

    def is_showing(self) -> bool:
        """Whether this thread answers who only wants to look."""
        return getattr(self._answering, "reader", False)

    def shown(self, study_id: int, system_attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a study's system attributes with its annotations.

        Without their texts for who does not only look: a study that is renamed takes with it what
        is found here, and would keep it.
        """
        made = self._made.get(study_id, NOTHING)
        return made.over(system_attributes, texts=self.is_showing())

    def of_study(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a study's attributes in short."""
        return of_study(attributes)

    def of_trial(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a trial's attributes in short."""
        return of_trial(attributes)

    def watching(self, app: WSGIApplication) -> WSGIApplication:
        """Returns the app behind a filter that notices who looks, and at which study."""

        def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            is_reader = environ.get("REQUEST_METHOD") in READING
            found = _STUDY_PATH.fullmatch(environ.get("PATH_INFO", ""))
            if is_reader and found:
                self.look(int(found[1]))
            self._answering.reader = is_reader
            try:
                return app(environ, start_response)
            finally:
                self._answering.reader = False

        return filtered

    def look(self, study_id: int) -> None:
        """Notices that somebody looks at a study; waits a little for its first annotations."""
        with self._changed:
            self._asked[study_id] = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: study_id in self._made, _PATIENCE_SECONDS)

    def _work(self) -> None:
        while True:
            self.refresh(self._next())

    def _next(self) -> int:
        """Waits until a study's annotations may be made; returns its id."""
        with self._changed:
            while True:
                left = self.due - self._clock()
                fresh = [study_id for study_id in self._asked if study_id not in self._made]
                if fresh or (self._asked and left <= 0):
                    chosen = (fresh or list(self._asked))[0]
                    del self._asked[chosen]
                    return chosen
                self._changed.wait(left if self._asked else None)

    def refresh(self, study_id: int) -> None:
        """Makes a study's annotations anew if it has changed; whatever happens, the page stays."""
        began = self._clock()
        made = self._made.get(study_id, NOTHING)
        try:
            made = self._annotations(study_id)
        except HpsearchError as exc:
            _log.warning("study %d is not annotated: %s", study_id, exc)
        except Exception:  # a bug in a note must not take the trials off the screen
            _log.exception("study %d is not annotated", study_id)
        ended = self._clock()
        with self._changed:
            self._made[study_id] = made
            self.due = ended + max(REFRESH_SECONDS, _SHARE * (ended - began))
            self._changed.notify_all()

    def _annotations(self, study_id: int) -> Annotations:
        with self._storage.translate_errors():
            study = open_numbered(self._storage, study_id)
            if study is None:
                return NOTHING
            state = _state(study)
            if state != self._states.get(study_id):
                made = annotate(
                    essentials(study), study_id=study_id, storage_options=self._storage_options
                )
                self._made[study_id], self._states[study_id] = made, state
            return self._made[study_id]

    # What follows is what optuna-dashboard asks of a store of artifacts.

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Returns a file's content.

        Raises:
            FileNotFoundError: the trial has left the front.
        """
        for made in list(self._made.values()):
            if artifact_id in made.files:
                return io.BytesIO(made.files[artifact_id]().encode())
        raise FileNotFoundError(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keeps nothing: see :func:`hpsearch.view.dashboard.auth.without_uploads`."""
        raise PermissionError(artifact_id)

    def remove(self, artifact_id: str) -> None:
        """Removes nothing: a file is gone when its trial is."""


def _state(study: Study) -> object:
    """What annotations depend on, cheaply read: another state of the study, other annotations."""
    return study.name, dict(study.attributes), dict(study.tally())
