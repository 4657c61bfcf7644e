"""Train the chosen model, test it once, write its folder, and predict with it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.api.run import RunOptions
from hpsearch.errors import ModelError, SpecError
from hpsearch.util.messages import messages_to

if TYPE_CHECKING:
    from hpsearch.core.analysis.recommendation import TrialSelection
    from hpsearch.core.trial import Epoch
    from hpsearch.nn.serving.predict import LoadedModel
    from hpsearch.search.jobs.retrain import RetrainedModel, RetrainPlan
    from hpsearch.search.worker.launch import WorkerOptions

_log = logging.getLogger(__name__)

MAX_SEEDS = 1000  # trainings in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A written model folder: its metrics, and the model, ready to predict."""

    folder: Path
    metrics: Mapping[str, Any]
    model: LoadedModel
    taken: RetrainedModel


def train(
    output: str | Path,
    *,
    trial: int | None = None,
    knee: bool = False,
    best: str | None = None,
    within_seconds: float | None = None,
    within_params: float | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    study: str | None = None,
    storage: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    seed: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    hold_out_validation: bool = False,
    onnx: bool = False,
    force: bool = False,
    allow_code: bool = False,
    stop: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] | None = None,
    tell: Callable[[int, Epoch, int], None] = lambda number, epoch, epochs: None,
) -> Trained:
    """Trains a study's trial, or a network set by hand, tests it once and writes the model folder.

    The keywords are the options of ``hpsearch train``. One of ``trial``, ``knee``, ``best``,
    ``within_seconds`` and ``within_params`` selects a trial of ``study``; ``settings`` override its
    hyperparameters, as ``{"n_blocks": 3}`` or ``["n_blocks=3"]``. With settings or a data set and
    none of these, no study is needed.

    Args:
        output: the folder to write.
        trial: the number of a complete trial.
        knee: select the best trade-off on the front.
        best: select the trial best in this objective.
        within_seconds: select the most accurate trial that trains within this time.
        within_params: select the most accurate trial with at most this many parameters.
        settings: values of single hyperparameters.
        study: the study's name; None: the newest.
        storage: the database; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        dataset: the data; None: the study's, or ``mnist5k``.
        data_dir: the folder of named data sets; None: ``HPSEARCH_DATA``, or else ``data``.
        image_size: side of a folder's images in pixels; only without a study.
        epochs: length of the training; None: the study's, or 8.
        seeds: the number of trainings; the first model is kept.
        seed: the seeds are derived from it; None: the study's, or 0.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: CPU threads; None: all cores.
        hold_out_validation: do not train on the validation images.
        onnx: also write ``model.onnx``.
        force: replace an existing model folder.
        allow_code: import and run the user code that the study in the database names.
        stop: asked before every step; true raises KeyboardInterrupt.
        notify: called with each message for the user; None: they are only logged.
        tell: called with the index of the training, its latest epoch and the number of epochs.

    Raises:
        HpsearchError: an option, the data, the device or the database is invalid; nothing was
            written.
    """
    from hpsearch.core.analysis.recommendation import TrialSelection

    with messages_to(notify):
        _check_numbers(trial=trial, image_size=image_size, epochs=epochs, seeds=seeds, seed=seed)
        limits = {"within_seconds": within_seconds, "within_params": within_params}
        choice = TrialSelection(trial=trial, knee=knee, best=best, **limits)
        source = RunOptions(
            study=study, storage=storage, dataset=dataset, image_size=image_size, epochs=epochs
        )
        plan, folder = _plan(choice, settings, source), Path(os.path.expanduser(output))
        _check_output(folder, threads=threads, onnx=onnx, force=force)
        here = RunOptions(data_dir=data_dir, device=device, threads=threads)
        taken = _retrain(
            plan,
            here.worker_options(allow_code=allow_code),
            seeds=seeds,
            seed=seed,
            hold_out=hold_out_validation,
            stop=stop,
            on_epoch=tell,
        )
        return _write(taken, folder, onnx=onnx, force=force)


def _check_numbers(*, seeds: int, seed: int | None, **others: int | None) -> None:
    """Rejects numbers that Python callers may pass but the command line cannot."""
    for name, number in {**others, "seeds": seeds, "seed": seed}.items():
        if number is not None and type(number) is not int:
            raise SpecError(f"{name}: found {number!r}, expected a whole number; pass one")
    if not 1 <= seeds <= MAX_SEEDS:
        raise SpecError(f"seeds: found {seeds}, expected 1 to {MAX_SEEDS}; choose another number")
    if seed is not None and not 0 <= seed < 2**63:
        raise SpecError(f"seed: found {seed}, expected 0 to 2**63 - 1; choose another")


def _plan(
    choice: TrialSelection, settings: Mapping[str, Any] | Sequence[str], source: RunOptions
) -> RetrainPlan:
    """What to train: a study's trial if one is selected or a study is named, else a set network."""
    from hpsearch.api.studies import open_study
    from hpsearch.core.analysis.recommendation import nothing_chosen
    from hpsearch.search.jobs.retrain import plan_by_hand, plan_of_study

    if isinstance(settings, Mapping):
        settings = [f"{name}={value}" for name, value in settings.items()]
    dataset, image_size, epochs = source.dataset, source.image_size, source.epochs
    if not choice.ways and source.study is None:
        if not settings and dataset is None:
            raise nothing_chosen()
        return plan_by_hand(settings, dataset=dataset, image_size=image_size, epochs=epochs)
    if image_size is not None:
        raise SpecError(
            f"--image-size: found {image_size} with a study, which fixes the size of its images;"
            " leave it out"
        )
    with open_study(source.study, storage=source.storage) as opened:
        return plan_of_study(opened.study, choice, settings, dataset=dataset, epochs=epochs)


def _check_output(folder: Path, *, threads: int | None, onnx: bool, force: bool) -> None:
    """Raises the errors of threads and output now, not after the data is loaded or trained on."""
    from hpsearch.nn.runtime.cpu import decide_threads, prepare_environment

    # Before the next line imports torch, which reads the environment once: threads that spin made
    # an epoch beside a busy process many times slower.
    prepare_environment(decide_threads(requested=threads, workers=1))
    from hpsearch.nn.serving.predict import MODEL_FOLDER
    from hpsearch.util.atomic import check_target

    check_target(folder, MODEL_FOLDER, force=force)
    if onnx:
        from hpsearch.nn.serving.onnx import check_installed

        check_installed()


def _retrain(
    plan: RetrainPlan,
    options: WorkerOptions,
    *,
    seeds: int,
    seed: int | None,
    hold_out: bool,
    stop: Callable[[], bool],
    on_epoch: Callable[[int, Epoch, int], None],
) -> RetrainedModel:
    from hpsearch.core.trial import Interrupted
    from hpsearch.search.jobs.retrain import retrain

    try:
        return retrain(
            plan,
            options,
            seeds=seeds,
            seed=seed,
            hold_out=hold_out,
            stop=stop,
            on_epoch=lambda number, epoch: on_epoch(number, epoch, plan.spec.train.epochs),
        )
    except Interrupted:
        raise KeyboardInterrupt from None


def _write(taken: RetrainedModel, folder: Path, *, onnx: bool, force: bool) -> Trained:
    """Writes the folder atomically; without model.onnx if that computes something else."""
    from hpsearch.nn.serving.predict import MODEL_FOLDER, write_model
    from hpsearch.util.atomic import atomic_folder

    params = sum(parameter.numel() for parameter in taken.model.net.parameters())
    metrics, failure = _metrics(taken, params=params), None
    with atomic_folder(folder, MODEL_FOLDER, force=force) as draft:
        model, n_images = taken.model, len(taken.images)
        if onnx:
            from hpsearch.nn.serving.onnx import describe, write_onnx

            _log.info("writing model.onnx and checking it on %s test images", f"{n_images:,}")
            try:
                difference = write_onnx(draft / "model.onnx", model, taken.images)
                checked = {"images": n_images, "largest_difference": difference}
                described = {**describe(model), "checked": checked}
                model = replace(model, config=replace(model.config, onnx=described))
            except ModelError as exc:
                failure = exc  # the folder without model.onnx is still worth keeping
        taken = replace(taken, model=model)
        write_model(draft, model.net, model.config)
        for name, content in _documents(taken, metrics, params=params).items():
            (draft / name).write_bytes(content)
    if failure is not None:
        raise failure
    return Trained(folder=folder, metrics=metrics, model=model, taken=taken)


def _metrics(taken: RetrainedModel, *, params: int) -> dict[str, Any]:
    from hpsearch.core.analysis.metrics import as_plain

    last, accuracies = taken.curve[-1], taken.accuracies
    return {
        **as_plain(taken.scores),
        "seeds": {
            "seeds": list(taken.seeds),
            "test_accuracies": list(accuracies.values),
            "mean": accuracies.mean,
            "deviation": accuracies.deviation,
            "kept": "the first, whatever its test accuracy",
        },
        "val_accuracy": last.val_accuracy if taken.held_out else None,
        "val_loss": last.val_loss if taken.held_out else None,
        "train_seconds": last.train_seconds,
        "epochs": last.epoch,
        "params": params,
    }


def _documents(
    taken: RetrainedModel, metrics: Mapping[str, Any], *, params: int
) -> dict[str, bytes]:
    """The files that describe the model, by name."""
    from hpsearch.view.model.card import accuracy, card
    from hpsearch.view.model.confusion import confused_picture, matrix_csv, matrix_picture

    scores = taken.scores
    title = f"{accuracy(scores)} of {scores.n:,} test images right"
    text = json.dumps(metrics, indent=2, ensure_ascii=False) + "\n"
    return {
        "metrics.json": text.encode(),
        "confusion.csv": matrix_csv(scores).encode(),
        "confusion.png": matrix_picture(scores, title=title),
        "confused.png": confused_picture(scores, taken.images, taken.labels, taken.predicted),
        "README.md": card(taken, params=params).encode(),
    }


def predict(
    model: str | Path,
    images: Sequence[Path],
    *,
    top: int = 1,
    device: str = "auto",
    threads: int | None = None,
    factory: str | None = None,
) -> list[dict[str, Any]]:
    """Classifies image files, folders of images and ``.npz`` files with a model folder.

    Args:
        model: a folder that :func:`train` wrote.
        images: the paths of the images.
        top: the number of classes to return for each image.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: CPU threads; None: all cores.
        factory: ``MODULE:NAME`` of the user code that builds the model; it is run.

    Returns:
        A row per image, as ``predict --json`` prints it.

    Raises:
        HpsearchError: the model folder or an image cannot be read.
    """
    from hpsearch.nn.runtime import cpu

    # Thread settings come before the first import of torch, which reads them then.
    n_threads = cpu.decide_threads(requested=threads, workers=1)
    cpu.prepare_environment(n_threads)
    from hpsearch.nn.serving.predict import classify, load_model

    cpu.apply_threads(n_threads)
    loaded = load_model(Path(model), device=device, factory=factory)
    return classify(loaded, [Path(os.path.expanduser(image)) for image in images], top=top)
