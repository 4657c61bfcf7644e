"""One trial from its spec to its outcome: build, measure, train, and ask whether to go on."""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import nn

from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.space import KNOWN, ChoiceDim, Dim, Value, draw
from hpsearch.core.spec import StudySpec, TrialSpec, resolve
from hpsearch.core.trial import Curve, Outcome, State
from hpsearch.errors import SpecError, StorageError
from hpsearch.nn.batches import Tensors
from hpsearch.nn.cost import count, measure
from hpsearch.nn.device import free_memory, is_out_of_memory
from hpsearch.nn.interrupt import Interrupted
from hpsearch.nn.model import build
from hpsearch.nn.train import Diverged
from hpsearch.nn.training import train
from hpsearch.search.checkpoint import Keeper
from hpsearch.search.claim import Claim
from hpsearch.search.observer import Observer
from hpsearch.search.ownership import GivenAway
from hpsearch.search.peers import Others, explain
from hpsearch.search.records import curve_of
from hpsearch.search.study import Study
from hpsearch.search.worker import Stopper

Bounds = dict[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """What all trials of a worker share: the images on the device, and whom to tell."""

    study: Study
    images: Tensors
    device: torch.device
    observer: Observer

    def __call__(self, claim: Claim, stop: Stopper) -> Outcome:
        """Trains the trial until it is complete, hopeless, diverged or broken.

        The one broad ``except`` of the search stands here: whatever breaks a trial is kept with
        it, and the search goes on.

        Raises:
            Interrupted: ``stop`` asked for it; the epoch was finished and kept, unless it took
                too long.
            GivenAway: the trial is another worker's by now.
            StorageError: the database is away.
        """
        try:
            return self._train(claim, stop)
        except (Interrupted, GivenAway, StorageError):
            raise
        except Diverged as exc:
            return Outcome(state=State.PRUNED, reason=f"diverged: {exc}")
        except Exception as exc:
            kind = "out of memory" if is_out_of_memory(exc) else "bug"
            said = next(iter(str(exc).strip().splitlines()), "no message")
            reason = f"{kind}: {type(exc).__name__}: {said[:300]}"
            failure = {"kind": kind, "traceback": traceback.format_exc()}
        free_memory(self.device)  # outside the handler, whose traceback holds the tensors
        return Outcome(state=State.FAILED, reason=reason, details={"failure": failure})

    def _train(self, claim: Claim, stop: Stopper) -> Outcome:
        spec, study, device = claim.spec, self.study, self.device
        model = build(spec.model, self.images.input_shape, self.images.classes, seed=spec.seed)
        keeper = Keeper(study, claim)
        progress, curve = keeper.restore(model, device=device)
        cost = self._cost(claim, model, resumed=bool(curve))
        study.record_cost(claim, cost, curve)
        self.observer.started(claim.number, claim.params, cost)
        self._tell_of_earlier(claim, curve)
        others = Others(study, claim.number)
        details: dict[str, object] = {}
        going = train(
            model, self.images, spec.train, device=device, stop=stop.overdue, progress=progress
        )
        for epoch in going:
            curve = (*curve, epoch)
            study.record_epoch(claim, curve)
            self.observer.trained(claim.number, epoch)
            verdict = others.judge(curve, cost)
            if verdict is not None and not claim.control:
                reason = explain(verdict)
                return Outcome(
                    state=State.PRUNED, reason=reason, details={"pruning": asdict(verdict)}
                )
            if verdict is not None:
                details.setdefault("would_prune", asdict(verdict))
            if len(curve) < spec.train.epochs:
                if progress.epoch == len(curve):  # a training of one's own may leave it alone
                    keeper.keep(model, progress, curve, now=stop())
                if stop():
                    raise Interrupted
        values = measured({**cost, "train_seconds": curve[-1].train_seconds}, curve)
        chosen = {name: values[name] for name in study.objectives}
        return Outcome(state=State.COMPLETE, values=chosen, details=details)

    def _cost(self, claim: Claim, model: nn.Module, *, resumed: bool) -> Mapping[str, float]:
        """The trial's costs; one that goes on keeps those it was judged by so far."""
        known: Mapping[str, float] | None = claim.attributes.get("cost")
        if resumed and known is not None:
            return known
        return measure(model, self.images.input_shape, device=self.device)

    def _tell_of_earlier(self, claim: Claim, curve: Curve) -> None:
        """Shows the epochs that the trial goes on from, or says that it has to start over."""
        for epoch in curve:
            self.observer.trained(claim.number, epoch)
        lost = curve_of(claim.attributes.get("curve"))
        if lost and not curve:
            self.observer.note(
                f"trial {claim.number} starts over: the checkpoint of its {len(lost)} epochs is"
                " not to be had here"
            )


def measured(cost: Mapping[str, float], curve: Curve) -> dict[str, float]:
    """Returns every objective's value at the end of a training."""
    last = curve[-1]
    return {**cost, "accuracy": last.val_accuracy, "val_loss": last.val_loss}


def objective_bounds(spec: StudySpec, images: Tensors, device: torch.device) -> Bounds:
    """Returns each objective's range over the space, for a hypervolume that never falls.

    Accuracy runs from chance to 1, loss from 0 to that of guessing; costs from half of what the
    cheapest corner of the space takes to twice what the dearest takes, both measured on a few
    training steps.
    """
    classes = images.classes
    bounds: Bounds = {"accuracy": (1 / classes, 1.0), "val_loss": (0.0, math.log(classes))}
    if any(OBJECTIVES[name].is_cost for name in spec.search.objectives):
        cheap, dear = corners(spec)
        high = _affordable_cost(dear, images, device)  # first: it warms everything up
        low = _corner_cost(cheap, images, device, steps=32)
        high = high or _extrapolated(dear, low, images)
        for name in low:
            ends = sorted((low[name], high[name]))
            bounds[name] = (ends[0] / 2, ends[1] * 2)
    return {name: bounds[name] for name in spec.search.objectives}


def corners(spec: StudySpec) -> tuple[TrialSpec, TrialSpec]:
    """Returns the cheapest and the dearest trial of the space, as far as can be told before."""
    return _corner(spec, cheap=True), _corner(spec, cheap=False)


def _corner(spec: StudySpec, *, cheap: bool) -> TrialSpec:
    params = draw(spec.space, lambda name, dim: _end(name, dim, cheap=cheap))
    return resolve(spec, number=0, params=params)


def _corner_cost(
    trial: TrialSpec, images: Tensors, device: torch.device, *, steps: int
) -> dict[str, float]:
    model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
    cost = measure(model, images.input_shape, device=device)
    return {**cost, "train_seconds": _probe_seconds(trial, images, device, steps=steps)}


def _affordable_cost(
    trial: TrialSpec, images: Tensors, device: torch.device
) -> dict[str, float] | None:
    """The corner's cost; None if it does not fit in memory."""
    try:
        return _corner_cost(trial, images, device, steps=8)
    except Exception as exc:
        if not is_out_of_memory(exc):
            raise
    free_memory(device)
    return None


def _extrapolated(trial: TrialSpec, low: Mapping[str, float], images: Tensors) -> dict[str, float]:
    """A corner's cost from that of another, by the ratio of their operations."""
    counted = count(trial.model, images.input_shape, images.classes)
    return {**{name: low[name] * counted["flops"] / low["flops"] for name in low}, **counted}


def _probe_seconds(trial: TrialSpec, images: Tensors, device: torch.device, *, steps: int) -> float:
    """Estimates a full training's seconds from a few steps on the first images."""
    total = len(images.train_labels)
    batch = min(trial.train.batch_size, total)
    kept = min(total, batch * steps)
    few = dataclasses.replace(
        images,
        train_images=images.train_images[:kept],
        train_labels=images.train_labels[:kept],
        val_images=images.val_images[:1],
        val_labels=images.val_labels[:1],
    )
    recipe = dataclasses.replace(trial.train, epochs=1, learning_rate=1e-8)
    model = build(trial.model, images.input_shape, images.classes, seed=trial.seed)
    try:
        (epoch,) = train(model, few, recipe, device=device)
    except Diverged as exc:  # never the built-in one, at that rate
        raise SpecError(
            f"{exc} of the first steps at an end of the space, expected finite losses there; narrow"
            " the space"
        ) from exc
    full = (total // batch) * trial.train.epochs
    return epoch.train_seconds * full / (kept // batch)


_CHEAP: Mapping[str, Value] = {"head": "gap", "optimizer": "sgd", "batch_norm": False}
_DEAR: Mapping[str, Value] = {"head": "flatten", "optimizer": "adamw", "batch_norm": True}


def _end(name: str, dim: Dim, *, cheap: bool) -> Value:
    """The cheap or the dear end of a dimension; large batches are the cheap ones.

    Choices of a person's own that are no numbers are taken to go from cheap to dear.
    """
    if isinstance(dim, ChoiceDim) and not all(type(c) in (int, float) for c in dim.choices):
        if name not in KNOWN:
            return dim.choices[0 if cheap else -1]
        wanted = (_CHEAP if cheap else _DEAR).get(name)
        return wanted if wanted is not None and wanted in dim.choices else dim.choices[0]
    low, high = (
        (min(dim.choices), max(dim.choices)) if isinstance(dim, ChoiceDim) else (dim.low, dim.high)
    )
    return low if cheap != (name == "batch_size") else high
