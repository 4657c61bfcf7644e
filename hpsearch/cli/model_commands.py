"""The commands on the trials of a finished search: train, predict, export, confirm, rerun."""

from __future__ import annotations

from typing import Unpack

import typer

from hpsearch.api import evaluate
from hpsearch.api import train as api
from hpsearch.api.run import RunOptions
from hpsearch.cli import options
from hpsearch.cli.output import command_line, display, note, print_json, print_result
from hpsearch.errors import HpsearchError

app = typer.Typer()


@app.command(short_help="Retrain a trial, test it once, write a model folder.")
@options.expand_keywords(options.TrainKeywords, api.train)
def train(
    output: options.ModelOutput,
    *,
    json_: options.Json = False,
    **keywords: Unpack[options.TrainKeywords],
) -> None:
    """Retrain a trial, on validation images too, test it once and write a model folder.

    With only --set or --dataset, no study is needed: the rest comes from a good recipe.

    Example: hpsearch train --knee -o model
    """
    from rich.console import Console

    from hpsearch.api.run import stop_on_signal
    from hpsearch.view.terminal.model_output import epoch_line, result

    log, seeds = Console(stderr=True), keywords["seeds"]
    with stop_on_signal() as stop:
        trained = api.train(
            output,
            **keywords,
            stop=stop,
            tell=lambda number, epoch, total: log.print(
                epoch_line(number, seeds, epoch, epochs=total), soft_wrap=True
            ),
        )
    if json_:
        print_json(trained.metrics)
    else:
        display(result(trained.taken, folder=str(output)))


@app.command()
def predict(
    model: options.Model,
    images: options.Images,
    top: options.Top = 1,
    device: options.Device = "auto",
    threads: options.Threads = None,
    factory: options.Factory = None,
    json_: options.Json = False,
) -> None:
    """Print the class of each image and its probability.

    Example: hpsearch predict model photo.png folder/ images.npz --json
    """
    from hpsearch.view.terminal.model_output import prediction_table

    rows = api.predict(model, images, top=top, device=device, threads=threads, factory=factory)
    print_result(rows, json_, prediction_table)


@app.command(short_help="Write a study's tables as CSV and Parquet.")
@options.named_study()
def export(
    output: options.TablesOutput,
    study: str | None = None,
    storage: options.Storage = None,
    force: options.Force = False,
) -> None:
    """Write a study's trials and learning curves as CSV and Parquet, and its study file.

    Example: hpsearch export mnist5k -o tables
    """
    from hpsearch.api.studies import open_study

    with open_study(study, storage=storage) as opened:
        files = opened.export(output, force=force)
    note(f"wrote {', '.join(files)} to {output}")


@app.command(short_help="Retrain a trial from its record and compare.")
def rerun(
    trial: options.TrialNumber,
    study: options.Study = None,
    storage: options.Storage = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    allow_code: options.AllowCode = False,
) -> None:
    """Retrain a trial from its record and compare: on the same kind of machine, bit for bit.

    Example: hpsearch rerun 12
    """
    from hpsearch.api.studies import open_study
    from hpsearch.view.terminal.trial_tables import rerun_line, rerun_verdict

    here = RunOptions(dataset=dataset, data_dir=data_dir, device=device, threads=threads)
    with open_study(study, storage=storage) as opened:
        compared = evaluate.rerun(
            opened,
            trial,
            here,
            allow_code=allow_code,
            on_epoch=lambda before, now: display(rerun_line(before, now)),
        )
    verdict = rerun_verdict(compared)
    if not compared.holds:
        raise HpsearchError(f"trial {trial} does not reproduce its record: {verdict}")
    note(verdict)


@app.command(short_help="Retrain the front with fresh seeds; print the spread.")
@options.named_study()
def confirm(
    study: str | None = None,
    trial: options.ConfirmedTrials = None,
    seeds: options.FreshSeeds = 3,
    storage: options.Storage = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    mixed_hardware: options.MixedHardware = False,
    allow_code: options.AllowCode = False,
    json_: options.Json = False,
) -> None:
    """Retrain and time the front with fresh seeds, and print means and spread.

    Each training is saved with the study, and the report shows it; the same command resumes.

    Example: hpsearch confirm mnist5k --seeds 3
    """
    from rich.console import Console

    from hpsearch.api.run import stop_on_signal
    from hpsearch.api.studies import open_study
    from hpsearch.view.terminal.model_output import confirmed_as_plain, confirmed_table, showing

    here = RunOptions(
        dataset=dataset,
        data_dir=data_dir,
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
    )
    with open_study(study, storage=storage) as opened:
        try:
            with stop_on_signal() as stop, showing(Console(stderr=True)) as on_progress:
                replications = evaluate.replicate(
                    opened,
                    here,
                    trials=trial or (),
                    seeds=seeds,
                    allow_code=allow_code,
                    stop=stop,
                    on_progress=on_progress,
                )
        except KeyboardInterrupt:
            note("interrupted; finished trainings are saved, the same command resumes")
            raise typer.Exit(130) from None
        records = opened.trials()
    if json_:
        print_json(confirmed_as_plain(replications, records))
    else:
        display(confirmed_table(replications, records, objectives=opened.objectives))
        note(f"`{command_line('report', opened)}` shows them in the trade-off")
