"""Decides what to retrain: a trial of a study, or a configuration from settings alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpsearch.core.analysis.selection import TrialSelection, select_trial
from hpsearch.core.dimensions import Value
from hpsearch.core.overrides import apply_overrides, default_configuration, parse_overrides
from hpsearch.core.space import default_space, dims
from hpsearch.core.spec import (
    DataSpec,
    StudySpec,
    TrialSpec,
    derive_seed,
    reseeded,
    resolve,
    with_dataset,
)
from hpsearch.core.trial import reached
from hpsearch.errors import SpecError
from hpsearch.search.storage.records import DATA
from hpsearch.search.study.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainPlan:
    """A configuration to train and the data to train it on.

    ``study`` and ``trial`` are the origin of the configuration, None if it was set by hand;
    ``chosen`` are the options that selected it. ``searched`` is the accuracy (0-1) of the same
    configuration on the validation images of the search, None if settings changed it. ``data`` is
    the required fingerprint of the images, empty if any images are accepted.
    """

    study: str | None
    trial: int | None
    chosen: tuple[str, ...]
    spec: StudySpec
    params: Mapping[str, Value]
    searched: float | None
    data: Mapping[str, Any]

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

    With settings but no choice, only the data and the recipe come from the study.

    Args:
        study: the study of the trial.
        choice: selects the trial.
        settings: ``name=value``, each overrides a value of the trial.
        dataset: the location of the data on this machine, if not that of the study.
        epochs: the number of epochs, if not that of the study.

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
    spec = with_dataset(spec, dataset)
    return RetrainPlan(
        study=study.name,
        trial=number,
        chosen=(*_selection_options(choice), *(f"--set {text}" for text in settings)),
        spec=spec,
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
    return RetrainPlan(
        study=None,
        trial=None,
        chosen=tuple(f"--set {text}" for text in settings),
        spec=spec,
        params=params,
        searched=None,
        data={},
    )


def _with_epochs(spec: StudySpec, epochs: int | None) -> StudySpec:
    if epochs is None:
        return spec
    try:
        return replace(spec, train=replace(spec.train, epochs=epochs))
    except ValueError as exc:
        raise SpecError(f"--epochs: {exc}") from exc


def _selection_options(choice: TrialSelection) -> tuple[str, ...]:
    """The command-line options that make this selection."""
    values = (choice.trial, choice.best, choice.within_seconds, choice.within_params)
    given = [str(value) for value in values if value is not None]
    return tuple(" ".join([option, *given]) for option in choice.ways)
