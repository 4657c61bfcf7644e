"""Makes the annotations of studies that users view, in one thread and at a limited rate."""

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
from hpsearch.view.dashboard.annotations import NOTHING, Annotations, annotate, of_study, of_trial
from hpsearch.view.dashboard.auth import READING

REFRESH_SECONDS = 15.0
_SHARE = 50  # refreshes take at most a fiftieth of the time
_WAIT_SECONDS = 3.0  # how long a request waits for the first annotations of a study
_STUDY_PATH = re.compile(r"/api/studies/(\d+)/?")

_log = logging.getLogger(__name__)


class Annotator:
    """The notes, figures and files of the studies in a database, made when users view them.

    The first annotations of a study are made at once. They are updated after trials have started
    or ended, at most every 15 seconds and for at most a fiftieth of the time over all studies.
    They stay in memory; nothing is written to the database.

    ``backend`` is the storage of the database with the annotations added. ``due`` is the time of
    the next permitted update, by ``clock``, which returns monotonic seconds.
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
        self._requested: dict[int, None] = {}  # an ordered set
        self.due = 0.0
        self._changed = threading.Condition()
        self._answering = threading.local()

    def start(self) -> None:
        """Starts the thread, which ends with the process."""
        threading.Thread(target=self._work, name="annotator", daemon=True).start()

    def is_showing(self) -> bool:
        """Whether this thread answers a request that only reads."""
        return getattr(self._answering, "reader", False)

    def shown(self, study_id: int, system_attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the system attributes of a study with its annotations.

        Requests that write get no texts of notes: renaming a study copies its attributes, which
        would store the generated notes in the database.
        """
        made = self._made.get(study_id, NOTHING)
        return made.over(system_attributes, texts=self.is_showing())

    of_study, of_trial = staticmethod(of_study), staticmethod(of_trial)

    def watching(self, app: WSGIApplication) -> WSGIApplication:
        """Returns the app behind a filter that registers which study a request reads."""

        def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            is_reader = environ.get("REQUEST_METHOD") in READING
            study = _STUDY_PATH.fullmatch(environ.get("PATH_INFO", ""))
            if is_reader and study:
                self.look(int(study[1]))
            self._answering.reader = is_reader
            try:
                return app(environ, start_response)
            finally:
                self._answering.reader = False

        return filtered

    def look(self, study_id: int) -> None:
        """Requests the annotations of a study; waits a little for its first ones."""
        with self._changed:
            self._requested[study_id] = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: study_id in self._made, _WAIT_SECONDS)

    def _work(self) -> None:
        while True:
            self.refresh(self._next())

    def _next(self) -> int:
        """Waits until annotations may be made; returns the id of the study to annotate."""
        with self._changed:
            while True:
                left = self.due - self._clock()
                # A study without annotations is annotated at once, and before the others.
                fresh = [study_id for study_id in self._requested if study_id not in self._made]
                if fresh or (self._requested and left <= 0):
                    chosen = (fresh or list(self._requested))[0]
                    del self._requested[chosen]
                    return chosen
                self._changed.wait(left if self._requested else None)

    def refresh(self, study_id: int) -> None:
        """Updates the annotations of a study if it has changed; an error never breaks the page."""
        began = self._clock()
        made = self._made.get(study_id, NOTHING)
        try:
            made = self._annotations(study_id)
        except HpsearchError as exc:
            _log.warning("study %d is not annotated: %s", study_id, exc)
        except Exception:  # a bug in a note must not hide the trials
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
            # Cheap to read, and different whenever the annotations may differ.
            state = study.name, dict(study.attributes), dict(study.tally())
            if state != self._states.get(study_id):
                made = annotate(
                    essentials(study), study_id=study_id, storage_options=self._storage_options
                )
                self._made[study_id], self._states[study_id] = made, state
            return self._made[study_id]

    # The interface of an artifact store, as optuna-dashboard uses it.

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Returns the content of a file.

        Raises:
            FileNotFoundError: the trial has left the front.
        """
        for made in list(self._made.values()):
            if artifact_id in made.files:
                return io.BytesIO(made.files[artifact_id]().encode())
        raise FileNotFoundError(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuses uploads: see :func:`hpsearch.view.dashboard.auth.without_uploads`."""
        raise PermissionError(artifact_id)

    def remove(self, artifact_id: str) -> None:
        """Does nothing: a file disappears together with its trial."""
