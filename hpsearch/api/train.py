"""Taking the winner home: choose, train, test once, and write the model folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch.errors import ModelError, SpecError
from hpsearch.util.messages import messages_to

if TYPE_CHECKING:
    from hpsearch.core.analysis.selection import TrialSelection
    from hpsearch.core.trial import Epoch
    from hpsearch.nn.serving.predict import LoadedModel
    from hpsearch.search.jobs.retrain import RetrainedModel
    from hpsearch.search.jobs.retrain_plan import RetrainPlan

_log = logging.getLogger(__name__)

MOST_SEEDS = 1000  # trainings in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model folder that was written: its metrics, and the model, ready to predict."""

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
    stop: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] | None = None,
    tell: Callable[[int, Epoch, int], None] = lambda number, epoch, epochs: None,
) -> Trained:
    """Trains a study's trial, or a net set by hand, tests it once and writes the model folder.

    The words are those of ``hpsearch train``. One of ``trial``, ``knee``, ``best``,
    ``within_seconds`` and ``within_params`` chooses a trial of ``study``; ``settings`` go over it,
    as ``{"n_blocks": 3}`` or ``["n_blocks=3"]``. With settings or a data set alone no study is
    needed.

    Args:
        output: the folder to write.
        trial: the number of a complete trial.
        knee: choose the front's best bargain.
        best: an objective, to choose the trial best in it.
        within_seconds: choose the most accurate trial that trains in so many seconds.
        within_params: choose the most accurate trial of so many parameters.
        settings: values of single hyperparameters.
        study: the study's name; None: the newest.
        storage: the database; None: ``HPSEARCH_STORAGE``, or else ``hpsearch.db``.
        dataset: where the data is; None: where the study has it, or ``mnist5k``.
        data_dir: where named data sets lie; None: ``HPSEARCH_DATA``, or else ``data``.
        image_size: side of a folder's images in pixels, where there is no study.
        epochs: how long to train; None: as long as the study, or 8.
        seeds: how often to train; the first is kept.
        seed: what those derive from; None: the study's, or 0.
        device: auto, cpu, cuda, cuda:1 or mps.
        threads: of the processor; None: all cores.
        hold_out_validation: leave the validation images out of the training.
        onnx: also write ``model.onnx``.
        force: replace a model folder that is there.
        stop: asked before every step; true ends it with KeyboardInterrupt.
        notify: called with each message for the user; None: they are only logged.
        tell: takes the number of the training, from 0, an epoch of it, and how many there are.

    Raises:
        HpsearchError: something is not as it must be; nothing was written.
    """
    from hpsearch.api.run import data_folder
    from hpsearch.core.analysis.selection import TrialSelection
    from hpsearch.nn.runtime.cpu import decide_threads
    from hpsearch.nn.training.interrupt import Interrupted
    from hpsearch.search.jobs.retrain import retrain
    from hpsearch.search.worker.launch import WorkerOptions

    with messages_to(notify):
        _check_whole(trial=trial, image_size=image_size, epochs=epochs)
        _check_seeds(seeds=seeds, seed=seed)
        choice = TrialSelection(
            trial=trial,
            knee=knee,
            best=best,
            within_seconds=within_seconds,
            within_params=within_params,
        )
        plan = _plan(
            choice,
            _texts(settings),
            study=study,
            storage=storage,
            dataset=dataset,
            image_size=image_size,
            epochs=epochs,
        )
        folder = Path(output)
        decide_threads(
            requested=threads, workers=1
        )  # refused now rather than once the data is loaded
        _check_output(folder, onnx=onnx, force=force)
        worker_options = WorkerOptions(
            storage="",
            data_dir=data_folder(data_dir),
            device=device,
            threads=threads,
        )
        length = plan.spec.train.epochs
        try:
            taken = retrain(
                plan,
                worker_options,
                seeds=seeds,
                seed=seed,
                hold_out=hold_out_validation,
                stop=stop,
                tell=lambda number, epoch: tell(number, epoch, length),
            )
        except Interrupted:
            raise KeyboardInterrupt from None
        return _write(taken, folder, onnx=onnx, force=force)


def _check_whole(**numbers: int | None) -> None:
    """Refuses what is no whole number, which Python's callers may pass."""
    for name, number in numbers.items():
        if number is not None and type(number) is not int:
            raise SpecError(f"{name}: found {number!r}, expected a whole number; pass one")


def _check_seeds(*, seeds: int, seed: int | None) -> None:
    _check_whole(seeds=seeds, seed=seed)
    if not 1 <= seeds <= MOST_SEEDS:
        raise SpecError(f"seeds: found {seeds}, expected 1 to {MOST_SEEDS}; train so many times")
    if seed is not None and not 0 <= seed < 2**63:
        raise SpecError(f"seed: found {seed}, expected 0 to 2**63 - 1; choose another")


def _texts(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    if isinstance(settings, Mapping):
        return [f"{name}={value}" for name, value in settings.items()]
    return list(settings)


def _plan(
    choice: TrialSelection,
    settings: Sequence[str],
    *,
    study: str | None,
    storage: str | None,
    dataset: str | None,
    image_size: int | None,
    epochs: int | None,
) -> RetrainPlan:
    """What to train: with a choice or a study's name it comes from the study, else by hand."""
    from hpsearch.api.run import open_study
    from hpsearch.core.analysis.selection import nothing_chosen
    from hpsearch.search.jobs.retrain_plan import plan_by_hand, plan_of_study

    if not choice.ways and study is None:
        if not settings and dataset is None:
            raise nothing_chosen()
        return plan_by_hand(settings, dataset=dataset, image_size=image_size, epochs=epochs)
    if image_size is not None:
        raise SpecError(
            f"--image-size: found {image_size} with a study, whose images have their own size;"
            " leave it out"
        )
    opened = open_study(study, storage=storage)
    return plan_of_study(opened.study, choice, settings, dataset=dataset, epochs=epochs)


def _check_output(folder: Path, *, onnx: bool, force: bool) -> None:
    """Refuses, before the training, what would be refused after it."""
    from hpsearch.nn.serving.model_folder import MODEL_FOLDER
    from hpsearch.util.atomic import check_target

    check_target(folder, MODEL_FOLDER, force=force)
    if onnx:
        from hpsearch.nn.serving.onnx import check_installed

        check_installed()


def _write(taken: RetrainedModel, folder: Path, *, onnx: bool, force: bool) -> Trained:
    """Writes the folder whole; without model.onnx where that does not compute the same."""
    from hpsearch.nn.serving.model_folder import MODEL_FOLDER, write_model
    from hpsearch.util.atomic import atomic_folder

    params = sum(parameter.numel() for parameter in taken.model.net.parameters())
    metrics, failure = _metrics(taken, params=params), None
    with atomic_folder(folder, MODEL_FOLDER, force=force) as draft:
        model = taken.model
        if onnx:
            count = format(len(taken.images), ",")
            _log.info("writing model.onnx and checking it on %s test images", count)
            try:
                model = _with_onnx(taken, draft)
            except ModelError as exc:
                failure = exc
        taken = replace(taken, model=model)
        write_model(draft, model.net, model.config)
        for name, content in _told(taken, metrics, params=params).items():
            (draft / name).write_bytes(content)
    if failure is not None:
        raise failure
    return Trained(folder=folder, metrics=metrics, model=model, taken=taken)


def _with_onnx(taken: RetrainedModel, draft: Path) -> LoadedModel:
    from hpsearch.nn.serving.onnx import describe, write_onnx

    model = taken.model
    apart = write_onnx(draft / "model.onnx", model, taken.images)
    checked = {"images": len(taken.images), "largest_difference": apart}
    described = {**describe(model), "checked": checked}
    return replace(model, config=replace(model.config, onnx=described))


def _metrics(taken: RetrainedModel, *, params: int) -> dict[str, Any]:
    from hpsearch.core.analysis.metrics import as_plain

    last, told = taken.curve[-1], taken.accuracies
    return {
        **as_plain(taken.scores),
        "seeds": {
            "seeds": list(taken.seeds),
            "test_accuracies": list(told.values),
            "mean": told.mean,
            "deviation": told.deviation,
            "kept": "the first, whatever its test accuracy",
        },
        "val_accuracy": last.val_accuracy if taken.held_out else None,
        "val_loss": last.val_loss if taken.held_out else None,
        "train_seconds": last.train_seconds,
        "epochs": last.epoch,
        "params": params,
    }


def _told(taken: RetrainedModel, metrics: Mapping[str, Any], *, params: int) -> dict[str, bytes]:
    """The files for people and programs, by name."""
    from hpsearch.view.model.card import accuracy, card
    from hpsearch.view.model.confusion import confused_picture, matrix_csv, matrix_picture

    scores = taken.scores
    title = f"{accuracy(scores)} of {scores.n:,} test images right"
    text = json.dumps(metrics, indent=2, ensure_ascii=False) + "\n"
    onnx = bool(taken.model.config.onnx)
    return {
        "metrics.json": text.encode(),
        "confusion.csv": matrix_csv(scores).encode(),
        "confusion.png": matrix_picture(scores, title=title),
        "confused.png": confused_picture(scores, taken.images, taken.labels, taken.predicted),
        "README.md": card(taken, params=params, onnx=onnx).encode(),
    }
