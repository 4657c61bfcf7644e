"""Where a trial's values come from: Optuna's samplers, seeded by trial, and our own grid.

Every trial gets a sampler of its own, seeded by the study's seed and the trial's number. So what
is drawn depends on those and on the finished trials, never on the process: Optuna's samplers made
anew with one seed repeat their first draws.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpsearch.core.dimensions import ChoiceDim, Dim, IntDim, Value
from hpsearch.core.initial_trials import INITIAL_TRIALS, initial_trial
from hpsearch.core.objectives import OBJECTIVES, costs
from hpsearch.core.space import Space, cells, draw
from hpsearch.core.spec import StudySpec, derive_seed
from hpsearch.errors import StudyError
from hpsearch.search.storage.tables import Write

MAX_CELLS = 100_000
LEARNING = ("tpe", "nsga2", "gp")  # the samplers that learn, and so profit from a good beginning
START_UP = 10  # random trials before a model is asked; not of the budget, which may change


def make_sampler(
    spec: StudySpec,
    number: int,
    *,
    cell: Mapping[str, Value] | None,
    alone: bool,
    images: int | None = None,
    scaled: dict[int, FrozenTrial] | None = None,
) -> BaseSampler:
    """Returns the sampler for trial ``number``.

    Args:
        spec: the study.
        number: the trial.
        cell: its grid cell's values, if any.
        alone: no other trial runs now.
        images: how many there are to train on, where that is known.
        scaled: complete trials with logarithms of their costs, by number; kept from draw to draw,
            since to make 5,000 anew takes a tenth of a second.
    """
    seed = derive_seed(spec.search.seed, number, "sampler")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made = _make(spec, number, cell or {}, seed=seed, alone=alone, images=images)
    several = len(spec.search.objectives) > 1
    learns = spec.search.sampler in LEARNING and costs(spec.search.objectives)
    if not (several and learns):
        return made
    return LogCostSampler(made, spec.search.objectives, {} if scaled is None else scaled)


def _make(
    spec: StudySpec,
    number: int,
    cell: Mapping[str, Value],
    *,
    seed: int,
    alone: bool,
    images: int | None,
) -> BaseSampler:
    random = optuna.samplers.RandomSampler(seed=seed)
    if number < INITIAL_TRIALS and spec.search.sampler in LEARNING:
        return CellSampler(initial_trial(spec.space, number, images), random)
    match spec.search.sampler:
        case "tpe":
            # The liar is for trials that run beside this one; it makes TPE read all trials anew
            # for each value (0.20 instead of 0.12 s a trial), so it is left out where none does.
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=START_UP, constant_liar=not alone
            )
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=population(spec))
        case "gp":
            return StoppedAwareGPSampler(
                spec.search.objectives,
                seed=seed,
                independent_sampler=random,
                n_startup_trials=START_UP,
            )
        case "qmc":
            return NumberedQMCSampler(
                number, seed=derive_seed(spec.search.seed, "qmc"), independent_sampler=random
            )
        case "grid" | "grid+random":
            return CellSampler(cell, random)
        case _:
            return random


def population(spec: StudySpec) -> int:
    """NSGA-II's population: a fifth of the budget, since only complete trials breed.

    Optuna's 50 never leaves random sampling in 100 trials of which half are pruned.
    """
    return min(50, max(4, spec.search.trials // 5))


class LogCostSampler(BaseSampler):
    """Lets another sampler see costs by their logarithm, as the hypervolume and the knee do.

    Samplers weigh trials by the hypervolume of the values as they are. There the cheap half of a
    front that spans two decades is a hundredth of an axis, and what to do there is never learnt.
    """

    def __init__(
        self, inner: BaseSampler, objectives: Sequence[str], scaled: dict[int, FrozenTrial]
    ) -> None:
        self._inner = inner
        self._is_cost = [OBJECTIVES[name].is_cost for name in objectives]
        self._scaled = scaled

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Returns what the other sampler draws jointly."""
        return self._inner.infer_relative_search_space(self._seen(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns the other sampler's joint draw."""
        return self._inner.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Returns the other sampler's draw of one value."""
        seen = self._seen(study)
        return self._inner.sample_independent(seen, trial, param_name, param_distribution)

    def _seen(self, study: optuna.Study) -> optuna.Study:
        """The study with the costs of its complete trials replaced by their logarithms."""
        seen = copy.copy(study)
        read = study._get_trials

        def get_trials(*arguments: Any, **options: Any) -> list[FrozenTrial]:
            return [self._scale(trial) for trial in read(*arguments, **options)]

        seen._get_trials = get_trials  # type: ignore[method-assign]
        return seen

    def _scale(self, trial: FrozenTrial) -> FrozenTrial:
        if trial.state is not TrialState.COMPLETE:
            return trial
        if trial.number not in self._scaled:
            scaled = copy.copy(trial)
            pairs = zip(trial.values, self._is_cost, strict=True)
            scaled.values = [_log(v) if cost else v for v, cost in pairs]
            self._scaled[trial.number] = scaled
        return self._scaled[trial.number]


def _log(cost: float) -> float:
    return math.log(max(cost, 1e-12))


class NumberedQMCSampler(optuna.samplers.QMCSampler):
    """A Sobol sequence whose point is the trial's number.

    Optuna keeps its own counter in the study, read and written in two steps, so two workers may
    draw one point (its source says so).
    """

    def __init__(self, number: int, *, seed: int, independent_sampler: BaseSampler) -> None:
        super().__init__(
            scramble=True,
            seed=seed,
            independent_sampler=independent_sampler,
            warn_independent_sampling=False,
        )
        self._number = number

    def _find_sample_id(self, study: Any, search_space: Any) -> int:
        return self._number


class StoppedAwareGPSampler(optuna.samplers.GPSampler):
    """A Gaussian process that learns from stopped trials too, by what they had reached.

    Optuna's looks at complete trials alone: after a stopped one it knows nothing new and proposes
    the same point again (seen with optuna 5.0: 9 different configurations in 30 trials).
    """

    def __init__(self, objectives: Sequence[str], **settings: Any) -> None:
        super().__init__(**settings)
        self._objectives = objectives

    def _sample_relative_impl(
        self,
        study: optuna.Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        stopped = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        worst = self._worst(study, completed_trials)
        known = [t for t in stopped if search_space.keys() <= t.params.keys()]
        learned = [*completed_trials, *(self._as_complete(t, worst) for t in known)]
        return super()._sample_relative_impl(study, learned, running_trials, search_space)

    def _worst(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[str, float]:
        """The worst value of each objective so far: what a diverged trial is taken to have."""
        columns = zip(*(t.values for t in trials), strict=True)
        worse = [min if d is StudyDirection.MAXIMIZE else max for d in study.directions]
        pick = zip(self._objectives, worse, columns, strict=True)
        return {name: choose(column) for name, choose, column in pick}

    def _as_complete(self, trial: FrozenTrial, worst: Mapping[str, float]) -> FrozenTrial:
        curve, known = trial.user_attrs.get("curve") or {}, dict(trial.user_attrs.get("cost", {}))
        columns = {"accuracy": "val_accuracy", "val_loss": "val_loss"}
        columns["train_seconds"] = "train_seconds"
        known |= {name: curve[column][-1] for name, column in columns.items() if curve}
        if len(self._objectives) > 1:  # complete trials come through LogCostSampler
            known |= {name: _log(known[name]) for name in costs(self._objectives) if name in known}
        copied = copy.copy(trial)
        copied.state = TrialState.COMPLETE
        copied.values = [known.get(name, worst[name]) for name in self._objectives]
        return copied


class CellSampler(BaseSampler):
    """Gives a grid cell's values where it has them and random ones elsewhere."""

    def __init__(self, cell: Mapping[str, Value], rest: BaseSampler) -> None:
        self._cell = cell
        self._rest = rest

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Returns the cell's value, or a random one."""
        if param_name in self._cell:
            return self._cell[param_name]
        return self._rest.sample_independent(study, trial, param_name, param_distribution)


def sample(
    study: optuna.Study, trial: FrozenTrial, space: Space
) -> tuple[dict[str, Value], list[Write]]:
    """Draws a trial's values by its study's sampler; returns them, and what is to be stored.

    As Optuna's own ``Trial`` does, but that it stores each value as it is drawn, in a transaction
    of its own. What an earlier start drew, or `hpsearch enqueue` set, is taken as it is. The other
    trials are read once: TPE would read all running ones anew for each value.
    """
    sampler, drawn, study = study.sampler, copy.copy(trial), _snapshot(study)
    drawn.params, drawn.distributions = dict(trial.params), dict(trial.distributions)
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    writes: list[Write] = []

    @functools.cache
    def joint() -> dict[str, Any]:
        together = sampler.infer_relative_search_space(study, drawn)
        return sampler.sample_relative(study, drawn, together)

    def choose(name: str, dim: Dim) -> Value:
        if name in trial.params:
            known: Value = trial.params[name]
            return known
        possible = distribution(dim)
        if name in fixed:
            value = fixed[name]
        elif possible.single():
            value = _only(dim)
        elif name in joint() and possible._contains(possible.to_internal_repr(joint()[name])):
            value = joint()[name]
        else:
            value = sampler.sample_independent(study, drawn, name, possible)
        writes.append((name, possible.to_internal_repr(value), possible))
        drawn.params[name], drawn.distributions[name] = value, possible
        return value  # type: ignore[no-any-return]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw(space, choose), writes


def _snapshot(study: optuna.Study) -> optuna.Study:
    """The study with its trials as they are at the first look."""
    seen, read = copy.copy(study), study.get_trials

    @functools.cache
    def everyone() -> list[FrozenTrial]:
        return read(deepcopy=False)

    def get_trials(
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        chosen = [t for t in everyone() if states is None or t.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen

    seen._get_trials = get_trials  # type: ignore[method-assign]
    return seen


def _only(dim: Dim) -> Value:
    """The one value of a dimension that has no more."""
    return dim.choices[0] if isinstance(dim, ChoiceDim) else dim.low


def distribution(dim: Dim) -> BaseDistribution:
    """Returns Optuna's distribution for a dimension."""
    if isinstance(dim, ChoiceDim):
        return CategoricalDistribution(dim.choices)
    if isinstance(dim, IntDim):
        return IntDistribution(dim.low, dim.high, log=dim.log, step=dim.step or 1)
    return FloatDistribution(dim.low, dim.high, log=dim.log, step=dim.step)


def grid_cells(spec: StudySpec) -> list[dict[str, Value]]:
    """Returns the cells of the study's grid, in the order in which they are dealt.

    Raises:
        StudyError: the grid has more cells than anyone can train.
    """
    names = spec.grid_dimensions
    found = itertools.islice(cells(spec.space, names, spec.search.grid_points), MAX_CELLS + 1)
    listed = list(found)
    if len(listed) > MAX_CELLS:
        raise StudyError(
            f"the grid over {', '.join(names)} has more than {MAX_CELLS:,} cells; narrow the"
            " space, fix dimensions, or name fewer in search.grid"
        )
    return listed


def free_slot(taken: Iterable[int], spec: StudySpec, n_cells: int) -> int | None:
    """Returns the first slot that no counted or live trial holds; None when a grid is used up.

    Slot k is cell k modulo the cells; ``grid`` deals one round, ``grid+random`` as many as asked.
    """
    held = set(taken)
    slot = next(slot for slot in itertools.count() if slot not in held)
    rounds = 1 if spec.search.sampler == "grid" else math.inf
    return slot if slot < n_cells * rounds else None
