"""The commands that write or use results: a trained model, predictions, a study's tables."""

from __future__ import annotations

from typing import Unpack

import typer

from hpsearch.api import train as api
from hpsearch.cli import options
from hpsearch.cli.output import note, print_json
from hpsearch.cli.output import show as display

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
    if json_:
        print_json(rows)
    else:
        display(prediction_table(rows))


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

    files = open_study(study, storage=storage).export(output, force=force)
    note(f"wrote {', '.join(files)} to {output}")
