"""The commands that look at studies and change nothing."""

from __future__ import annotations

import typer

from hpsearch.cli import options
from hpsearch.cli.output import (
    messages,
    note,
    one_name,
    open_study,
    print_json,
    storage_options,
    storage_text,
    typed,
    watching,
)
from hpsearch.cli.output import show as display

app = typer.Typer()


@app.command(short_help="Validate a study file and print what would be searched.")
def check(
    study_file: options.StudyFile = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
) -> None:
    """Validate a study file and print what would be searched; nothing is trained or written.

    A net or training of your own is imported, and must take what it will be given. The images of a
    folder are counted by class, and not decoded.

    Example: hpsearch check studies/depth.toml
    """
    from hpsearch.config import overrides_of, read_spec
    from hpsearch.search.worker.launch import examine
    from hpsearch.view.terminal.study_tables import plan

    spec = read_spec(study_file, overrides_of({"dataset": dataset}))
    warnings: list[str] = []
    code = study_file and study_file.parent
    with messages.showing(warnings.append):
        images = examine(spec, data_dir=data_dir, code=code)
    display(plan(spec, images))
    for told in warnings:  # below, where they are seen
        note(told)


@app.command("list")
def list_(storage: options.Url = None, json_: options.Json = False) -> None:
    """List the studies of a database.

    Example: hpsearch list
    """
    from hpsearch.api.run import open_database
    from hpsearch.search.study.catalog import summaries
    from hpsearch.view.terminal.study_tables import study_list

    rows = summaries(open_database(storage))
    if json_:
        print_json(rows)
    else:
        display(study_list(rows))


@app.command()
def status(
    study: options.StudyChoice = None,
    named: options.Name = None,
    storage: options.Url = None,
    json_: options.Json = False,
) -> None:
    """Tell where a study stands.

    Example: hpsearch status --json
    """
    from hpsearch.view.terminal.study_tables import status_lines

    summary = open_study(one_name(study, named), storage).summary()
    if json_:
        print_json(summary)
    else:
        display(status_lines(summary))


@app.command(short_help="Show all that is known of a trial.")
def show(
    trial: options.TrialNumber,
    study: options.Name = None,
    storage: options.Url = None,
    json_: options.Json = False,
) -> None:
    """Show all that is known of a trial: configuration, curve, where it ran, why it ended.

    Example: hpsearch show 12
    """
    from hpsearch.view.terminal.trial_tables import trial_details

    opened = open_study(study, storage)
    record = opened.record(trial)
    if json_:
        print_json(record)
    else:
        display(trial_details(record, study=opened.name, objectives=opened.objectives))


@app.command()
def front(
    study: options.StudyChoice = None,
    named: options.Name = None,
    storage: options.Url = None,
    json_: options.Json = False,
) -> None:
    """Print the Pareto front, cheapest first, with its knee marked.

    Example: hpsearch front --json
    """
    from hpsearch.core.analysis.pareto import front as pareto_front
    from hpsearch.core.analysis.pareto import front_as_plain
    from hpsearch.view.terminal.trial_tables import titled_front

    opened = open_study(one_name(study, named), storage)
    found = pareto_front(opened.records(), opened.objectives)
    chosen, knee = found.trials, found.knee
    if json_:
        print_json(front_as_plain(found))
    elif chosen:
        display(titled_front(chosen, study=opened.name, objectives=opened.objectives, knee=knee))
    else:
        note(f"no trial of study {opened.name!r} is complete yet, so there is no front")


@app.command(short_help="Tell which of several studies is ahead.")
def compare(
    studies: options.StudyNames,
    storage: options.Url = None,
    mixed_hardware: options.MixedSeconds = False,
    output: options.ComparisonOutput = None,
    json_: options.Json = False,
) -> None:
    """Tell which of several studies of a database is ahead, at equal training and equal trials.

    With -o also as a page that opens offline, with the fronts drawn over one another.

    Example: hpsearch compare tpe random
    """
    from hpsearch.api.evaluate import compare as compare_studies
    from hpsearch.view.terminal.comparison_table import comparison_table

    if output is not None:
        from hpsearch.view.report.comparison_page import comparison_page
        from hpsearch.view.report.report import check_page, write

        check_page(output)
    found = compare_studies(studies, storage=storage, mixed_hardware=mixed_hardware)
    if output is not None:
        write(comparison_page(found), output)
        note(f"wrote {output}")
    if json_:
        print_json(found)
    else:
        display(comparison_table(found))


@app.command(short_help="Write the report: a page, Markdown, or JSON.")
def report(
    study: options.StudyChoice = None,
    named: options.Name = None,
    storage: options.Url = None,
    output: options.Output = None,
    format_: options.Format = None,
) -> None:
    """Write the report: one page that opens offline, Markdown, or all the numbers as JSON.

    Example: hpsearch report -o report.html
    """
    from hpsearch.search.jobs.analyse import analyse_study
    from hpsearch.view.report.report import (
        STDOUT,
        check_format,
        default_path,
        format_of,
        render,
        write,
    )

    kind = format_of(output) if format_ is None else format_
    check_format(kind)
    opened = open_study(one_name(study, named), storage)
    found = analyse_study(opened)
    text = render(found, kind, storage_options=storage_options(opened, storage))
    if output is None:
        output = default_path(opened.name) if kind == "html" else STDOUT
    if output == STDOUT:
        typer.echo(text)
    else:
        write(text, output)
        note(f"wrote {output}")


@app.command(short_help="Show the live view of a study that runs elsewhere.")
def watch(
    study: options.StudyChoice = None, named: options.Name = None, storage: options.Url = None
) -> None:
    """Show the live view of a study that runs elsewhere, until it is done.

    Example: hpsearch watch mnist5k
    """
    from hpsearch.search.worker.observer import follow

    opened = open_study(one_name(study, named), storage)
    with watching(opened) as watcher:
        standing = follow(opened, watcher)
    note(f"study {opened.name!r} {standing.words}")
    note(f"`{typed('front', opened, storage)}` shows what it found")


@app.command(short_help="Look at this machine and the database; say what to mend.")
def doctor(
    storage: options.Url = None,
    data_dir: options.DataDir = None,
    artifacts: options.Artifacts = None,
    json_: options.Json = False,
) -> None:
    """Look at Python, torch, devices, threads, folders and the database; say what to mend.

    Example: hpsearch doctor --storage postgresql://ann@db/hpsearch
    """
    from hpsearch.search.jobs.doctor import Health, examine
    from hpsearch.view.terminal.doctor_table import findings_table

    findings = examine(storage_text(storage), data_dir=data_dir, artifacts=artifacts)
    if json_:
        print_json(findings)
    else:
        display(findings_table(findings))
    if any(finding.health is Health.BAD for finding in findings):
        raise typer.Exit(2)
