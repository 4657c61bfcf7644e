"""Samplers of hyperparameters: those of Optuna, seeded per trial, and a grid.

Every trial gets a new sampler, seeded by the study's seed and the trial's number. Its draw depends
on these and on the finished trials, never on the process. With the study's seed alone, every new
sampler of Optuna would repeat the same first draws.
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
from hpsearch.core.space import cells, draw
from hpsearch.core.spec import StudySpec, derive_seed
from hpsearch.errors import StudyError
from hpsearch.search.storage.records import STATES, state_of
from hpsearch.search.storage.tables import Write

MAX_CELLS = 100_000
LEARNING = ("tpe", "nsga2", "gp")  # samplers that learn from trials: good first ones help them
START_UP = 10  # random trials before a model is fitted; no share of the budget, which may change


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

    ``cell`` holds the values of its grid cell, if any; ``alone``: no other trial runs now;
    ``images`` is the number of training images, if known. ``scaled`` caches complete trials with
    the logarithms of their costs, by number: building it for 5,000 trials takes 0.1 s.
    """
    seed = derive_seed(spec.search.seed, number, "sampler")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = _base_sampler(spec, number, cell or {}, seed=seed, alone=alone, images=images)
    objectives = spec.search.objectives
    if len(objectives) == 1 or spec.search.sampler not in LEARNING or not costs(objectives):
        return sampler
    return LogCostSampler(sampler, objectives, {} if scaled is None else scaled)


def _base_sampler(
    spec: StudySpec,
    number: int,
    cell: Mapping[str, Value],
    *,
    seed: int,
    alone: bool,
    images: int | None,
) -> BaseSampler:
    random = optuna.samplers.RandomSampler(seed=seed)
    # A learning sampler starts from nets chosen to span the costs, not from random ones.
    if number < INITIAL_TRIALS and spec.search.sampler in LEARNING:
        return CellSampler(initial_trial(spec.space, number, images), random)
    match spec.search.sampler:
        case "tpe":
            # The liar accounts for trials that run at the same time. It makes TPE read all trials
            # again for each value (0.20 instead of 0.12 s a trial): without such trials, omit it.
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
            # One sequence for the study: a seed per trial would scramble each point differently.
            return NumberedQMCSampler(
                number, seed=derive_seed(spec.search.seed, "qmc"), independent_sampler=random
            )
        case "grid" | "grid+random":
            return CellSampler(cell, random)
        case _:
            return random


def population(spec: StudySpec) -> int:
    """Returns the population size of NSGA-II: a fifth of the budget, 4 to 50.

    Only complete trials become parents. With Optuna's default of 50, a study of 100 trials of which
    half are pruned never leaves random sampling.
    """
    return min(50, max(4, spec.search.trials // 5))


class LogCostSampler(BaseSampler):
    """Shows another sampler the logarithms of costs, which the hypervolume and the knee also use.

    Samplers weight trials by the hypervolume of their plain values. If costs span two decades, the
    cheap half of the front covers a hundredth of the axis, and the sampler never learns about it.
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
        """Returns the dimensions that the other sampler draws jointly."""
        return self._inner.infer_relative_search_space(self._scaled_study(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns the other sampler's joint draw."""
        return self._inner.sample_relative(self._scaled_study(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Returns the other sampler's draw of one value."""
        scaled = self._scaled_study(study)
        return self._inner.sample_independent(scaled, trial, param_name, param_distribution)

    def _scaled_study(self, study: optuna.Study) -> optuna.Study:
        """The study with the costs of its complete trials replaced by their logarithms."""
        # A shallow copy: the sampler may read everything else of the study, and write through it.
        scaled, read = copy.copy(study), study._get_trials

        def get_trials(*arguments: Any, **options: Any) -> list[FrozenTrial]:
            return [scale(trial) for trial in read(*arguments, **options)]

        def scale(trial: FrozenTrial) -> FrozenTrial:
            if trial.state is not TrialState.COMPLETE:
                return trial
            if trial.number not in self._scaled:
                copied = copy.copy(trial)
                pairs = zip(trial.values, self._is_cost, strict=True)
                copied.values = [_log_cost(v) if is_cost else v for v, is_cost in pairs]
                # Complete trials never change, so a copy serves every later trial of this process.
                self._scaled[trial.number] = copied
            return self._scaled[trial.number]

        scaled._get_trials = get_trials  # type: ignore[method-assign]
        return scaled


def _log_cost(cost: float) -> float:
    # A cost of 0 (a net without parameters) has no logarithm.
    return math.log(max(cost, 1e-12))


class NumberedQMCSampler(optuna.samplers.QMCSampler):
    """A Sobol sequence in which the trial's number selects the point.

    Optuna stores a counter in the study, which it reads and writes in two steps: two workers may
    draw the same point (its source says so).
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
    """A Gaussian process that also learns from pruned trials, by their last values.

    Optuna's own uses complete trials only: after a pruned one it proposes the same point again
    (seen with Optuna 5.0: 9 different configurations in 30 trials).
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
        pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        # The worst value of each objective so far is assumed for diverged trials.
        columns = zip(*(t.values for t in completed_trials), strict=True)
        worst = {
            name: min(column) if direction is StudyDirection.MAXIMIZE else max(column)
            for name, direction, column in zip(
                self._objectives, study.directions, columns, strict=True
            )
        }
        # A trial of another depth lacks dimensions of this space, and the process needs them all.
        pruned = [t for t in pruned if search_space.keys() <= t.params.keys()]
        trials = [*completed_trials, *(self._as_complete(t, worst) for t in pruned)]
        return super()._sample_relative_impl(study, trials, running_trials, search_space)

    def _as_complete(self, trial: FrozenTrial, worst: Mapping[str, float]) -> FrozenTrial:
        curve, values = trial.user_attrs.get("curve") or {}, dict(trial.user_attrs.get("cost", {}))
        if curve:
            values |= {name: curve[name][-1] for name in ("val_loss", "train_seconds")}
            values["accuracy"] = curve["val_accuracy"][-1]
        if len(self._objectives) > 1:  # then complete trials come scaled by LogCostSampler
            timed = [name for name in costs(self._objectives) if name in values]
            values |= {name: _log_cost(values[name]) for name in timed}
        copied = copy.copy(trial)
        copied.state = TrialState.COMPLETE
        copied.values = [values.get(name, worst[name]) for name in self._objectives]
        return copied


class CellSampler(BaseSampler):
    """Returns the values of a grid cell, and draws dimensions outside the grid at random."""

    def __init__(self, cell: Mapping[str, Value], random: BaseSampler) -> None:
        self._cell = cell
        self._random = random

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Returns no dimension: none is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns no value: none is drawn jointly."""
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
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def sample(
    study: optuna.Study, trial: FrozenTrial, spec: StudySpec
) -> tuple[dict[str, Value], list[Write]]:
    """Draws a trial's values with its study's sampler; returns them and the rows to write.

    Differs from Optuna's ``Trial``, which commits each value separately. Keeps values that an
    earlier start of the trial drew, and values set by `hpsearch enqueue`. Reads the other trials
    once; TPE would read the running ones again for each value.
    """
    sampler, drawn, study = study.sampler, copy.copy(trial), own_trials(study, spec)
    drawn.params, drawn.distributions = dict(trial.params), dict(trial.distributions)
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    writes: list[Write] = []

    # Drawn when first asked for: a trial whose values are all fixed needs no joint draw.
    @functools.cache
    def joint() -> dict[str, Any]:
        joint_space = sampler.infer_relative_search_space(study, drawn)
        return sampler.sample_relative(study, drawn, joint_space)

    def choose(name: str, dim: Dim) -> Value:
        possible = distribution(dim)

        def typed(value: Any) -> Value:  # another program may have written 3.0 for 3
            same: Value = possible.to_external_repr(possible.to_internal_repr(value))
            return same

        if name in trial.params:
            return typed(trial.params[name])
        if name in fixed:
            value = typed(fixed[name])
        elif possible.single():
            value = dim.choices[0] if isinstance(dim, ChoiceDim) else dim.low
        # The joint draw covers only dimensions that earlier trials share.
        elif name in joint() and possible._contains(possible.to_internal_repr(joint()[name])):
            value = joint()[name]
        else:
            value = sampler.sample_independent(study, drawn, name, possible)
        # Later conditional dimensions are drawn given these, as in Optuna's own Trial.
        writes.append((name, possible.to_internal_repr(value), possible))
        drawn.params[name], drawn.distributions[name] = value, possible
        return value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw(spec.space, choose), writes


def own_trials(study: optuna.Study, spec: StudySpec) -> optuna.Study:
    """Returns a copy of the study for Optuna's samplers and evaluators.

    Its trials are read once, when they are first needed. Trials that hpsearch did not train are
    left out: their values are not comparable, and their parameters may lie outside the space.
    """
    snapshot, read = copy.copy(study), study.get_trials

    @functools.cache
    def all_trials() -> list[FrozenTrial]:
        trials, epochs = read(deepcopy=False), spec.train.epochs
        return [t for t in trials if state_of(t, epochs=epochs) is STATES[t.state]]

    def get_trials(
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = [t for t in all_trials() if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    snapshot._get_trials = get_trials  # type: ignore[method-assign]
    return snapshot


def distribution(dim: Dim) -> BaseDistribution:
    """Returns Optuna's distribution for a dimension."""
    if isinstance(dim, ChoiceDim):
        return CategoricalDistribution(dim.choices)
    if isinstance(dim, IntDim):
        return IntDistribution(dim.low, dim.high, log=dim.log, step=dim.step or 1)
    return FloatDistribution(dim.low, dim.high, log=dim.log, step=dim.step)


def grid_cells(spec: StudySpec) -> list[dict[str, Value]]:
    """Returns the cells of the study's grid, in the order in which trials are assigned to them.

    Raises:
        StudyError: the grid has more than ``MAX_CELLS`` cells.
    """
    names = spec.grid_dimensions
    every = cells(spec.space, names, spec.search.grid_points)
    listed = list(itertools.islice(every, MAX_CELLS + 1))  # a grid may be too large to list
    if len(listed) > MAX_CELLS:
        raise StudyError(
            f"the grid over {', '.join(names)} has more than {MAX_CELLS:,} cells; narrow the"
            " space, fix dimensions, or list fewer in search.grid"
        )
    return listed


def free_slot(taken: Iterable[int], spec: StudySpec, n_cells: int) -> int | None:
    """Returns the first slot that no counted or running trial holds; None if the grid is used up.

    Slot k is cell k modulo the number of cells. ``grid`` visits each cell once, ``grid+random``
    repeats them without limit.
    """
    held = set(taken)
    # The lowest free slot: a cell whose trial failed is dealt again before new ones.
    slot = next(slot for slot in itertools.count() if slot not in held)
    rounds = 1 if spec.search.sampler == "grid" else math.inf
    return slot if slot < n_cells * rounds else None
