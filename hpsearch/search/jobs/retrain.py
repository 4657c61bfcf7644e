"""Decides what to retrain, trains it on all but the test images, then tests it once on those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from hpsearch.core.analysis.metrics import Scores, score
from hpsearch.core.analysis.recommendation import TrialSelection, select_trial
from hpsearch.core.analysis.statistics import MeanAndDeviation, mean_and_deviation
from hpsearch.core.dimensions import Value
from hpsearch.core.overrides import apply_overrides, default_configuration, parse_overrides
from hpsearch.core.space import default_space, dims
from hpsearch.core.spec import (
    DataSpec,
    StudySpec,
    TrialSpec,
    check_shift,
    derive_seed,
    reseeded,
    resolve,
    with_dataset,
)
from hpsearch.core.spec_text import describe_image_changes, differences
from hpsearch.core.trial import Curve, Epoch, reached
from hpsearch.errors import HpsearchError, SpecError, StudyError
from hpsearch.nn.runtime import cpu
from hpsearch.nn.training.failures import build_net, epochs_of, translate_failures
from hpsearch.nn.user_code import add_import_path, check_allowed
from hpsearch.search.storage.records import DATA
from hpsearch.search.study.study import Study
from hpsearch.search.worker.launch import WorkerOptions, configure_torch, versions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from hpsearch.nn.data.dataset import ImageData
    from hpsearch.nn.data.tensors import Tensors
    from hpsearch.nn.serving.model_config import ModelConfig
    from hpsearch.nn.serving.predict import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainPlan:
    """A configuration to train and the data to train it on.

    ``study`` and ``trial`` are the origin of the configuration, None if it was set by hand;
    ``chosen`` are the options that selected it. ``searched`` is the accuracy (0-1) of the same
    configuration on the validation images of the search, None if settings changed it. ``data`` is
    the required fingerprint of the images, empty if any images are accepted.
    """

    study: str | None = None
    trial: int | None = None
    chosen: tuple[str, ...]
    spec: StudySpec
    params: Mapping[str, Value]
    searched: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def trial_spec(self, seed: int, repeat_index: int) -> TrialSpec:
        """Returns the spec of one training, with a seed derived from both numbers and the trial.

        Never the seed of the search: the trial was selected partly because that seed was lucky.
        """
        number = self.trial or 0
        trial = resolve(self.spec, number=number, params=self.params)
        return reseeded(trial, derive_seed(seed, number, "take", repeat_index))


def plan_of_study(
    study: Study,
    choice: TrialSelection,
    settings: Sequence[str],
    *,
    dataset: str | None,
    epochs: int | None,
) -> RetrainPlan:
    """Returns the plan for a trial of a study, whose values the settings override.

    With settings (``name=value``) but no choice, only the data and the recipe come from the study.
    ``dataset`` is the location of the data on this machine; None for ``dataset`` and ``epochs``
    means that of the study.

    Raises:
        StudyError: the trial does not exist or is not complete.
        SpecError: a setting or the number of epochs is invalid, or no trial is selected.
    """
    space = {**study.spec.space, **dims(study.spec.space)} if study.spec.has_user_code else None
    overrides, number, searched = parse_overrides(settings, space), None, None
    spec = _with_epochs(study.spec, epochs)
    if choice.ways or not settings:
        record = select_trial(study.records(), study.objectives, choice)
        number = record.number
        searched = None if settings else reached(record).get("accuracy")
        spec, params = apply_overrides(spec, record.params, overrides)
    else:
        spec, params = default_configuration(spec, overrides)
    values = (choice.trial, choice.best, choice.within_seconds, choice.within_params)
    given = [str(value) for value in values if value is not None]
    options = (" ".join([option, *given]) for option in choice.ways)
    return RetrainPlan(
        study=study.name,
        trial=number,
        chosen=(*options, *(f"--set {text}" for text in settings)),
        spec=with_dataset(spec, dataset),
        params=params,
        searched=searched,
        data=study.attributes.get(DATA, {}),
    )


def plan_by_hand(
    settings: Sequence[str],
    *,
    dataset: str | None,
    image_size: int | None,
    epochs: int | None,
) -> RetrainPlan:
    """Returns a plan without a study; values that the settings omit come from a good recipe.

    Raises:
        SpecError: a setting, the image size or the number of epochs is invalid.
    """
    from hpsearch.nn.data.dataset import default_name

    try:
        name = DataSpec().dataset if dataset is None else dataset
        data = DataSpec(dataset=name, image_size=image_size)
    except ValueError as exc:
        raise SpecError(f"options: {exc}") from exc
    base = StudySpec(name=default_name(data.dataset), data=data, space=default_space("geometric"))
    spec, params = default_configuration(_with_epochs(base, epochs), parse_overrides(settings))
    chosen = tuple(f"--set {text}" for text in settings)
    return RetrainPlan(chosen=chosen, spec=spec, params=params)


def _with_epochs(spec: StudySpec, epochs: int | None) -> StudySpec:
    if epochs is None:
        return spec
    try:
        return replace(spec, train=replace(spec.train, epochs=epochs))
    except ValueError as exc:
        raise SpecError(f"--epochs: {exc}") from exc


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
    on_epoch: Callable[[int, Epoch], None],
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
        on_epoch: called with the index of the training, from 0, and each epoch when it ends.

    Raises:
        Interrupted: ``stop()`` was true.
        HpsearchError: the data or the device is not available, memory is full, a training diverged
            or user code failed.
    """
    # Settings by hand name no code, so it comes from the study's database.
    check_allowed(plan.spec, is_allowed=options.allow_code)
    threads = cpu.decide_threads(requested=options.threads, workers=1)
    device = configure_torch(options, threads)  # before the modules that import torch
    from hpsearch.nn.serving.predict import LoadedModel
    from hpsearch.nn.training.custom_loop import smoke_test

    data = _load_data(plan, options)
    images = _to_device(data, device, hold_out=hold_out)
    # Memory, shapes and user code fail in the first steps, not after the whole training.
    base = plan.spec.search.seed if seed is None else seed
    trials = [plan.trial_spec(base, index) for index in range(seeds)]
    if plan.spec.has_user_code:
        add_import_path(options.code)
    smoke_test(trials[0], images, device=device)
    probabilities = []  # (N, K) for each seed
    for index, trial in enumerate(trials):
        curve, net = _train(trial, images, device, stop=stop, on_epoch=partial(on_epoch, index))
        probabilities.append(_test(trial, net, data, device))
        if index == 0:
            first_curve, first_net = curve, net
    labels = data.labels[data.split.test]
    scores = [score(each, labels, classes=data.classes) for each in probabilities]
    config = _model_config(plan, trials[0], data, device, threads=threads, hold_out=hold_out)
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


def _train(
    trial: TrialSpec,
    images: Tensors,
    device: torch.device,
    *,
    stop: Callable[[], bool],
    on_epoch: Callable[[Epoch], None],
) -> tuple[Curve, nn.Module]:
    from hpsearch.nn.training.loop import Diverged

    curve: list[Epoch] = []
    net = build_net(trial, images)
    try:
        for epoch in epochs_of(trial, net, images, device, stop=stop):
            curve.append(epoch)
            on_epoch(epoch)
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


def _model_config(
    plan: RetrainPlan,
    trial: TrialSpec,
    data: ImageData,
    device: torch.device,
    *,
    threads: int,
    hold_out: bool,
) -> ModelConfig:
    """The contents of the model folder's config.json, with the origin of the model."""
    from hpsearch.nn.runtime.device import describe
    from hpsearch.nn.serving.model_config import ModelConfig

    provenance = {
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
    return ModelConfig(
        model=trial.model,
        input_shape=data.input_shape,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        provenance=provenance,
    )
