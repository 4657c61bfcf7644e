"""Taking a trial home: trained again on all but the test images, then tested on those, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

# Takes the number of the training, from 0, and an epoch of it.
OnEpoch = Callable[[int, Epoch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainedModel:
    """A trained model, tested once, with all that is told of it.

    ``model`` is that of the first seed and ``scores`` are its own; ``accuracies`` are the test
    accuracies of all seeds. ``images`` (N, H, W, C) uint8 and ``labels`` (N,) are the test split,
    ``predicted`` (N,) what the model made of it. ``curve`` is the first training's.
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
    """Trains the plan's net once per seed and tests each of them once.

    The first is kept, whatever the others do: to keep the best would be to choose by the test
    images, whose score would then promise too much.

    Args:
        plan: what to train.
        options: the data folder, the device and the threads.
        seeds: how many times.
        seed: what the trainings' seeds derive from; None: the study's. The split is the study's.
        hold_out: train on the training images alone and measure on the validation images, rather
            than train on both.
        stop: asked before every step.
        tell: takes each epoch as it ends.

    Raises:
        Interrupted: ``stop()`` was true.
        HpsearchError: the data or the device cannot be had, memory is full, a training diverged,
            or code of the person's own failed.
    """
    threads = cpu.decide_threads(requested=options.threads, workers=1)
    device = configure_torch(options, threads)
    data = _load(plan, options)
    images = _tensors(data, device, hold_out=hold_out)
    trials = _rehearsed(plan, options, images, device, seeds=seeds, seed=seed)
    tests = []
    for number, trial in enumerate(trials):
        curve, net = _trained(trial, images, device, stop=stop, tell=partial(tell, number))
        tests.append(_tested(trial, net, data, device))
        if number == 0:
            first, kept = curve, net
    labels = data.labels[data.split.test]
    scores = [score(given, labels, classes=data.classes) for given in tests]
    provenance = _provenance(plan, trials, data, device, threads=threads, hold_out=hold_out)
    return RetrainedModel(
        plan=plan,
        trial=trials[0],
        model=_loaded(kept, trials[0], data, device, provenance),
        scores=scores[0],
        seeds=tuple(trial.seed for trial in trials),
        accuracies=mean_and_deviation([each.accuracy for each in scores]),
        curve=first,
        held_out=hold_out,
        images=data.images[data.split.test],
        labels=labels,
        predicted=tests[0].argmax(axis=1),
    )


def _load(plan: RetrainPlan, options: WorkerOptions) -> ImageData:
    """The plan's images; refuses others than the study's, whose test images it may have used."""
    from hpsearch.nn.data.dataset import load

    spec = plan.spec
    data = load(spec.data, data_dir=options.data_dir, seed=spec.search.seed)
    found = differences(plan.data, data.fingerprint)
    if plan.data and found:
        raise StudyError(
            f"study {plan.study!r} searched other images ({describe_image_changes(found)}); name"
            " where its own lie with --dataset"
        )
    _, height, width = data.input_shape
    check_shift(spec.train.shift, height=height, width=width)
    return data


def _tensors(data: ImageData, device: torch.device, *, hold_out: bool) -> Tensors:
    """Puts all but the test images on the device; all are to be trained on but for ``hold_out``."""
    import numpy as np

    from hpsearch.nn.data.tensors import tensors_of

    if not hold_out:
        both = np.sort(np.concatenate([data.split.train, data.split.val]))
        split = replace(data.split, train=both, val=data.split.val[:0])
        data = replace(data, split=split)
    return tensors_of(data, device=device)


def _rehearsed(
    plan: RetrainPlan,
    options: WorkerOptions,
    images: Tensors,
    device: torch.device,
    *,
    seeds: int,
    seed: int | None,
) -> list[TrialSpec]:
    """The trainings, one per seed, of which the first has been tried out."""
    from hpsearch.nn.training.smoke_test import smoke_test
    from hpsearch.nn.user_code import add_import_path

    base = plan.spec.search.seed if seed is None else seed
    trials = [plan.configured(base, number) for number in range(seeds)]
    if plan.spec.has_user_code:
        add_import_path(options.code)
    smoke_test(trials[0], images, device=device)
    return trials


def _trained(
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
            f"the training diverged: {exc}; set a lower rate with --set learning_rate=…"
        ) from exc
    return tuple(curve), net


def _tested(trial: TrialSpec, net: nn.Module, data: ImageData, device: torch.device) -> np.ndarray:
    """The probabilities that the net gives to the test images, (N, K): the only look at them."""
    import torch

    from hpsearch.nn.serving.predict import probabilities

    images = torch.from_numpy(data.images[data.split.test]).permute(0, 3, 1, 2)  # (N, C, H, W)
    with translate_failures(trial):
        given = probabilities(net, images, mean=data.mean, std=data.std, device=device)
    return given.numpy()


def _loaded(
    net: nn.Module,
    trial: TrialSpec,
    data: ImageData,
    device: torch.device,
    provenance: Mapping[str, Any],
) -> LoadedModel:
    from hpsearch.nn.serving.model_config import ModelConfig
    from hpsearch.nn.serving.predict import LoadedModel

    config = ModelConfig(
        model=trial.model,
        input_shape=data.input_shape,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        provenance=provenance,
    )
    return LoadedModel(config=config, net=net.eval(), device=device)


def _provenance(
    plan: RetrainPlan,
    trials: Sequence[TrialSpec],
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
        "train": asdict(trials[0].train),
        "seed": trials[0].seed,
        "trained_on": "training images" if hold_out else "training and validation images",
        "dataset": data.name,
        "data": data.fingerprint,
        "hardware": {"device": describe(device), "threads": threads},
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
