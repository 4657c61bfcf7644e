"""What may be typed after a command: each option's type, environment variable and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hpsearch {version('hpsearch')}")
        raise typer.Exit


Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Log to stderr, and show where errors arose.")
]
Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]
Name = Annotated[str | None, typer.Option("--study", help="The study's name.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="HPSEARCH_STORAGE",
        show_envvar=False,
        help="Database: an SQLite file or a URL.  [env: HPSEARCH_STORAGE; default: hpsearch.db]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="The file to write; - is stdout.  [default: report-STUDY.html; md and json: stdout]",
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="html, md or json.  [default: as PATH ends, else html]"),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="HPSEARCH_DATA",
        show_envvar=False,
        help="Where named data sets lie or go.  [env: HPSEARCH_DATA; default: data]",
    ),
]
StudyFile = Annotated[Path | None, typer.Argument(metavar="STUDY.toml", help="A study file.")]
Trials = Annotated[int | None, typer.Option(help="The study's total of trials.")]
Dataset = Annotated[
    str | None, typer.Option(help="A known name, a folder of class folders, or an .npz.")
]
ImageSize = Annotated[int | None, typer.Option(help="Side of a folder's images, px.")]
Epochs = Annotated[int | None, typer.Option(help="Epochs of a full training.")]
Timeout = Annotated[str | None, typer.Option(help="End after e.g. 90s, 30m, 1h30m.")]
Seed = Annotated[int | None, typer.Option(help="Fixes what is drawn and trained.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of a trial.")]
Sampler = Annotated[
    str | None, typer.Option(help="tpe, nsga2, gp, random, qmc, grid or grid+random.")
]
Pruner = Annotated[
    str | None, typer.Option(help="forecast, margin, median, percentile, asha or none.")
]
Objectives = Annotated[
    str | None, typer.Option(help="E.g. accuracy,train_seconds or accuracy,params.")
]
Workers = Annotated[int | None, typer.Option(help="Processes that share the trials.")]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(min=0.001, max=1.0, help="Share of a GPU that a worker needs, e.g. 0.25."),
]
Forever = Annotated[bool, typer.Option("--forever", help="Wait for the next study.")]
Artifacts = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        envvar="HPSEARCH_ARTIFACTS",
        show_envvar=False,
        help="Where checkpoints lie: a folder that all workers see, or s3://BUCKET/PREFIX."
        "  [env: HPSEARCH_ARTIFACTS; default: beside an SQLite file]",
    ),
]
MixedHardware = Annotated[
    bool, typer.Option(help="Let other hardware than the study's take part; marks its trials.")
]
TrialNumber = Annotated[int, typer.Argument(help="The trial's number.")]
StudyName = Annotated[str | None, typer.Argument(metavar="STUDY", help="The study's name.")]
StudyNames = Annotated[
    list[str], typer.Argument(metavar="STUDY", help="The names of two studies or more.")
]
MixedSeconds = Annotated[
    bool, typer.Option("--mixed-hardware", help="Take seconds of different hardware as the same.")
]
ComparisonOutput = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="PATH", help="Also write it as a page.")
]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="A value; may be repeated.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="The port; 0: any that is free, and told.")
]
Writable = Annotated[
    bool, typer.Option("--writable", help="Allow changes; whoever reaches it may delete.")
]
Auth = Annotated[
    str | None,
    typer.Option(
        metavar="USER",
        help="Ask for this user and a password; --host needs it for any address but this"
        " machine's own."
        "  [env: HPSEARCH_DASHBOARD_PASSWORD, or its file HPSEARCH_DASHBOARD_PASSWORD_FILE]",
    ),
]
ChosenTrial = Annotated[int | None, typer.Option("--trial", help="Take this complete trial.")]
Knee = Annotated[bool, typer.Option("--knee", help="Take the front's best bargain.")]
Best = Annotated[
    str | None,
    typer.Option(
        "--best", metavar="OBJECTIVE", help="Take the trial best in it, e.g. accuracy or params."
    ),
]
WithinSeconds = Annotated[
    float | None,
    typer.Option(min=0.0, help="Take the most accurate trial that trains in so many seconds."),
]
WithinParams = Annotated[
    float | None,
    typer.Option(min=0.0, help="Take the most accurate trial of at most so many parameters."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter by hand; may be repeated."),
]
LongerEpochs = Annotated[
    int | None, typer.Option("--epochs", help="Train so long.  [default: the study's, or 8]")
]
ConfirmedTrials = Annotated[
    list[int] | None,
    typer.Option(
        "--trial", help="A complete trial; may be repeated.  [default: those of the front]"
    ),
]
FreshSeeds = Annotated[int, typer.Option(min=1, help="So many trainings of each in the end.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="Train so many times; tells the spread, keeps the first.")
]
HoldOut = Annotated[
    bool,
    typer.Option(
        "--hold-out-validation", help="Train on the training images alone, validate on the others."
    ),
]
Onnx = Annotated[bool, typer.Option("--onnx", help="Also write model.onnx, checked on images.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier call wrote there.")]
ModelOutput = Annotated[Path, typer.Option("--output", "-o", help="The model folder to write.")]
TablesOutput = Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")]
Model = Annotated[Path, typer.Argument(help="A folder that `hpsearch train` wrote.")]
Factory = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:NAME",
        help="Run this code of yours, which the model's net is built by.",
    ),
]
Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGES...", help="Files, folders (and all below) and .npz files."),
]
Top = Annotated[int, typer.Option(min=1, help="Tell so many classes of each image.")]
StudyChoice = Annotated[
    str | None, typer.Argument(metavar="STUDY", help="The study's name; the newest if left out.")
]
