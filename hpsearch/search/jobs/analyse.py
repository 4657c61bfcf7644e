"""A study of the database, reduced to what a report shows."""

from __future__ import annotations

from dataclasses import replace

from hpsearch.core.analysis.study_analysis import Environment, StudyAnalysis, analyse, settings
from hpsearch.search.jobs.confirm import confirmations
from hpsearch.search.jobs.importance import importances
from hpsearch.search.storage.records import CHANGES, CREATED, DATA, REFERENCE
from hpsearch.search.study.study import Study


def analyse_study(study: Study) -> StudyAnalysis:
    """Returns all that a report tells of the study as it stands now."""
    return replace(essentials(study), importance=importances(study))


def essentials(study: Study) -> StudyAnalysis:
    """Returns the same but for the importance of hyperparameters, which takes the longest."""
    records = study.records()
    attributes = study.storage.with_retry(lambda: study.handle.user_attrs)
    environment = Environment(
        spec=study.spec,
        data=attributes.get(DATA, {}),
        reference=attributes.get(REFERENCE, {}),
        settings=settings(records),
        changes=attributes.get(CHANGES, []),
        created=study.created if CREATED in attributes else None,
    )
    return analyse(
        study.name,
        records,
        bounds=study.bounds,
        environment=environment,
        confirmed=confirmations(study, records, attributes),
    )
