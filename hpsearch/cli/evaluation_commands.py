"""The commands that retrain trials, to check the results of a search."""

from __future__ import annotations

import typer

from hpsearch.api.run_options import RunOptions
from hpsearch.cli import options
from hpsearch.cli.output import command_line, note, print_json
from hpsearch.cli.output import show as display
from hpsearch.errors import HpsearchError

app = typer.Typer()


@app.command(short_help="Retrain a trial from its record and compare.")
def rerun(
    trial: options.TrialNumber,
    study: options.Study = None,
    storage: options.Storage = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Retrain a trial from its record and compare: on the same kind of machine, bit for bit.

    Example: hpsearch rerun 12
    """
    from hpsearch.api import evaluate
    from hpsearch.api.studies import open_study
    from hpsearch.view.terminal.trial_tables import rerun_line, rerun_verdict

    compared = evaluate.rerun(
        open_study(study, storage=storage),
        trial,
        RunOptions(dataset=dataset, data_dir=data_dir, device=device, threads=threads),
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
    json_: options.Json = False,
) -> None:
    """Retrain and time the front with fresh seeds, and print means and spread.

    Each training is saved with the study, and the report shows it; the same command resumes.

    Example: hpsearch confirm mnist5k --seeds 3
    """
    from rich.console import Console

    from hpsearch.api.evaluate import replicate
    from hpsearch.api.run import stop_on_signal
    from hpsearch.api.studies import open_study
    from hpsearch.view.terminal.model_output import confirmed_as_plain, confirmed_table, showing

    run_options = RunOptions(
        dataset=dataset,
        data_dir=data_dir,
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
    )
    opened = open_study(study, storage=storage)
    try:
        with stop_on_signal() as stop, showing(Console(stderr=True)) as on_progress:
            replications = replicate(
                opened,
                run_options,
                trials=trial or (),
                seeds=seeds,
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
