"""The findings of ``hpsearch doctor`` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from hpsearch.search.jobs.doctor import Finding, Health
from hpsearch.view.terminal.rendering import EncodingSafe, facts

_MARKS = {
    Health.GOOD: Text("ok", "green"),
    Health.FAIR: Text("WARN", "yellow"),
    Health.BAD: Text("BAD", "bold red"),
}


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """Returns the findings, a line each, with the advice below."""
    table = facts()
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(finding.name, _MARKS[finding.health], Text(finding.found))
        if finding.advice:
            table.add_row("", "", Text(f"→ {finding.advice}", "dim"))
    return EncodingSafe(table)
