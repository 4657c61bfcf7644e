"""The commands that take something home: a trained model, its predictions, a study's tables."""

from __future__ import annotations

import typer

from hpsearch.cli import options
from hpsearch.cli.output import note, one_name, open_study, print_json
from hpsearch.cli.output import show as display

app = typer.Typer()


@app.command(short_help="Train a trial again, test it once, write a model folder.")
def train(
    output: options.ModelOutput,
    trial: options.ChosenTrial = None,
    knee: options.Knee = False,
    best: options.Best = None,
    within_seconds: options.WithinSeconds = None,
    within_params: options.WithinParams = None,
    set_: options.Overrides = None,
    study: options.Name = None,
    storage: options.Url = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    epochs: options.LongerEpochs = None,
    seeds: options.Seeds = 1,
    seed: options.Seed = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    hold_out_validation: options.HoldOut = False,
    onnx: options.Onnx = False,
    force: options.Force = False,
    json_: options.Json = False,
) -> None:
    """Train a trial again, on validation images too, test it once and write a model folder.

    With --set or --dataset alone no study is needed: what they leave open is a good recipe.

    Example: hpsearch train --knee -o model
    """
    from rich.console import Console

    from hpsearch.api import train as train_api
    from hpsearch.search.worker.work_loop import StopSignal
    from hpsearch.view.terminal.model_output import epoch_line, result

    log, stop = Console(stderr=True), StopSignal()
    with stop.listening():
        trained = train_api.train(
            output,
            trial=trial,
            knee=knee,
            best=best,
            within_seconds=within_seconds,
            within_params=within_params,
            settings=set_ or [],
            study=study,
            storage=storage,
            dataset=dataset,
            data_dir=data_dir,
            image_size=image_size,
            epochs=epochs,
            seeds=seeds,
            seed=seed,
            device=device,
            threads=threads,
            hold_out_validation=hold_out_validation,
            onnx=onnx,
            force=force,
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
    """Tell the class of each image, and how probable it is.

    Example: hpsearch predict model photo.png folder/ images.npz --json
    """
    from hpsearch.nn.runtime import cpu

    cpu.prepare_environment(cpu.decide_threads(requested=threads, workers=1))
    from hpsearch.nn.serving.model_folder import load_model
    from hpsearch.nn.serving.predict import classify
    from hpsearch.view.terminal.model_output import prediction_table

    cpu.apply_threads(cpu.decide_threads(requested=threads, workers=1))
    loaded = load_model(model, device=device, factory=factory)
    rows = classify(loaded, images, top=top)
    if json_:
        print_json(rows)
    else:
        display(prediction_table(rows))


@app.command(short_help="Write a study's tables as CSV and Parquet.")
def export(
    output: options.TablesOutput,
    study: options.StudyChoice = None,
    named: options.Name = None,
    storage: options.Url = None,
    force: options.Force = False,
) -> None:
    """Write a study's trials and curves as CSV and Parquet, and its study file.

    Example: hpsearch export mnist5k -o tables
    """
    from hpsearch.search.jobs.export import export as export_study

    files = export_study(open_study(one_name(study, named), storage), output, force=force)
    note(f"wrote {', '.join(files)} to {output}")
