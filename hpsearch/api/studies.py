"""The studies of a database: open, list, read, change and browse them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hpsearch.core.analysis.pareto import ParetoFront, front_as_plain
from hpsearch.core.analysis.pruning_stats import StudySummary
from hpsearch.core.spec import StudySpec
from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import plural, translate_errors
from hpsearch.util.messages import messages_to

if TYPE_CHECKING:
    from hpsearch.core.analysis.study_analysis import StudyAnalysis
    from hpsearch.search.storage.storage import Storage
    from hpsearch.search.study.study import Study

_log = logging.getLogger(__name__)

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHandle:
    """An open study. Made by :func:`open_study` and :func:`hpsearch.run`.

    Each call reads the current state from the database, so a study can be read while workers run
    it. ``ending`` says how the run that returned it ended (``done``, ``timed out`` or ``stopped``);
    None after :func:`open_study`. As a context manager it closes the database on exit.
    """

    study: Study = field(repr=False)
    name: str
    ending: str | None = None
    # The command-line options that name its database.
    storage_options: Sequence[str] = field(default=(), repr=False)

    @property
    def spec(self) -> StudySpec:
        """The study's specification."""
        return self.study.spec

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the objectives."""
        return self.study.objectives

    def trials(self) -> list[TrialRecord]:
        """Returns all trials by number, whatever their state."""
        with translate_errors():
            return self.study.records()

    def trial(self, number: int) -> TrialRecord:
        """Returns one trial.

        Raises:
            StudyError: the study has no trial with this number.
        """
        with translate_errors():
            return self.study.record(number)

    def front(self) -> list[TrialRecord]:
        """Returns the non-dominated complete trials, cheapest first; empty without any."""
        return list(self.pareto_front().trials)

    def knee(self) -> TrialRecord | None:
        """Returns the best trade-off on the front; None while no trial is complete."""
        return self.pareto_front().knee_trial

    def pareto_front(self) -> ParetoFront:
        """Returns the front, cheapest first, with the number of its knee."""
        with translate_errors():
            found, imported = self.study.front(), self.study.tally()[State.IMPORTED]
        if imported:
            _log.info("%s left out: not trained by hpsearch", plural(imported, "imported trial"))
        return found

    def front_rows(self) -> list[dict[str, Any]]:
        """Returns the rows of ``front --json``: ``number, values, params, knee``."""
        return front_as_plain(self.pareto_front())

    def summary(self) -> StudySummary:
        """Returns the study's counts of trials, size of the front and hypervolume."""
        with translate_errors():
            return self.study.summary()

    def analysis(self) -> StudyAnalysis:
        """Returns the analysis of the study that reports and summaries show."""
        from hpsearch.search.jobs.analyse import analyse_study

        with translate_errors():
            return analyse_study(self.study)

    def report_text(self, kind: str) -> str:
        """Returns the report as ``html``, ``md`` or ``json``.

        Raises:
            HpsearchError: the kind is unknown.
        """
        from hpsearch.view.report.report import check_format, render

        # Before the analysis, which may take seconds.
        check_format(kind)
        return render(self.analysis(), kind, storage_options=self.storage_options)

    def report(self, path: str | Path | None = None, *, kind: str | None = None) -> Path:
        """Writes the report, atomically; returns its path.

        Args:
            path: the file; None: ``report-STUDY`` in the current folder, with a digest if that
                is not this study's report.
            kind: ``html`` (one page that opens offline), ``md``, or ``json`` (all the numbers);
                None: the suffix of the path, else ``html``.

        Raises:
            HpsearchError: the kind is unknown, the file cannot be written, or another study's
                report is there.
        """
        from hpsearch.view.report.report import (
            check_format,
            check_writable,
            default_path,
            format_of,
            write,
        )

        if kind is None:
            kind = format_of(None if path is None else Path(path))
        check_format(kind)
        if path is None:
            target = default_path(self.name, self.study.created, suffix=f".{kind}")
        else:
            target = Path(path)
        check_writable(target)  # before the analysis, which may take seconds
        write(self.report_text(kind), target)
        return target

    def export(self, folder: Path, *, force: bool = False) -> list[str]:
        """Writes trials and curves as CSV and Parquet, and the study file; returns the file names.

        Raises:
            HpsearchError: the folder exists and ``force`` is False, or cannot be written.
        """
        from hpsearch.search.jobs.export import export

        with translate_errors():
            return export(self.study, folder, force=force)

    def enqueue(self, settings: Sequence[str]) -> int:
        """Queues a configuration as the next trial; returns its number.

        Args:
            settings: texts ``NAME=VALUE``; other hyperparameters are sampled.

        Raises:
            HpsearchError: a name is unknown, or a value lies outside the search space.
        """
        from hpsearch.core.overrides import parse_in_space
        from hpsearch.search.storage.records import StudyStatus

        with translate_errors():
            number = self.study.enqueue(parse_in_space(self.spec.space, settings))
            is_done = self.study.status() is StudyStatus.DONE
        if is_done:
            _log.info(
                "queued as trial %s, but the budget of %s is used up; run the study with a larger"
                " --trials",
                number,
                plural(self.spec.search.trials, "trial"),
            )
        else:
            _log.info("queued as trial %s; the next worker of %r runs it first", number, self.name)
        return number

    def stop(self) -> None:
        """Asks all workers of the study to end after their current trial."""
        from hpsearch.search.storage.records import StudyStatus

        with translate_errors():
            status = self.study.status()
            if status in (StudyStatus.DONE, StudyStatus.USED_UP):
                _log.info("study %r %s: there is nothing to stop", self.name, status.words)
                return
            self.study.request_stop()
            is_running = self.study.tally()[State.RUNNING] > 0
        effect = "stops after the running trial" if is_running else "is stopped"
        _log.info("study %r %s; `hpsearch run` resumes it", self.name, effect)

    def delete(self) -> None:
        """Deletes the study with all its trials and checkpoints.

        Raises:
            StudyError: a worker is running one of its trials.
        """
        from hpsearch.search.study import catalog

        with translate_errors():
            catalog.delete(self.study.storage, self.study)

    def close(self) -> None:
        """Closes the connection to the database; values returned before stay valid."""
        self.study.storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_study(
    name: str | None = None, *, storage: str | None = None, notify: Notify | None = None
) -> StudyHandle:
    """Opens an existing study.

    Args:
        name: the study's name; None: the only one, or the newest.
        storage: an SQLite file or a URL; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        notify: called with each message for the user; None: they are only logged.

    Raises:
        StudyError: the database holds no study of this name, or none at all.
        StorageError: the database does not exist or cannot be read.
    """
    from hpsearch.search.study import catalog

    with translate_errors(), messages_to(notify):
        opened = open_database(storage)
        with opened.closed_on_error():
            return handle_of(catalog.open_study(opened, name), storage=storage)


def handle_of(study: Study, *, storage: str | None) -> StudyHandle:
    """Returns the handle of a study whose database the user named ``storage``."""
    from hpsearch.search.storage.url import typed_again

    storage_options = typed_again(storage, masked=study.storage.masked)
    return StudyHandle(study=study, name=study.name, storage_options=storage_options)


def open_database(storage: str | None) -> Storage:
    """Opens an existing database: the named one, or the default.

    Raises:
        StorageError: the database does not exist or cannot be read.
    """
    from hpsearch.search.storage.storage import open_storage
    from hpsearch.search.storage.url import named_or_default

    return open_storage(
        named_or_default(storage),
        create=False,
        artifacts=os.environ.get("HPSEARCH_ARTIFACTS") or None,
    )


def list_studies(storage: str | None = None) -> list[StudySummary]:
    """Returns a summary of each study of a database, oldest first.

    Raises:
        StorageError: the database does not exist or cannot be read.
    """
    from hpsearch.search.study.catalog import summaries

    with translate_errors(), closing(open_database(storage)) as opened:
        return summaries(opened)


def json_text(result: object, *, ascii_only: bool = False) -> str:
    """Returns a result of this package as JSON text; NaN and infinity become null."""
    from hpsearch.core.analysis.study_analysis import as_plain
    from hpsearch.view.format import visible_json

    return visible_json(as_plain(result), ascii_only=ascii_only)


def dashboard(
    storage: str | None = None,
    *,
    host: str,
    port: int,
    writable: bool,
    user: str | None,
    password_of: Callable[[str], str],
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serves the dashboard until Ctrl-C or SIGTERM; logs its URL.

    Args:
        storage: the database; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        host: the address to listen on.
        port: 0 to 65535; 0 picks a free port.
        writable: allow changes to the studies.
        user: the user name of the login; None: no login.
        password_of: called with the user name; returns the password.
        allowed_hosts: other hosts under which browsers reach it, as ``search.example.org``.

    Raises:
        HpsearchError: the address cannot be used, or is reachable by others without a login.
    """
    from hpsearch.search.storage.url import named_or_default, typed_again
    from hpsearch.view.dashboard.auth import HostAndPort, Login
    from hpsearch.view.dashboard.server import ending_at_sigterm, open_with_retry, serve

    with ending_at_sigterm():
        named = [HostAndPort.parse_option(text) for text in allowed_hosts]
        login = None if user is None else Login(user=user, password=password_of(user))
        with closing(open_with_retry(named_or_default(storage))) as opened:
            serve(
                opened,
                host=host,
                port=port,
                writable=writable,
                login=login,
                allowed_hosts=named,
                storage_options=typed_again(storage, masked=opened.masked),
                ready=lambda url: _log.info(
                    "dashboard of %s at %s (Ctrl-C ends it)", opened.masked, url
                ),
            )
