"""What is to be trained and taken home: a study's trial, or a net set by hand."""

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
    """What is to be trained, on which data.

    ``study`` and ``trial`` tell where the configuration comes from, None where it was set by hand;
    ``chosen`` tells how, as it was typed. ``searched`` is the accuracy (0-1) of that very
    configuration on the validation images in the search, None where values were set. ``data`` is
    the fingerprint that the images must have, empty where any will do.
    """

    study: str | None
    trial: int | None
    chosen: tuple[str, ...]
    spec: StudySpec
    params: Mapping[str, Value]
    searched: float | None
    data: Mapping[str, Any]

    def configured(self, seed: int, place: int) -> TrialSpec:
        """Returns the training numbered ``place``; its own seed depends on both and on the trial.

        Never the seed that the trial was searched with: that one was chosen for its luck too.
        """
        number = self.trial or 0
        trial = resolve(self.spec, number=number, params=self.params)
        return reseeded(trial, derive_seed(seed, number, "take", place))


def plan_of_study(
    study: Study,
    choice: TrialSelection,
    settings: Sequence[str],
    *,
    dataset: str | None,
    epochs: int | None,
) -> RetrainPlan:
    """Returns what is to be trained of a study: the chosen trial, with the settings over it.

    With settings and no choice the study gives the data and the recipe alone.

    Args:
        study: where the trial is.
        choice: names the trial.
        settings: ``name=value``, over the trial's values.
        dataset: where the data lies here, if not where the study has it.
        epochs: how long to train, if not as long as the study.

    Raises:
        StudyError: there is no such trial, or it was not trained to its end.
        SpecError: a setting or the epochs are illegal, or nothing is chosen.
    """
    own = {**study.spec.space, **dims(study.spec.space)} if study.spec.has_user_code else None
    typed, number, searched = parse_overrides(settings, own), None, None
    spec = _with_epochs(study.spec, epochs)
    if choice.ways or not settings:
        record = select_trial(study.records(), study.objectives, choice)
        number = record.number
        searched = None if settings else reached(record).get("accuracy")
        spec, params = apply_overrides(spec, record.params, typed)
    else:
        spec, params = default_configuration(spec, typed)
    spec = with_dataset(spec, dataset)
    return RetrainPlan(
        study=study.name,
        trial=number,
        chosen=(*_typed(choice), *(f"--set {text}" for text in settings)),
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
    """Returns what is to be trained without any study; what is left open is a good recipe.

    Raises:
        SpecError: a setting, the image size or the epochs are illegal.
    """
    from hpsearch.nn.data.dataset import default_name

    try:
        named = DataSpec().dataset if dataset is None else dataset
        data = DataSpec(dataset=named, image_size=image_size)
    except ValueError as exc:
        raise SpecError(f"options: {exc}") from exc
    start = StudySpec(name=default_name(data.dataset), data=data, space=default_space("geometric"))
    spec, params = default_configuration(_with_epochs(start, epochs), parse_overrides(settings))
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


def _typed(choice: TrialSelection) -> tuple[str, ...]:
    values = (choice.trial, choice.best, choice.within_seconds, choice.within_params)
    known = [value for value in values if value is not None]
    return tuple(" ".join([way, *map(str, known)]) for way in choice.ways)
