"""The commands that read studies and change nothing."""

from __future__ import annotations

from functools import partial

import typer

from hpsearch.api.run import RunOptions
from hpsearch.cli import options
from hpsearch.cli.output import (
    command_line,
    display,
    messages,
    note,
    print_json,
    print_result,
    watching,
    write_document,
)

app = typer.Typer()


@app.command(short_help="Validate a study file and print the search it describes.")
def check(
    study_file: options.StudyFile = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
) -> None:
    """Validate a study file and print the search it describes; nothing is trained or written.

    User code is imported and its signature checked. The images of a folder are counted by class,
    but not decoded.

    Example: hpsearch check studies/depth.toml
    """
    from hpsearch.api import run as api
    from hpsearch.view.terminal.study_tables import plan

    warnings: list[str] = []
    with messages.showing(warnings.append):
        spec, images = api.check(study_file, RunOptions(dataset=dataset, data_dir=data_dir))
    display(plan(spec, images))
    for warning in warnings:  # below the table, where they are not overlooked
        note(warning)


@app.command("list")
def list_(storage: options.Storage = None, json_: options.Json = False) -> None:
    """List the studies of a database.

    Example: hpsearch list
    """
    from hpsearch.api.studies import list_studies
    from hpsearch.view.terminal.study_tables import study_list

    print_result(list_studies(storage), json_, study_list)


@app.command()
@options.named_study()
def status(
    study: str | None = None, storage: options.Storage = None, json_: options.Json = False
) -> None:
    """Print a study's progress.

    Example: hpsearch status --json
    """
    from hpsearch.api.studies import open_study
    from hpsearch.view.terminal.study_tables import status_lines

    with open_study(study, storage=storage) as opened:
        print_result(opened.summary(), json_, status_lines)


@app.command(short_help="Show all details of a trial.")
def show(
    trial: options.TrialNumber,
    study: options.Study = None,
    storage: options.Storage = None,
    json_: options.Json = False,
) -> None:
    """Show all details of a trial: configuration, learning curve, machine, and how it ended.

    Example: hpsearch show 12
    """
    from hpsearch.api.studies import open_study
    from hpsearch.view.terminal.trial_tables import trial_details

    with open_study(study, storage=storage) as opened:
        view = partial(trial_details, study=opened.name, objectives=opened.objectives)
        print_result(opened.trial(trial), json_, view)


@app.command()
@options.named_study()
def front(
    study: str | None = None, storage: options.Storage = None, json_: options.Json = False
) -> None:
    """Print the Pareto front, cheapest first, with its knee marked.

    Example: hpsearch front --json
    """
    from hpsearch.api.studies import open_study
    from hpsearch.view.terminal.trial_tables import titled_front

    with open_study(study, storage=storage) as opened:
        if json_:
            print_json(opened.front_rows())
            return
        front, names = opened.pareto_front(), opened.objectives
    if not front.trials:
        note(f"no trial of study {opened.name!r} is complete yet, so there is no front")
        return
    display(titled_front(front.trials, study=opened.name, objectives=names, knee=front.knee))


@app.command(short_help="Compare studies of a database.")
def compare(
    studies: options.StudyNames,
    storage: options.Storage = None,
    mixed_hardware: options.MixedSeconds = False,
    output: options.ComparisonOutput = None,
    json_: options.Json = False,
) -> None:
    """Compare studies of a database at equal training and at equal trials.

    With -o also as a page that opens offline and shows the fronts in one figure.

    Example: hpsearch compare tpe random
    """
    from hpsearch.api.evaluate import compare as compare_studies
    from hpsearch.view.terminal.study_tables import comparison_table

    if output is not None:
        from hpsearch.view.report.comparison_page import comparison_page
        from hpsearch.view.report.report import check_page, write

        check_page(output)  # before the studies are read
    comparison = compare_studies(studies, storage=storage, mixed_hardware=mixed_hardware)
    if output is not None:
        write(comparison_page(comparison), output)
        note(f"wrote {output}")
    print_result(comparison, json_, comparison_table)


@app.command(short_help="Write the report: a page, Markdown, or JSON.")
@options.named_study()
def report(
    study: str | None = None,
    storage: options.Storage = None,
    output: options.Output = None,
    format_: options.Format = None,
) -> None:
    """Write the report: one page that opens offline, Markdown, or all numbers as JSON.

    Example: hpsearch report -o report.html
    """
    from hpsearch.api.studies import open_study
    from hpsearch.view.report.report import STDOUT, check_format, format_of

    kind = format_of(output) if format_ is None else format_
    check_format(kind)  # before the database is opened
    with open_study(study, storage=storage) as opened:
        if output == STDOUT or (output is None and kind != "html"):
            write_document(opened.report_text(kind))
        else:
            note(f"wrote {opened.report(output, kind=kind)}")


@app.command(short_help="Show the live view of a study that runs elsewhere.")
@options.named_study()
def watch(study: str | None = None, storage: options.Storage = None) -> None:
    """Show the live view of a study that runs elsewhere, until it is done.

    Example: hpsearch watch mnist5k
    """
    from hpsearch.api import run as api
    from hpsearch.api.studies import open_study

    with open_study(study, storage=storage) as opened:
        note(f"study {opened.name!r} {api.watch(opened, watching=watching)}")
    note(f"`{command_line('front', opened)}` shows the result")


@app.command(short_help="Check this machine and the database; suggest fixes.")
def doctor(
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    artifacts: options.Artifacts = None,
    json_: options.Json = False,
) -> None:
    """Check Python, torch, devices, threads, folders and the database; suggest fixes.

    Example: hpsearch doctor --storage postgresql://ann@db/hpsearch
    """
    from hpsearch.api import run as api
    from hpsearch.view.terminal.study_tables import findings_table

    where = RunOptions(storage=storage, data_dir=data_dir, artifacts=artifacts)
    findings, is_usable = api.doctor(where)
    print_result(findings, json_, findings_table)
    if not is_usable:
        raise typer.Exit(2)
