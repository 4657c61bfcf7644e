"""The report's sections in their order."""

from __future__ import annotations

from collections.abc import Sequence

from hpsearch.core.findings import Findings
from hpsearch.view import account, evidence, outcome
from hpsearch.view.document import Section


def sections(findings: Findings, *, place: Sequence[str]) -> list[Section]:
    """Returns the report's sections in their order; those that have nothing to tell are left out.

    Args:
        findings: the numbers.
        place: the options that name the storage, for the commands to type.
    """
    made = [
        outcome.answer(findings),
        outcome.front(findings),
        outcome.winners(findings, place),
        evidence.depth(findings),
        evidence.optimizers(findings),
        evidence.curves(findings),
        evidence.importance(findings),
        evidence.attainment(findings),
        account.timeline(findings),
        account.savings(findings),
        account.environment(findings),
    ]
    return [section for section in made if section is not None]
