"""The commands that train trials again, to see whether what the search saw holds."""

from __future__ import annotations

import typer

from hpsearch.cli import options
from hpsearch.cli.output import note, one_name, open_study, print_json, storage_text, typed
from hpsearch.cli.output import show as display
from hpsearch.errors import HpsearchError

app = typer.Typer()


@app.command(short_help="Train a trial again from its record and compare.")
def rerun(
    trial: options.TrialNumber,
    study: options.Name = None,
    storage: options.Url = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Train a trial again from its record and compare: exactly, on the same kind of machine.

    Example: hpsearch rerun 12
    """
    from hpsearch.search.jobs.rerun import rerun as run_again
    from hpsearch.search.worker import launch
    from hpsearch.view.terminal.trial_tables import rerun_line, rerun_verdict

    worker_options = launch.WorkerOptions(
        storage=storage_text(storage), data_dir=data_dir, device=device, threads=threads
    )
    compared = run_again(
        open_study(study, storage),
        trial,
        worker_options,
        dataset=dataset,
        tell=lambda before, now: display(rerun_line(before, now)),
    )
    verdict = rerun_verdict(compared)
    if not compared.holds:
        raise HpsearchError(f"trial {trial} does not come out as its record says: {verdict}")
    note(verdict)


@app.command(short_help="Train the front again with fresh seeds; tell the spread.")
def confirm(
    study: options.StudyChoice = None,
    named: options.Name = None,
    trial: options.ConfirmedTrials = None,
    seeds: options.FreshSeeds = 3,
    storage: options.Url = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    mixed_hardware: options.MixedHardware = False,
    json_: options.Json = False,
) -> None:
    """Train the front again with fresh seeds, time it anew, and tell means and spread.

    What is trained is kept with the study, and shown by the report; the same command goes on.

    Example: hpsearch confirm mnist5k --seeds 3
    """
    from rich.console import Console

    from hpsearch.nn.training.interrupt import Interrupted
    from hpsearch.search.jobs.confirm import confirm as train_again
    from hpsearch.search.worker import launch
    from hpsearch.search.worker.work_loop import StopSignal
    from hpsearch.view.terminal.model_output import confirmed_as_plain, confirmed_table, showing

    worker_options = launch.WorkerOptions(
        storage=storage_text(storage),
        data_dir=data_dir,
        device=device,
        threads=threads,
        mixed_hardware=mixed_hardware,
    )
    opened, stop = open_study(one_name(study, named), storage), StopSignal()
    try:
        with stop.listening(), showing(Console(stderr=True)) as tell:
            found = train_again(
                opened,
                worker_options,
                trials=trial or (),
                seeds=seeds,
                dataset=dataset,
                stop=stop,
                tell=tell,
            )
    except (Interrupted, KeyboardInterrupt):
        note("interrupted; what was trained is kept, the same command goes on")
        raise typer.Exit(130) from None
    records = opened.records()
    if json_:
        print_json(confirmed_as_plain(found, records))
    else:
        display(confirmed_table(found, records, objectives=opened.objectives))
        note(f"`{typed('report', opened, storage)}` shows them in the trade-off")
