"""The command line: parse, call one function, print. Heavy imports wait for their command."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from hpsearch.cli import evaluation_commands, inspect_commands, model_commands, options
from hpsearch.cli.output import (
    command_messages,
    confirmed,
    dashboard_password,
    log_details,
    messages,
    note,
    one_name,
    open_study,
    storage_options,
    storage_text,
    the_name,
    watching,
)
from hpsearch.cli.output import show as display
from hpsearch.errors import HpsearchError, lost_database

if TYPE_CHECKING:
    from hpsearch.search.study.study import Study


class _Commands(TyperGroup):
    """The commands, which tell when Ctrl-C has ended one of them; Typer itself is silent."""

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
app.add_typer(evaluation_commands.app)
app.add_typer(model_commands.app)


@app.callback()
def _options(
    context: typer.Context,
    verbose: options.Verbose = False,
    version: options.Version = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    if verbose:
        log_details()


@app.command(short_help="Search until the study holds its total of trials.")
def run(
    context: typer.Context,
    study_file: options.StudyFile = None,
    trials: options.Trials = None,
    study: options.Name = None,
    storage: options.Url = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    epochs: options.Epochs = None,
    timeout: options.Timeout = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    sampler: options.Sampler = None,
    pruner: options.Pruner = None,
    objectives: options.Objectives = None,
    workers: options.Workers = None,
    gpus_per_worker: options.GpusPerWorker = None,
    mixed_hardware: options.MixedHardware = False,
    artifacts: options.Artifacts = None,
) -> None:
    """Search until the study holds its total of trials; the same command resumes.

    Example: hpsearch run --trials 100
    """
    from rich.console import Console

    from hpsearch.config import overrides_of, read_spec
    from hpsearch.search.study.status import StudyStatus
    from hpsearch.search.worker import launch
    from hpsearch.search.worker.work_loop import StopSignal, close
    from hpsearch.view.terminal.live import getting_ready

    spec = read_spec(study_file, overrides_of(context.params))  # params: every option by its word
    worker_options = launch.WorkerOptions(
        storage=storage_text(storage),
        data_dir=data_dir,
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
        artifacts=artifacts,
        code=study_file and study_file.parent,
        gpus_per_worker=gpus_per_worker,
    )
    stop = StopSignal()
    with stop.listening():
        with getting_ready(Console(stderr=True)) as tell, messages.showing(tell):
            prepared = launch.prepare(spec, worker_options, stop=stop)
        stop.start_clock(spec.search.timeout)
        with watching(prepared.study, stop=stop) as view:
            ending = launch.run(prepared, worker_options, stop=stop, watcher=view)
    _print_end(prepared.study, ending.label, storage=storage, again=_again(context))
    close(prepared.study, ending)
    if ending is StudyStatus.INTERRUPTED:
        raise typer.Exit(130)


@app.command(short_help="Work on a study that is there, or on every open one.")
def worker(
    study: options.Name = None,
    storage: options.Url = None,
    forever: options.Forever = False,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    mixed_hardware: options.MixedHardware = False,
    artifacts: options.Artifacts = None,
) -> None:
    """Work on a study that is there, or on every open one, oldest first.

    Example: hpsearch worker --storage postgresql://ann@db/hpsearch --forever
    """
    from hpsearch.search.study.status import StudyStatus
    from hpsearch.search.worker import launch
    from hpsearch.search.worker.observer import Observer
    from hpsearch.search.worker.service import serve
    from hpsearch.search.worker.work_loop import StopSignal

    worker_options = launch.WorkerOptions(
        storage=storage_text(storage),
        data_dir=data_dir,
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
        artifacts=artifacts,
    )
    stop = StopSignal.of_a_worker()
    with stop.listening():
        ending = serve(
            worker_options,
            name=study,
            forever=forever,
            dataset=dataset,
            stop=stop,
            # A command that started it shows the trials, and passes on its messages.
            view=lambda opened: (
                nullcontext(Observer()) if stop.parent else watching(opened, stop=stop)
            ),
        )
    if ending is StudyStatus.INTERRUPTED:
        raise typer.Exit(130)


@app.command(short_help="Queue a study for workers that are up, or will be.")
def submit(
    study_file: options.StudyFile = None,
    trials: options.Trials = None,
    study: options.Name = None,
    storage: options.Url = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
) -> None:
    """Queue a study for workers that are up, or will be; returns at once.

    Example: hpsearch submit studies/depth.toml --trials 200
    """
    from hpsearch.config import overrides_of, read_spec
    from hpsearch.search.study.status import StudyStatus
    from hpsearch.search.worker import launch

    words = {"study": study, "dataset": dataset, "trials": trials}
    spec = read_spec(study_file, overrides_of(words))
    worker_options = launch.WorkerOptions(
        storage=storage_text(storage), data_dir=data_dir, code=study_file and study_file.parent
    )
    submitted = launch.submit(spec, worker_options)
    total = submitted.spec.search.trials
    if submitted.status() is StudyStatus.DONE:
        note(f"study {submitted.name!r} has {total} trials already, nothing to do")
        return
    note(
        f"study {submitted.name!r} waits for workers in {submitted.storage.masked}, for"
        f" {total} trials; start one with `hpsearch worker`"
    )


@app.command(short_help="Queue a configuration that you want tried.")
def enqueue(
    set_: options.Settings,
    study: options.StudyName = None,
    named: options.Name = None,
    storage: options.Url = None,
) -> None:
    """Queue a configuration that you want tried; what is left open is sampled.

    Example: hpsearch enqueue mnist5k --set learning_rate=0.01 --set n_blocks=3
    """
    from hpsearch.core.overrides import parse_in_space

    opened = open_study(the_name(study, named), storage)
    number = opened.enqueue(parse_in_space(opened.spec.space, set_))
    note(f"queued as trial {number}; the next worker of {opened.name!r} takes it first")
    summary = opened.summary()
    if summary.complete + summary.pruned >= summary.target:
        note(f"the study has its {summary.target} trials; run it with a larger --trials")


@app.command(short_help="Ask every worker of a study to end after its trial.")
def stop(
    study: options.StudyChoice = None, named: options.Name = None, storage: options.Url = None
) -> None:
    """Ask every worker of a study to end after its trial; `hpsearch run` goes on.

    Example: hpsearch stop mnist5k
    """
    from hpsearch.core.trial import State
    from hpsearch.search.study.status import StudyStatus

    opened = open_study(one_name(study, named), storage)
    if (standing := opened.status()) in (StudyStatus.DONE, StudyStatus.USED_UP):
        note(f"study {opened.name!r} {standing.words}: there is nothing to stop")
        return
    opened.request_stop()
    now = "stops after the running trial" if opened.tally()[State.RUNNING] else "is stopped"
    note(f"study {opened.name!r} {now}; `hpsearch run` goes on with it")


@app.command()
def delete(
    study: options.StudyName = None,
    named: options.Name = None,
    storage: options.Url = None,
    yes: options.Yes = False,
) -> None:
    """Delete a study with all its trials; asks first.

    Example: hpsearch delete mnist5k
    """
    from hpsearch.search.study.catalog import delete as delete_study

    opened = open_study(the_name(study, named), storage)
    question = f"Delete study {opened.name!r} with its {len(opened.records())} trials?"
    if not yes and not confirmed(question):
        note("nothing was deleted")
        return
    delete_study(opened.storage, opened)
    note(f"study {opened.name!r} is deleted")


@app.command(short_help="Browse the database's studies in a browser.")
def dashboard(
    storage: options.Url = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    writable: options.Writable = False,
    auth: options.Auth = None,
) -> None:
    """Browse the database's studies in a browser; read-only unless told otherwise.

    Example: hpsearch dashboard --port 8080
    """
    from hpsearch.search.storage.url import typed_again
    from hpsearch.view.dashboard.auth import Login
    from hpsearch.view.dashboard.server import ending_at_sigterm, open_patiently, serve

    with ending_at_sigterm():
        login = auth if auth is None else Login(user=auth, password=dashboard_password(auth))
        opened = open_patiently(storage_text(storage))
        serve(
            opened,
            host=host,
            port=port,
            writable=writable,
            login=login,
            storage_options=typed_again(storage, masked=opened.masked),
            ready=lambda url: note(f"dashboard of {opened.masked} at {url} (Ctrl-C ends it)"),
        )


# The command to go on names these itself, or leaves them to be said anew.
_NOT_AGAIN = {"trials", "study", "storage", "timeout"}


def _again(context: typer.Context) -> list[str]:
    """The study file and the options that a command was given, as they are typed once more.

    What the environment says, it goes on saying.
    """
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        value, source = context.params[name], context.get_parameter_source(name)
        is_typed = source is not None and source.name == "COMMANDLINE"
        if name in _NOT_AGAIN or not is_typed or value in (None, parameter.default):
            continue
        words += [parameter.opts[0]] if parameter.param_type_name == "option" else []
        words += [str(value)] if value is not True else []
    return words


def _print_end(study: Study, ending: str, *, storage: str | None, again: list[str]) -> None:
    """The front on stdout, then what pruning saved, the report and what to type next."""
    from hpsearch.search.jobs.analyse import analyse_study
    from hpsearch.view.terminal.run_summary import ending_view, write_report

    where = storage_options(study, storage)
    analysis = analyse_study(study)  # once, for the report and for the screen
    report = write_report(analysis, storage_options=where)
    display(ending_view(analysis, ending, storage_options=where, again=again, report=report))


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0 success, 1 a bug, 2 invalid input, 130 Ctrl-C."""
    with command_messages():
        code = _run_command(arguments)
    sys.exit(code if isinstance(code, int) else 0)


def _run_command(arguments: list[str] | None) -> Any:
    command = typer.main.get_command(app)
    try:
        return command.main(arguments, prog_name="hpsearch", standalone_mode=False)
    except HpsearchError as exc:
        return _complain(str(exc))
    except (KeyboardInterrupt, typer.Abort):
        note("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as exc:
        if (lost := lost_database(exc)) is not None:
            return _complain(f"{lost} and run the command again")
        if hasattr(exc, "format_message"):  # one of the option parser's own
            path = getattr(getattr(exc, "ctx", None), "command_path", "hpsearch")
            return _complain(f"{_said(exc)} (see `{path} --help`)")
        raise


def _said(error: Any) -> str:
    """The option parser's complaint, with what was found where it leaves that out."""
    problems = getattr(error.__context__, "errors", None)  # pydantic's, which it quotes
    if problems is not None:
        from hpsearch.config import expected_of

        problem = problems()[0]
        error.message = f"found {problem['input']!r}, expected {expected_of(problem)}"
    return str(error.format_message())


def enter() -> None:
    """The console script: :func:`main`, then out at once.

    An orderly end of the interpreter takes one to two seconds once torch is imported.
    """
    try:
        main()
    except SystemExit as exc:
        if "torch" not in sys.modules:
            raise
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(exc.code if isinstance(exc.code, int) else 1)


def _complain(message: str) -> int:
    if messages.level <= logging.DEBUG:  # --verbose
        traceback.print_exc()
    typer.echo("hpsearch: " + " ".join(message.split()), err=True)
    return 2
