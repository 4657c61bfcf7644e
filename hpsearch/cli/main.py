"""The command line: each command parses its options, calls one function of api, and prints."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Unpack

import typer
from typer.core import TyperGroup

from hpsearch.api.run import RunOptions
from hpsearch.cli import inspect_commands, model_commands, options
from hpsearch.cli.output import (
    OutputError,
    command_messages,
    confirmed,
    dashboard_password,
    display,
    flush_results,
    guard_streams,
    log_details,
    lost_results,
    messages,
    note,
    preparing,
    watching,
)
from hpsearch.errors import HpsearchError, expected_of, translate_errors

if TYPE_CHECKING:
    from hpsearch.api.studies import StudyHandle


_GC_THRESHOLD = 10_000  # objects


class _Commands(TyperGroup):
    """The commands; prints a line when Ctrl-C ends one, about which Typer is silent."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="hpsearch",
    cls=_Commands,
    help="Searches CNNs for your images: the Pareto front of accuracy against training time.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(inspect_commands.app)
app.add_typer(model_commands.app)


@app.callback()
def _options(
    context: typer.Context, verbose: options.Verbose = False, version: options.Version = False
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    if verbose:
        log_details()


@app.command(short_help="Search until the study holds its total of trials.")
@options.expand_keywords(options.RunKeywords, RunOptions)
def run(
    context: typer.Context,
    study_file: options.StudyFile = None,
    **keywords: Unpack[options.RunKeywords],
) -> None:
    """Search until the study holds its total of trials; the same command resumes.

    Example: hpsearch run --trials 100
    """
    from hpsearch.api.run import INTERRUPTED, search

    study = search(
        study_file,
        RunOptions(**keywords),
        preparing=preparing(),
        watching=watching,
        finished=lambda study: _print_end(study, again=_typed_options(context)),
        exits=True,
    )
    if study.ending == INTERRUPTED:
        raise typer.Exit(130)


@app.command(short_help="Run trials of an existing study, or of every open one.")
def worker(
    study: options.Study = None,
    storage: options.Storage = None,
    forever: options.Forever = False,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    mixed_hardware: options.MixedHardware = False,
    artifacts: options.Artifacts = None,
    allow_code: options.AllowCode = False,
) -> None:
    """Run trials of an existing study, or of every open one, oldest first.

    Example: hpsearch worker --storage postgresql://ann@db/hpsearch --forever
    """
    from hpsearch.api.run import INTERRUPTED, work

    run_options = RunOptions(
        study=study,
        storage=storage,
        dataset=dataset,
        data_dir=data_dir,
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
        artifacts=artifacts,
    )
    ending = work(run_options, forever=forever, allow_code=allow_code, watching=watching)
    if ending == INTERRUPTED:
        raise typer.Exit(130)


@app.command(short_help="Queue a study for workers.")
def submit(
    study_file: options.StudyFile = None,
    trials: options.Trials = None,
    study: options.Study = None,
    storage: options.Storage = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
) -> None:
    """Queue a study for workers that run now or later; returns at once.

    Example: hpsearch submit studies/depth.toml --trials 200
    """
    from hpsearch.api import run as api

    run_options = RunOptions(
        trials=trials, study=study, storage=storage, dataset=dataset, data_dir=data_dir
    )
    api.submit(study_file, run_options)


@app.command(short_help="Queue a configuration to be tried next.")
@options.named_study(required=True)
def enqueue(
    set_: options.Settings, study: str | None = None, storage: options.Storage = None
) -> None:
    """Queue a configuration to be tried next; hyperparameters not set are sampled.

    Example: hpsearch enqueue mnist5k --set learning_rate=0.01 --set n_blocks=3
    """
    from hpsearch.api.studies import open_study

    with open_study(study, storage=storage) as opened:
        opened.enqueue(set_)


@app.command(short_help="Ask all workers of a study to end after their trial.")
@options.named_study()
def stop(study: str | None = None, storage: options.Storage = None) -> None:
    """Ask all workers of a study to end after their trial; `hpsearch run` resumes it.

    Example: hpsearch stop mnist5k
    """
    from hpsearch.api.studies import open_study

    with open_study(study, storage=storage) as opened:
        opened.stop()


@app.command()
@options.named_study(required=True)
def delete(
    study: str | None = None, storage: options.Storage = None, yes: options.Yes = False
) -> None:
    """Delete a study with all its trials; asks first.

    Example: hpsearch delete mnist5k
    """
    from hpsearch.api.studies import open_study

    with open_study(study, storage=storage) as opened:
        question = f"Delete study {opened.name!r} with its {len(opened.trials())} trials?"
        if not yes and not confirmed(question):
            note("nothing was deleted")
            return
        opened.delete()
    note(f"study {opened.name!r} is deleted")


@app.command(short_help="Browse the database's studies in a browser.")
def dashboard(
    storage: options.Storage = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    writable: options.Writable = False,
    auth: options.Auth = None,
    allowed_host: options.AllowedHosts = None,
) -> None:
    """Browse the database's studies in a browser; read-only unless --writable is given.

    Example: hpsearch dashboard --port 8080
    """
    from hpsearch.api import studies as api

    api.dashboard(
        storage,
        host=host,
        port=port,
        writable=writable,
        user=auth,
        password_of=dashboard_password,
        allowed_hosts=allowed_host or (),
    )


for _typer in (app, inspect_commands.app, model_commands.app):
    for _command in _typer.registered_commands:
        if _command.callback is not None:
            _command.callback = options.checked(_command.callback)


def _typed_options(context: typer.Context) -> list[str]:
    """The study file and the options given on the command line, to print the command again.

    Values from the environment are omitted: they still apply.
    """
    words: list[str] = []
    # The printed command to resume sets these itself, or omits them.
    omitted = {"trials", "study", "storage", "timeout"}
    for parameter in context.command.params:
        name = str(parameter.name)
        value, source = context.params[name], context.get_parameter_source(name)
        is_typed = source is not None and source.name == "COMMANDLINE"
        if name in omitted or not is_typed or value in (None, parameter.default):
            continue
        words += [parameter.opts[0]] if parameter.param_type_name == "option" else []
        words += [str(value)] if value is not True else []
    return words


def _print_end(study: StudyHandle, *, again: list[str]) -> None:
    """Writes the report and prints the front, the savings by pruning and the next commands."""
    from hpsearch.view.terminal.study_tables import ending_view, write_report

    analysis = study.analysis()  # once, for the report and for the screen
    named = study.storage_options
    report = write_report(analysis, storage_options=named)
    ending = str(study.ending)
    display(ending_view(analysis, ending, storage_options=named, again=again, report=report))


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits.

    0 success, 1 a bug, 2 invalid input, 74 a result that cannot be written, 130 Ctrl-C.
    """
    # Pillow warns about damage that it can live with, in lines for programmers.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with command_messages():
        code = _run_command(arguments)
        code = flush_results(code if isinstance(code, int) else 0)
    sys.exit(code)


def _run_command(arguments: list[str] | None) -> Any:
    command = typer.main.get_command(app)
    try:
        with translate_errors():
            # Not standalone: errors arrive here, and are printed in the format of this program.
            return command.main(arguments, prog_name="hpsearch", standalone_mode=False)
    except HpsearchError as exc:
        return _print_error(str(exc))
    except (KeyboardInterrupt, typer.Abort):
        note("interrupted")
        return 130
    except OutputError as exc:
        return lost_results(exc)
    except Exception as exc:
        if not hasattr(exc, "format_message"):  # not an error of the option parser
            raise
        # Typer quotes pydantic, whose message lacks the value found.
        if (problems := getattr(exc.__context__, "errors", None)) is not None:
            problem = problems()[0]
            exc.message = (  # type: ignore[attr-defined]
                f"found {problem['input']!r}, expected {expected_of(problem)}"
            )
        path = getattr(getattr(exc, "ctx", None), "command_path", "hpsearch")
        return _print_error(f"{exc.format_message()} (see `{path} --help`)")


def _print_error(message: str) -> int:
    if messages.level <= logging.DEBUG:  # --verbose
        note(traceback.format_exc())
    note("hpsearch: " + " ".join(message.split()))
    return 2


def enter() -> None:
    """The console script: :func:`main`, then a fast exit.

    The interpreter's orderly shutdown takes one to two seconds once torch is imported.
    """
    guard_streams()
    # What imports allocate stays: with Python's 700, collections are a tenth of a short command.
    gc.set_threshold(_GC_THRESHOLD)
    try:
        main()
    except SystemExit as exc:
        if "torch" not in sys.modules:
            raise
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, OutputError):
                stream.flush()
        os._exit(exc.code if isinstance(exc.code, int) else 1)
