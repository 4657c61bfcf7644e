"""The command line: parse, call one function, print. Heavy imports wait for their command."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from hpsearch import options
from hpsearch.errors import HpsearchError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpsearch.core.spec import StudySpec
    from hpsearch.search.study import Study


class _Commands(TyperGroup):
    """The commands, which tell when Ctrl-C has ended one of them; Typer itself is silent."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _note("interrupted")
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


@app.callback()
def _options(
    context: typer.Context,
    verbose: options.Verbose = False,
    version: options.Version = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")


@app.command()
def run(
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
    mixed_hardware: options.MixedHardware = False,
) -> None:
    """Search until the study holds its total of trials; the same command resumes.

    Example: hpsearch run --trials 100
    """
    from rich.console import Console

    from hpsearch.search import launch
    from hpsearch.search.worker import Stopper
    from hpsearch.view.progress import watch

    overrides = {
        "name": study,
        "data.dataset": dataset,
        "data.image_size": image_size,
        "train.epochs": epochs,
        "search.trials": trials,
        "search.timeout": timeout,
        "search.seed": seed,
        "search.sampler": sampler,
        "search.objectives": objectives and [name.strip() for name in objectives.split(",")],
        "search.workers": workers,
        "pruning.pruner": pruner,
    }
    spec = _read_spec(study_file, overrides)
    place = launch.Place(
        storage=_storage_text(storage),
        data_dir=data_dir,
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
    )
    stop = Stopper()
    with stop.listening():
        prepared = launch.prepare(spec, place, notify=_note)
        stop.start_clock(spec.search.timeout)
        with watch(Console(stderr=True), prepared.study) as observer:
            ending = launch.run(prepared, stop=stop, observer=observer)
    _print_end(prepared.study, ending.value, storage=storage, study_file=study_file)
    launch.close(prepared.study, ending)
    if ending is launch.Ending.INTERRUPTED:
        raise typer.Exit(130)


@app.command()
def check(study_file: options.StudyFile = None, data_dir: options.DataDir = None) -> None:
    """Validate a study file and print what would be searched; nothing is run or written.

    Example: hpsearch check studies/depth.toml
    """
    from hpsearch.nn.data import check as check_data
    from hpsearch.view.plan import plan

    spec = _read_spec(study_file, {})
    check_data(spec.data, data_dir=data_dir)
    _show(plan(spec))


@app.command("list")
def list_(storage: options.Url = None, json_: options.Json = False) -> None:
    """List the studies of a database.

    Example: hpsearch list
    """
    from hpsearch.core.analysis import as_plain
    from hpsearch.search.catalog import summaries
    from hpsearch.search.storage import open_storage
    from hpsearch.view.tables import study_list

    rows = summaries(open_storage(_storage_text(storage), create=False))
    if json_:
        _print_json([as_plain(row) for row in rows])
    else:
        _show(study_list(rows))


@app.command()
def status(
    study: options.Name = None, storage: options.Url = None, json_: options.Json = False
) -> None:
    """Tell where a study stands.

    Example: hpsearch status --json
    """
    from hpsearch.core.analysis import as_plain
    from hpsearch.view.tables import status_lines

    summary = _open(study, storage).summary()
    if json_:
        _print_json(as_plain(summary))
    else:
        _show(status_lines(summary))


@app.command()
def show(
    trial: options.TrialNumber,
    study: options.Name = None,
    storage: options.Url = None,
    json_: options.Json = False,
) -> None:
    """Show all that is known of a trial: configuration, curve, where it ran, why it ended.

    Example: hpsearch show 12
    """
    from hpsearch.core.trial import record_as_plain
    from hpsearch.view.tables import trial_details

    opened = _open(study, storage)
    record = opened.record(trial)
    if json_:
        _print_json(record_as_plain(record))
    else:
        _show(trial_details(record, objectives=opened.objectives))


@app.command()
def front(
    study: options.Name = None, storage: options.Url = None, json_: options.Json = False
) -> None:
    """Print the Pareto front, cheapest first, with its knee marked.

    Example: hpsearch front --json
    """
    from hpsearch.core.pareto import front as pareto_front
    from hpsearch.core.pareto import front_as_plain
    from hpsearch.view.tables import front_table

    opened = _open(study, storage)
    chosen, knee = pareto_front(opened.records(), opened.objectives)
    if json_:
        _print_json(front_as_plain(chosen, knee))
    elif chosen:
        _show(front_table(chosen, objectives=opened.objectives, knee=knee))
    else:
        _note(f"no trial of study {opened.name!r} is complete yet, so there is no front")


@app.command()
def enqueue(
    study: options.StudyName,
    set_: options.Settings,
    storage: options.Url = None,
) -> None:
    """Queue a configuration that you want tried; what is left open is sampled.

    Example: hpsearch enqueue mnist5k --set learning_rate=0.01 --set n_blocks=3
    """
    from hpsearch.core.baseline import read

    opened = _open(study, storage)
    number = opened.enqueue(read(opened.spec.space, set_))
    _note(f"queued as trial {number}; the next worker of {opened.name!r} takes it first")
    summary = opened.summary()
    if summary.complete + summary.pruned >= summary.target:
        _note(f"the study has its {summary.target} trials; run it with a larger --trials")


@app.command()
def stop(study: options.Name = None, storage: options.Url = None) -> None:
    """Ask every worker of a study to end after its trial; `hpsearch run` goes on.

    Example: hpsearch stop --study mnist5k
    """
    opened = _open(study, storage)
    opened.request_stop(stop=True)
    _note(f"study {opened.name!r} stops after the running trial; `hpsearch run` goes on with it")


@app.command()
def delete(
    study: options.StudyName,
    storage: options.Url = None,
    yes: options.Yes = False,
) -> None:
    """Delete a study with all its trials; asks first.

    Example: hpsearch delete mnist5k
    """
    from hpsearch.search.catalog import delete as delete_study

    opened = _open(study, storage)
    question = f"Delete study {study!r} with its {len(opened.records())} trials?"
    if not yes and not _confirmed(question):
        _note("nothing was deleted")
        return
    delete_study(opened.storage, opened)
    _note(f"study {study!r} is deleted")


@app.command()
def dashboard(
    storage: options.Url = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    writable: options.Writable = False,
) -> None:
    """Open optuna-dashboard on the database; read-only unless told otherwise.

    Example: hpsearch dashboard --port 8080
    """
    from hpsearch.search.storage import open_storage
    from hpsearch.view.dashboard import serve

    opened = open_storage(_storage_text(storage), create=False)
    serve(
        opened.backend,
        host=host,
        port=port,
        writable=writable,
        ready=lambda url: _note(f"dashboard of {opened.masked} at {url} (Ctrl-C ends it)"),
    )


def _confirmed(question: str) -> bool:
    """Asks on stderr; where nobody can answer, says how to do without."""
    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        typer.echo(err=True)
        raise HpsearchError("found no answer on stdin, expected y or n; pass --yes not to be asked")
    return answer.strip().lower() in ("y", "yes")


def _storage_text(storage: str | None) -> str:
    from hpsearch.search.storage import DEFAULT_URL

    return storage or DEFAULT_URL


def _open(study: str | None, storage: str | None) -> Study:
    from hpsearch.search.catalog import open_study
    from hpsearch.search.storage import open_storage

    return open_study(open_storage(_storage_text(storage), create=False), study)


def _read_spec(study_file: Path | None, overrides: dict[str, Any]) -> StudySpec:
    from hpsearch.config import build_spec, load_study_file

    if study_file is None:
        return build_spec(None, overrides)
    return load_study_file(study_file, overrides)


def _print_end(study: Study, ending: str, *, storage: str | None, study_file: Path | None) -> None:
    """The front on stdout, then what pruning saved and what to type next."""
    from hpsearch.view.ending import ending_view

    where: list[str] = []
    if storage is not None and storage != os.environ.get("HPSEARCH_STORAGE"):
        where = ["--storage", storage if "://" not in storage else study.storage.masked]
    _show(ending_view(study, ending, place=where, study_file=study_file))


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _show(renderable: RenderableType) -> None:
    from rich.console import Console

    Console().print(renderable, soft_wrap=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 a bug, 2 the user's mistake, 130 Ctrl-C."""
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="hpsearch", standalone_mode=False)
    except HpsearchError as exc:
        code = _complain(str(exc))
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as exc:
        if not hasattr(exc, "format_message"):  # not one of the option parser's own
            raise
        path = getattr(getattr(exc, "ctx", None), "command_path", "hpsearch")
        code = _complain(f"{exc.format_message()} (see `{path} --help`)")
    sys.exit(code if isinstance(code, int) else 0)


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
    if logging.getLogger("hpsearch").isEnabledFor(logging.INFO):  # --verbose
        traceback.print_exc()
    typer.echo("hpsearch: " + " ".join(message.split()), err=True)
    return 2
