"""A database as the dashboard sees it: Optuna's own, with attributes that are stored nowhere."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from typing import Any, Protocol

from optuna.storages._base import BaseStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from hpsearch.search.storage.storage import Storage


class AnnotationSource(Protocol):
    """Says what is shown of the attributes that studies and trials have."""

    def is_showing(self) -> bool:
        """Whether what this thread reads is to be shown and nothing more.

        Else it may be written again: all of it has to be there, as it is.
        """

    def shown(self, study_id: int, system_attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a study's system attributes as they are to be shown, or held while not."""

    def of_study(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a study's attributes as they are to be shown."""

    def of_trial(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a trial's attributes as they are to be shown."""


def annotated(storage: Storage, annotator: AnnotationSource) -> BaseStorage:
    """Returns the database's storage with what an annotator shows, which nobody else sees.

    Nothing is written: a file that cannot be written is annotated too, no worker ever waits for
    it, and two dashboards on one database never meet.
    """
    return _Annotated(storage, annotator)


class _Annotated(_CachedStorage):
    def __init__(self, storage: Storage, annotator: AnnotationSource) -> None:
        # The same connection, and one memory of trials.
        self.__dict__.update(storage.backend.__dict__)
        self._studies_now = storage.studies
        storage.studies()  # known before the first thread reads their trials
        self._annotator = annotator
        self._as_shown: dict[int, tuple[FrozenTrial, FrozenTrial]] = {}

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = self._studies_now()
        for study in studies:
            study.system_attrs = self._annotator.shown(study._study_id, study.system_attrs)
            if self._annotator.is_showing():
                study.user_attrs = self._annotator.of_study(study.user_attrs)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._annotator.shown(study_id, super().get_study_system_attrs(study_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [self._shown(t) for t in trials] if self._annotator.is_showing() else trials

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        best = super().get_best_trial(study_id)
        return self._shown(best) if self._annotator.is_showing() else best

    def _shown(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial with its attributes as they are shown; of a finished one, once."""
        known, made = self._as_shown.get(trial._trial_id, (None, None))
        if known is not trial or made is None:
            made = copy.copy(trial)
            made.user_attrs = self._annotator.of_trial(trial.user_attrs)
            if trial.state.is_finished():
                self._as_shown[trial._trial_id] = trial, made
        return made
