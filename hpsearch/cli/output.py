"""What every command needs: the study it is about, and how it speaks to the person."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hpsearch.errors import HpsearchError, StudyError
from hpsearch.util.messages import MessageHandler

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpsearch.search.study.study import Study
    from hpsearch.search.worker.work_loop import StopSignal
    from hpsearch.view.terminal.live import LiveView, PlainLog

_UNBOUNDED = 100_000  # columns


def note(text: str) -> None:
    """Says a line on stderr."""
    typer.echo(text, err=True)


messages = MessageHandler(note)  # while a command runs, of the ``hpsearch`` logger


@contextmanager
def command_messages() -> Iterator[None]:
    """Prints what the package logs on stderr: INFO and above, with ``log_details`` everything."""
    logger, before = logging.getLogger("hpsearch"), logging.getLogger("hpsearch").level
    logger.setLevel(logging.INFO)
    logger.addHandler(messages)
    try:
        yield
    finally:
        logger.removeHandler(messages)
        logger.setLevel(before)
        messages.setLevel(logging.INFO)
        messages.setFormatter(None)


def log_details() -> None:
    """Prints debug messages too, each with its time and its logger."""
    logging.getLogger("hpsearch").setLevel(logging.DEBUG)
    messages.setLevel(logging.DEBUG)
    messages.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))


@contextmanager
def watching(study: Study, *, stop: StopSignal | None = None) -> Iterator[LiveView | PlainLog]:
    """Shows a study on stderr while it is worked on, with messages above the live view."""
    from rich.console import Console

    from hpsearch.view.terminal.live import watch

    stopping = (lambda: bool(stop.signals)) if stop is not None else (lambda: False)
    with (
        watch(Console(stderr=True), study, stopping=stopping) as view,
        messages.showing(view.show_message),
    ):
        yield view


def show(renderable: RenderableType) -> None:
    """Prints a result on stdout; into a file or a pipe with lines as long as they need be.

    What is cut or folded there cannot be searched; COLUMNS, where it is set, is still minded. A
    table's lines are all as long as its longest one: there, the blanks at their ends are left out.
    """
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(renderable, soft_wrap=True)
        return
    console = Console(width=None if "COLUMNS" in os.environ else _UNBOUNDED)
    with console.capture() as captured:
        console.print(renderable, soft_wrap=True)
    lines = captured.get().split("\n")
    sys.stdout.write("\n".join(line.rstrip(" ") for line in lines))


def print_json(value: Any) -> None:
    """Prints a result on stdout, as JSON; what is not finite as null."""
    from hpsearch.core.analysis.study_analysis import as_plain

    typer.echo(json.dumps(as_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def confirmed(question: str) -> bool:
    """Asks on stderr; where nobody can answer, says how to do without."""
    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        typer.echo(err=True)
        raise HpsearchError("found no answer on stdin, expected y or n; pass --yes not to be asked")
    return answer.strip().lower() in ("y", "yes")


def storage_text(storage: str | None) -> str:
    """Returns the database that was named, or the default one."""
    from hpsearch.search.storage.url import named_or_default

    return named_or_default(storage)


def storage_options(study: Study, storage: str | None) -> list[str]:
    """Returns the options that name the study's database, as commands to type next need them.

    None where the default or the environment names it. A password is masked.
    """
    from hpsearch.search.storage.url import typed_again

    return typed_again(storage, masked=study.storage.masked)


def typed(command: str, study: Study, storage: str | None) -> str:
    """Returns a command about that very study, whatever else its database holds."""
    return shlex.join(
        ["hpsearch", command, "--study", study.name, *storage_options(study, storage)]
    )


def one_name(study: str | None, named: str | None) -> str | None:
    """Returns the study that was given as the argument or by ``--study``; None if in neither way.

    Raises:
        StudyError: in both ways, and differently.
    """
    if study is not None and named not in (None, study):
        raise StudyError(f"found the studies {study!r} and {named!r}, expected one; keep one")
    return named if study is None else study


def the_name(study: str | None, named: str | None) -> str:
    """Returns the same for a command that takes no study unasked.

    Raises:
        StudyError: it was not named, or in both ways and differently.
    """
    name = one_name(study, named)
    if name is None:
        raise StudyError("found no study named, expected one; `hpsearch list` tells the names")
    return name


def open_study(study: str | None, storage: str | None) -> Study:
    """Opens a study: the named one, else the only one, else the newest, which is told."""
    from hpsearch.api.run import open_database
    from hpsearch.search.study import catalog

    return catalog.open_study(open_database(storage), study)


def dashboard_password(user: str) -> str:
    """Returns the dashboard's password: from the environment, else from a file, else as typed.

    Raises:
        HpsearchError: it is nowhere, the file cannot be read, or nobody is there to type it.
    """
    named, path = (os.environ.get(f"HPSEARCH_DASHBOARD_PASSWORD{part}") for part in ("", "_FILE"))
    if named:
        return named
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise HpsearchError(
                f"HPSEARCH_DASHBOARD_PASSWORD_FILE: cannot read {path} ({exc}); expected a file"
                " that holds the password and nothing else"
            ) from exc
    if not sys.stdin.isatty():
        raise HpsearchError(
            "found no password for --auth, expected one in HPSEARCH_DASHBOARD_PASSWORD; set it,"
            " or start the dashboard in a terminal to be asked"
        )
    try:
        return getpass.getpass(f"Password for {user}: ")
    except EOFError as exc:
        raise HpsearchError("found no password for --auth, expected one; type it") from exc
