"""The arguments and options of the commands: type, environment variable and help of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_type_hints

import typer

from hpsearch.errors import HpsearchError, StudyError, is_text, shown

Command = Callable[..., None]


def _print_version(is_given: bool) -> None:
    if is_given:
        from importlib.metadata import version

        typer.echo(f"hpsearch {version('hpsearch')}")
        raise typer.Exit


Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Log to stderr, and show the traceback of errors.")
]
Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]
Study = Annotated[str | None, typer.Option("--study", help="The study's name.")]
Storage = Annotated[
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
    typer.Option("--format", help="html, md or json.  [default: the suffix of PATH, else html]"),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="HPSEARCH_DATA",
        show_envvar=False,
        help="Folder of the named data sets.  [env: HPSEARCH_DATA; default: data]",
    ),
]
StudyFile = Annotated[Path | None, typer.Argument(metavar="STUDY.toml", help="A study file.")]
Trials = Annotated[int | None, typer.Option(help="The study's total of trials.")]
Dataset = Annotated[
    str | None, typer.Option(help="A known name, a folder of class folders, or an .npz.")
]
ImageSize = Annotated[int | None, typer.Option(help="Side of a folder's images, px.")]
Seed = Annotated[int | None, typer.Option(help="Fixes sampling and training.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of a trial.")]
Forever = Annotated[bool, typer.Option("--forever", help="Wait for the next study.")]
Artifacts = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        envvar="HPSEARCH_ARTIFACTS",
        show_envvar=False,
        help="Folder of checkpoints, which all workers share, or s3://BUCKET/PREFIX."
        "  [env: HPSEARCH_ARTIFACTS; default: beside an SQLite file]",
    ),
]
MixedHardware = Annotated[
    bool, typer.Option(help="Accept hardware other than the study's; marks its trials.")
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Import and run the custom code that a study in the database names; setting"
        " HPSEARCH_CODE to its folder allows it, too.",
    ),
]
TrialNumber = Annotated[int, typer.Argument(help="The trial's number.")]
StudyNames = Annotated[
    list[str], typer.Argument(metavar="STUDY", help="The names of two or more studies.")
]
MixedSeconds = Annotated[
    bool, typer.Option("--mixed-hardware", help="Treat seconds of different hardware as equal.")
]
ComparisonOutput = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="PATH", help="Also write an HTML page.")
]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="A value; may be repeated.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 picks a free one.")]
Writable = Annotated[
    bool,
    typer.Option(
        "--writable", help="Allow everyone who can reach it to change and delete studies."
    ),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="Another host under which browsers reach it, e.g. through a proxy; may be repeated.",
    ),
]
Auth = Annotated[
    str | None,
    typer.Option(
        metavar="USER",
        help="Ask for this user and a password; required for any --host that other machines"
        " can reach."
        "  [env: HPSEARCH_DASHBOARD_PASSWORD, or its file HPSEARCH_DASHBOARD_PASSWORD_FILE]",
    ),
]
ConfirmedTrials = Annotated[
    list[int] | None,
    typer.Option(
        "--trial", help="A complete trial; may be repeated.  [default: the trials of the front]"
    ),
]
FreshSeeds = Annotated[int, typer.Option(min=1, help="Total trainings of each trial.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output of an earlier call.")]
ModelOutput = Annotated[Path, typer.Option("--output", "-o", help="The model folder to write.")]
TablesOutput = Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")]
Model = Annotated[Path, typer.Argument(help="A folder that `hpsearch train` wrote.")]
Factory = Annotated[
    str | None,
    typer.Option(metavar="MODULE:NAME", help="Run this user code, which builds the model."),
]
Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES...", help="Image files, folders (searched recursively) and .npz files."
    ),
]
Top = Annotated[int, typer.Option(min=1, help="Print this many classes for each image.")]


class RunKeywords(TypedDict):
    """The options of ``hpsearch run``: one for each field of RunOptions, in the order of help."""

    trials: Trials
    study: Study
    storage: Storage
    dataset: Dataset
    data_dir: DataDir
    image_size: ImageSize
    epochs: Annotated[int | None, typer.Option(help="Epochs of a full training.")]
    timeout: Annotated[str | None, typer.Option(help="End after e.g. 90s, 30m, 1h30m.")]
    seed: Seed
    device: Device
    threads: Threads
    sampler: Annotated[
        str | None, typer.Option(help="tpe, nsga2, gp, random, qmc, grid or grid+random.")
    ]
    pruner: Annotated[
        str | None, typer.Option(help="forecast, margin, median, percentile, asha or none.")
    ]
    objectives: Annotated[
        str | None, typer.Option(help="E.g. accuracy,train_seconds or accuracy,params.")
    ]
    workers: Annotated[int | None, typer.Option(help="Processes that share the trials.")]
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(min=0.001, max=1.0, help="Share of a GPU that a worker needs, e.g. 0.25."),
    ]
    mixed_hardware: MixedHardware
    artifacts: Artifacts


class TrainKeywords(TypedDict):
    """The options of ``hpsearch train``: keywords of hpsearch.train, in the order of help."""

    trial: Annotated[int | None, typer.Option("--trial", help="Select this complete trial.")]
    knee: Annotated[bool, typer.Option("--knee", help="Select the best trade-off.")]
    best: Annotated[
        str | None,
        typer.Option(
            metavar="OBJECTIVE", help="Select the trial best in it, e.g. accuracy or params."
        ),
    ]
    within_seconds: Annotated[
        float | None,
        typer.Option(min=0.0, help="Select the most accurate trial that trains in this time."),
    ]
    within_params: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Select the most accurate trial with at most this many parameters."
        ),
    ]
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="NAME=VALUE", help="Set a hyperparameter; may be repeated."),
    ]
    study: Study
    storage: Storage
    dataset: Dataset
    data_dir: DataDir
    image_size: ImageSize
    epochs: Annotated[
        int | None, typer.Option(help="Epochs to train.  [default: the study's, or 8]")
    ]
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings; reports the spread, keeps the first model.")
    ]
    seed: Seed
    device: Device
    threads: Threads
    hold_out_validation: Annotated[
        bool,
        typer.Option(
            "--hold-out-validation",
            help="Train on the training images only, and validate on the others.",
        ),
    ]
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also write model.onnx, checked against test images.")
    ]
    force: Force
    allow_code: AllowCode


def expand_keywords(types: type, defaults: Callable[..., object]) -> Callable[[Command], Command]:
    """Gives a command the options of a TypedDict in place of its ``**keywords``.

    Typer reads the options from the signature. The defaults are those of the function or dataclass
    that takes the keywords.
    """
    parameters = signature(defaults).parameters
    options = [
        Parameter(
            name, Parameter.KEYWORD_ONLY, default=parameters[name].default, annotation=annotation
        )
        for name, annotation in get_type_hints(types, include_extras=True).items()
    ]

    def decorate(command: Command) -> Command:
        *given, _keywords = signature(command, eval_str=True).parameters.values()
        # Typer prints the help in the order of the signature.
        before = [each for each in given if each.kind is not Parameter.KEYWORD_ONLY]
        after = given[len(before) :]
        command.__signature__ = Signature([*before, *options, *after])  # type: ignore[attr-defined]
        return command

    return decorate


def checked(command: Command) -> Command:
    """Lets a command refuse a text that is not UTF-8, which no database and no JSON can hold.

    Paths may hold any bytes.
    """

    @functools.wraps(command)
    def with_text(**values: Any) -> None:
        for name, value in values.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not is_text(text):
                    option = name.removesuffix("_option").strip("_").replace("_", "-")
                    raise HpsearchError(
                        f"--{option}: found {shown(text)}, expected text in UTF-8; type it again"
                    )
        command(**values)

    return with_text


def named_study(*, required: bool = False) -> Callable[[Command], Command]:
    """Lets the parameter ``study`` of a command be given as the argument STUDY or as --study.

    If it is not required, None stands for the newest study. Both may be given if they are equal.
    """
    text = "The study's name." if required else "The study's name; the newest if left out."
    argument = Annotated[str | None, typer.Argument(metavar="STUDY", help=text)]

    def decorate(command: Command) -> Command:
        parameters = []
        for each in signature(command, eval_str=True).parameters.values():
            if each.name == "study":
                parameters.append(each.replace(annotation=argument))
                # Both spellings are parameters of their own for Typer.
                each = each.replace(name="study_option", annotation=Study)
            parameters.append(each)

        @functools.wraps(command)
        def with_study(*, study: str | None, study_option: str | None, **others: Any) -> None:
            if study is not None and study_option not in (None, study):
                raise StudyError(
                    f"found the studies {study!r} and {study_option!r}, expected one; keep one"
                )
            name = study_option if study is None else study
            if name is None and required:
                raise StudyError("found no study name, expected one; see `hpsearch list`")
            command(study=name, **others)

        with_study.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return with_study

    return decorate
