"""Output of the commands: results on stdout; messages, live view and questions on stderr."""

from __future__ import annotations

import codecs
import getpass
import io
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from hpsearch.errors import HpsearchError
from hpsearch.util.messages import MessageHandler
from hpsearch.view.format import encodable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpsearch.api.studies import StudyHandle
    from hpsearch.view.terminal.live import LiveView, PlainLog

_UNBOUNDED = 100_000  # columns
EX_IOERR = 74  # the exit code that sysexits.h has for an error of input or output


class OutputError(Exception):
    """A result cannot be written to stdout; its cause is the OSError."""


class _ResultStream(io.FileIO):
    """Writes to stdout; its errors differ from those of any other file."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as exc:
            raise OutputError from exc


class _MessageStream(io.FileIO):
    """Writes to stderr; drops what cannot be written, as work is not lost with its messages."""

    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            return super().write(data)
        return len(data)


def guard_streams() -> None:
    """Replaces stdout and stderr, either of which may be closed or full; for a process's start."""
    # A file that is opened later must not get the number of a closed stream, and its output.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    if os.name != "posix":  # a Windows console is no file
        return
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    results = io.BufferedWriter(_ResultStream(1, "w", closefd=False))
    sys.stdout = _text_stream(results, like=sys.stdout)
    sys.stderr = _text_stream(_MessageStream(2, "w", closefd=False), like=sys.stderr)


def _text_stream(buffer: Any, *, like: TextIO | None) -> TextIO:
    is_raw = isinstance(buffer, io.FileIO)
    return io.TextIOWrapper(
        buffer,
        encoding="utf-8" if like is None else like.encoding,
        errors="backslashreplace",
        line_buffering=buffer.isatty(),
        write_through=is_raw,
    )


def flush_results(code: int) -> int:
    """Sends the results on their way; returns the exit code of a command that ended with ``code``.

    A reader that is gone, as of ``| head``, wants no more. Any other error is printed.
    """
    try:
        sys.stdout.flush()
    except OutputError as exc:
        lost = lost_results(exc)  # also of a command that failed: the buffer must not be kept
        return code or lost
    return code


def lost_results(error: OutputError) -> int:
    """Prints why results were not written; returns the exit code, 0 if their reader is gone."""
    # The rest of the buffer is discarded at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error.__cause__, BrokenPipeError):
        return 0
    reason = getattr(error.__cause__, "strerror", None)
    note(
        f"hpsearch: cannot write the result to stdout ({reason}); the command has done its work,"
        " only this output is lost: redirect it to a place that takes it"
    )
    return EX_IOERR


def note(text: str) -> None:
    """Prints a line on stderr."""
    typer.echo(_printable(text, sys.stderr), err=True)


def write_document(text: str) -> None:
    """Prints a document on stdout, in UTF-8 whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode() + b"\n")


def _printable(text: str, stream: TextIO) -> str:
    return encodable(text, stream.encoding or "utf-8")


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

    from hpsearch.view.terminal.trial_tables import EncodingSafe

    renderable = EncodingSafe(renderable)
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

    is_unicode = codecs.lookup(sys.stdout.encoding or "utf-8").name.startswith("utf")
    sys.stdout.write(json_text(value, ascii_only=not is_unicode) + "\n")


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
    typer.echo(_printable(f"{question} [y/N]: ", sys.stderr), nl=False, err=True)
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
