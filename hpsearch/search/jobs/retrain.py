"""Retrains a trial on all but the test images, then tests the model on those once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from hpsearch.core.analysis.metrics import Scores, score
from hpsearch.core.analysis.statistics import MeanAndDeviation, mean_and_deviation
from hpsearch.core.spec import TrialSpec, check_shift
from hpsearch.core.spec_diff import describe_image_changes, differences
from hpsearch.core.trial import Curve, Epoch
from hpsearch.errors import HpsearchError, StudyError
from hpsearch.nn.runtime import cpu
from hpsearch.nn.training.failures import build_net, epochs_of, translate_failures
from hpsearch.search.jobs.retrain_plan import RetrainPlan
from hpsearch.search.worker.launch import WorkerOptions, configure_torch, versions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from hpsearch.nn.data.dataset import ImageData
    from hpsearch.nn.data.tensors import Tensors
    from hpsearch.nn.serving.predict import LoadedModel

# Called with the index of the training, from 0, and one of its epochs.
OnEpoch = Callable[[int, Epoch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainedModel:
    """A trained model with its test results.

    ``model``, ``scores`` and ``curve`` belong to the first seed; ``accuracies`` are the test
    accuracies of all seeds. ``images`` (N, H, W, C) uint8 and ``labels`` (N,) are the test split,
    ``predicted`` (N,) the classes that the model predicts for it.
    """

    plan: RetrainPlan
    trial: TrialSpec
    model: LoadedModel
    scores: Scores
    seeds: tuple[int, ...]
    accuracies: MeanAndDeviation
    curve: Curve
    held_out: bool
    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray


def retrain(
    plan: RetrainPlan,
    options: WorkerOptions,
    *,
    seeds: int,
    seed: int | None,
    hold_out: bool,
    stop: Callable[[], bool],
    tell: OnEpoch,
) -> RetrainedModel:
    """Trains the plan's net once per seed and tests each model once.

    Keeps the first model whatever the others score: keeping the best would select on the test
    images and inflate the score.

    Args:
        plan: what to train.
        options: the data folder, the device and the threads.
        seeds: the number of trainings.
        seed: base of the trainings' seeds; None for the study's. The split is always the study's.
        hold_out: train on the training images alone and measure on the validation images, rather
            than train on both.
        stop: checked before every step.
        tell: called with each epoch when it ends.

    Raises:
        Interrupted: ``stop()`` was true.
        HpsearchError: the data or the device is not available, memory is full, a training diverged
            or user code failed.
    """
    threads = cpu.decide_threads(requested=options.threads, workers=1)
    device = configure_torch(options, threads)  # before the modules that import torch
    from hpsearch.nn.serving.model_config import ModelConfig
    from hpsearch.nn.serving.predict import LoadedModel

    data = _load_data(plan, options)
    images = _to_device(data, device, hold_out=hold_out)
    trials = _trial_specs(plan, options, images, device, seeds=seeds, seed=seed)
    probabilities = []  # (N, K) for each seed
    for index, trial in enumerate(trials):
        curve, net = _train(trial, images, device, stop=stop, tell=partial(tell, index))
        probabilities.append(_test(trial, net, data, device))
        if index == 0:
            first_curve, first_net = curve, net
    labels = data.labels[data.split.test]
    scores = [score(each, labels, classes=data.classes) for each in probabilities]
    config = ModelConfig(
        model=trials[0].model,
        input_shape=data.input_shape,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        provenance=_provenance(plan, trials[0], data, device, threads=threads, hold_out=hold_out),
    )
    return RetrainedModel(
        plan=plan,
        trial=trials[0],
        model=LoadedModel(config=config, net=first_net.eval(), device=device),
        scores=scores[0],
        seeds=tuple(trial.seed for trial in trials),
        accuracies=mean_and_deviation([each.accuracy for each in scores]),
        curve=first_curve,
        held_out=hold_out,
        images=data.images[data.split.test],
        labels=labels,
        predicted=probabilities[0].argmax(axis=1),
    )


def _load_data(plan: RetrainPlan, options: WorkerOptions) -> ImageData:
    """Loads the images; refuses other images than the study's: they may overlap its test split."""
    from hpsearch.nn.data.dataset import load

    spec = plan.spec
    data = load(spec.data, data_dir=options.data_dir, seed=spec.search.seed)
    changed = differences(plan.data, data.fingerprint)
    if plan.data and changed:
        raise StudyError(
            f"study {plan.study!r} searched other images ({describe_image_changes(changed)}); pass"
            " the location of its images with --dataset"
        )
    _, height, width = data.input_shape
    check_shift(spec.train.shift, height=height, width=width)
    return data


def _to_device(data: ImageData, device: torch.device, *, hold_out: bool) -> Tensors:
    """Copies all but the test images to the device; without ``hold_out`` all become training."""
    import numpy as np

    from hpsearch.nn.data.tensors import tensors_of

    if not hold_out:
        both = np.sort(np.concatenate([data.split.train, data.split.val]))
        split = replace(data.split, train=both, val=data.split.val[:0])
        data = replace(data, split=split)
    return tensors_of(data, device=device)


def _trial_specs(
    plan: RetrainPlan,
    options: WorkerOptions,
    images: Tensors,
    device: torch.device,
    *,
    seeds: int,
    seed: int | None,
) -> list[TrialSpec]:
    """The specs of the trainings, one per seed; tries the first one out on a few steps."""
    from hpsearch.nn.training.smoke_test import smoke_test
    from hpsearch.nn.user_code import add_import_path

    base = plan.spec.search.seed if seed is None else seed
    trials = [plan.trial_spec(base, index) for index in range(seeds)]
    if plan.spec.has_user_code:
        add_import_path(options.code)
    smoke_test(trials[0], images, device=device)
    return trials


def _train(
    trial: TrialSpec,
    images: Tensors,
    device: torch.device,
    *,
    stop: Callable[[], bool],
    tell: Callable[[Epoch], None],
) -> tuple[Curve, nn.Module]:
    from hpsearch.nn.training.loop import Diverged

    curve: list[Epoch] = []
    net = build_net(trial, images)
    try:
        for epoch in epochs_of(trial, net, images, device, stop=stop):
            curve.append(epoch)
            tell(epoch)
    except Diverged as exc:
        raise HpsearchError(
            f"the training diverged: {exc}; choose a lower rate with --set learning_rate=…"
        ) from exc
    return tuple(curve), net


def _test(trial: TrialSpec, net: nn.Module, data: ImageData, device: torch.device) -> np.ndarray:
    """The probabilities (N, K) that the net predicts for the test images, which it sees once."""
    import torch

    from hpsearch.nn.serving.predict import probabilities

    images = torch.from_numpy(data.images[data.split.test]).permute(0, 3, 1, 2)  # (N, C, H, W)
    with translate_failures(trial):
        predicted = probabilities(net, images, mean=data.mean, std=data.std, device=device)
    return predicted.numpy()


def _provenance(
    plan: RetrainPlan,
    trial: TrialSpec,
    data: ImageData,
    device: torch.device,
    *,
    threads: int,
    hold_out: bool,
) -> dict[str, Any]:
    from hpsearch.nn.runtime.device import describe

    return {
        "study": plan.study,
        "trial": plan.trial,
        "chosen": list(plan.chosen),
        "params": dict(plan.params),
        "searched_accuracy": plan.searched,
        "train": asdict(trial.train),
        "seed": trial.seed,
        "trained_on": "training images" if hold_out else "training and validation images",
        "dataset": data.name,
        "data": data.fingerprint,
        "hardware": {"device": describe(device), "threads": threads},
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
