"""The report's sections in their order."""

from __future__ import annotations

from collections.abc import Sequence

from hpsearch.core.analysis.study_analysis import StudyAnalysis
from hpsearch.view.document import Section
from hpsearch.view.report import effect_sections, front_sections, run_sections


def sections(findings: StudyAnalysis, *, place: Sequence[str]) -> list[Section]:
    """Returns the report's sections in their order; those that have nothing to tell are left out.

    Args:
        findings: the numbers.
        place: the options that name the storage, for the commands to type.
    """
    made = [
        front_sections.answer(findings),
        front_sections.front(findings),
        front_sections.winners(findings, place),
        effect_sections.depth(findings),
        effect_sections.optimizers(findings),
        effect_sections.curves(findings),
        effect_sections.importance(findings),
        effect_sections.attainment(findings),
        run_sections.timeline(findings),
        run_sections.savings(findings),
        run_sections.environment(findings),
    ]
    return [section for section in made if section is not None]
