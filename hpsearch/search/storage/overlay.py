"""The dashboard's view of a database: Optuna's storage with attributes added in memory."""

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
    """Decides which attributes of studies and trials the dashboard shows."""

    def is_showing(self) -> bool:
        """Whether this thread reads attributes only to show them.

        Otherwise it may write them back, and must get them complete and unchanged.
        """

    def shown(self, study_id: int, system_attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a study's system attributes with the annotations for this thread."""

    def of_study(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a study's attributes to show."""

    def of_trial(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a trial's attributes to show."""


def annotated(storage: Storage, annotator: AnnotationSource) -> BaseStorage:
    """Returns the database's storage with an annotator's additions, for this process only.

    Nothing is written, so a read-only file is annotated too, no worker waits, and two dashboards
    on one database do not interfere.
    """
    return _Annotated(storage, annotator)


class _Annotated(_CachedStorage):
    def __init__(self, storage: Storage, annotator: AnnotationSource) -> None:
        # Share the connection and the cache of trials.
        self.__dict__.update(storage.backend.__dict__)
        self._read_studies = storage.studies
        storage.studies()  # fills the cache before other threads read it
        self._annotator = annotator
        self._as_shown: dict[int, tuple[FrozenTrial, FrozenTrial]] = {}

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = self._read_studies()
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
        """A copy of the trial with the attributes to show; that of a finished trial is kept."""
        original, shown = self._as_shown.get(trial._trial_id, (None, None))
        if original is not trial or shown is None:
            shown = copy.copy(trial)
            shown.user_attrs = self._annotator.of_trial(trial.user_attrs)
            if trial.state.is_finished():
                self._as_shown[trial._trial_id] = trial, shown
        return shown
