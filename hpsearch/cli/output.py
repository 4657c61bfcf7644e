"""Output of the commands: results on stdout; messages, live view and questions on stderr."""

from __future__ import annotations

import getpass
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hpsearch.errors import HpsearchError
from hpsearch.util.messages import MessageHandler

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpsearch.api.studies import StudyHandle
    from hpsearch.view.terminal.live import LiveView, PlainLog

_UNBOUNDED = 100_000  # columns


def note(text: str) -> None:
    """Prints a line on stderr."""
    typer.echo(text, err=True)


messages = MessageHandler(note)  # installed in the ``hpsearch`` logger while a command runs


@contextmanager
def command_messages() -> Iterator[None]:
    """Prints log records of the package on stderr: INFO and above, or all after log_details."""
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
def preparing() -> Iterator[None]:
    """Shows on stderr that a study is being prepared, with messages above that line."""
    from rich.console import Console

    from hpsearch.view.terminal.live import getting_ready

    with getting_ready(Console(stderr=True)) as show_message, messages.showing(show_message):
        yield


@contextmanager
def watching(
    study: StudyHandle, stopping: Callable[[], bool] = lambda: False
) -> Iterator[LiveView | PlainLog]:
    """Shows a study on stderr while its trials run, with messages above the live view."""
    from rich.console import Console

    from hpsearch.view.terminal.live import watch

    with (
        watch(Console(stderr=True), study.study, stopping=stopping) as view,
        messages.showing(view.show_message),
    ):
        yield view


def display(renderable: RenderableType) -> None:
    """Prints a result on stdout; in a file or a pipe, lines are neither cut nor wrapped.

    A cut or wrapped line could not be searched. COLUMNS, if set, still limits the width, and
    the spaces that pad the lines of a table are removed.
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


def print_json(value: object) -> None:
    """Prints a result on stdout as JSON; NaN and infinity become null."""
    from hpsearch.api.studies import json_text

    typer.echo(json_text(value))


def print_result(value: Any, as_json: bool, view: Callable[[Any], RenderableType]) -> None:
    """Prints a result on stdout, as JSON or as its view."""
    if as_json:
        print_json(value)
    else:
        display(view(value))


def confirmed(question: str) -> bool:
    """Asks on stderr and reads the answer from stdin.

    Raises:
        HpsearchError: stdin has ended.
    """
    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        typer.echo(err=True)
        raise HpsearchError("found no answer on stdin, expected y or n; pass --yes to skip it")
    return answer.strip().lower() in ("y", "yes")


def command_line(command: str, study: StudyHandle) -> str:
    """Returns a command for this study, as it can be typed or pasted."""
    return shlex.join(["hpsearch", command, "--study", study.name, *study.storage_options])


def dashboard_password(user: str) -> str:
    """Returns the dashboard's password: from the environment, a file, or the terminal.

    Raises:
        HpsearchError: there is none, the file cannot be read, or stdin is not a terminal.
    """
    named, path = (os.environ.get(f"HPSEARCH_DASHBOARD_PASSWORD{part}") for part in ("", "_FILE"))
    if named:
        return named
    if path:
        try:
            return Path(os.path.expanduser(path)).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            raise HpsearchError(
                f"HPSEARCH_DASHBOARD_PASSWORD_FILE: cannot read {path} ({exc}); expected a file"
                " that holds only the password"
            ) from exc
    if not sys.stdin.isatty():
        raise HpsearchError(
            "found no password for --auth, expected one in HPSEARCH_DASHBOARD_PASSWORD; set it,"
            " or start the dashboard in a terminal, which prompts for it"
        )
    try:
        return getpass.getpass(f"Password for {user}: ")
    except EOFError as exc:
        raise HpsearchError("found no password for --auth, expected one; type it") from exc
