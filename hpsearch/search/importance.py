"""Which hyperparameters decide a study's outcome, by Optuna's PED-ANOVA, as plain numbers."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpsearch.core.findings import Importance
from hpsearch.core.objectives import utility
from hpsearch.core.space import without_effect
from hpsearch.search.study import Study

ENOUGH = 20  # complete trials, so that the best tenth is two of them at least


def importances(study: Study) -> tuple[Importance, ...]:
    """Returns the importance of each hyperparameter for each objective, and for being on the front.

    For belonging to the best tenth, among the complete trials. Dimensions of the built-in net and
    training that cannot change a cost have no share in it: that good trials are alike in them is
    the sampler's doing. Empty with fewer than 20 complete trials, and where Optuna cannot tell (no
    dimension was drawn, all trials are alike).
    """
    handle = study.handle
    complete = study.storage.patiently(
        lambda: handle.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    )
    finite = sum(all(map(math.isfinite, trial.values)) for trial in complete)
    if finite < ENOUGH:
        return ()
    targets: dict[str, Callable[[FrozenTrial], float] | None] = {
        name: functools.partial(_loss, name, place) for place, name in enumerate(study.objectives)
    }
    if len(study.objectives) > 1:
        targets["front"] = None  # by rank of non-domination
    found = {
        target: _shares(handle, value, without=_without_effect(study, target))
        for target, value in targets.items()
    }
    return tuple(
        Importance(target=target, trials=finite, shares=shares)
        for target, shares in found.items()
        if shares
    )


def _without_effect(study: Study, target: str) -> frozenset[str]:
    """The dimensions that cannot change the target; none where a person's own code may use them."""
    if study.spec.has_own_code:
        return frozenset()
    names = study.objectives if target == "front" else (target,)
    return frozenset.intersection(*(without_effect(name) for name in names))


def _loss(name: str, place: int, trial: FrozenTrial) -> float:
    """The objective's value with its sign such that smaller is better, as PED-ANOVA expects it."""
    return -utility(name, trial.values[place])


def _shares(
    handle: optuna.Study,
    target: Callable[[FrozenTrial], float] | None,
    *,
    without: frozenset[str],
) -> dict[str, float]:
    importance = _optuna_importance()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that smaller is better, and that a regime is small
        try:
            found = importance.get_param_importances(
                handle,
                evaluator=importance.PedAnovaImportanceEvaluator(),
                target=target,
                normalize=False,  # where nothing matters it would make all equal
            )
        except (ValueError, RuntimeError, ZeroDivisionError):
            return {}
    kept = {name: float(value) for name, value in found.items() if name not in without}
    known = {name: value for name, value in kept.items() if math.isfinite(value)}
    total = sum(known.values())
    return {name: value / total for name, value in known.items()} if total > 0 else {}


@functools.cache
def _optuna_importance() -> ModuleType:
    """Optuna's module of importances, a copy of our own that was loaded without scikit-learn.

    It imports scikit-learn for the sake of fANOVA, which is not used here: 2 to 4 s (Intel Xeon,
    Optuna 5.0). Others in this process still get the whole module.
    """
    with _hidden("sklearn"), _forgotten("optuna.importance"):
        return import_module("optuna.importance")


@contextlib.contextmanager
def _hidden(library: str) -> Iterator[None]:
    """Makes a library look as if it were not installed, unless it is loaded already."""
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules[library]


@contextlib.contextmanager
def _forgotten(package: str) -> Iterator[None]:
    """Puts the imports of a package back to what they were, whatever is imported inside."""

    def take() -> dict[str, ModuleType]:
        names = [n for n in sys.modules if n == package or n.startswith(f"{package}.")]
        return {name: sys.modules.pop(name) for name in names}

    parent, _, child = package.rpartition(".")
    attribute = getattr(sys.modules[parent], child)
    before = take()
    try:
        yield
    finally:
        take()
        sys.modules.update(before)
        setattr(sys.modules[parent], child, attribute)
