"""A comparison as one page that opens offline: who is ahead, the fronts, and the numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

from hpsearch.core.analysis.comparison import Comparison
from hpsearch.view.document import Drawing, Section, Table
from hpsearch.view.format import listed
from hpsearch.view.report import front_figure
from hpsearch.view.report.comparison_tables import rows, small_print, verdict
from hpsearch.view.report.front_sections import pairs
from hpsearch.view.report.html import page


def comparison_page(found: Comparison) -> str:
    """Returns the comparison as HTML."""
    about = f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by hpsearch {version('hpsearch')}."
    made = [_answer(found), _fronts(found), _courses(found), _numbers(found)]
    sections = [section for section in made if section is not None]
    return page(
        sections, subject=f"studies {listed([one.study for one in found.studies])}", about=about
    )


def _answer(found: Comparison) -> Section:
    standing, *rest = verdict(found)
    return Section(key="answer", title=standing, words=rest, notes=small_print(found))


def _fronts(found: Comparison) -> Section | None:
    """The studies' fronts, a figure for every two objectives; None where there is one alone."""
    drawings = [
        Drawing(
            key=f"fronts-{x}-{y}",
            about=f"{y} against {x} on the front of each study",
            draw=partial(front_figure.fronts, found, x=x, y=y),
        )
        for x, y in pairs(found.objectives)
    ]
    if not drawings:
        return None
    return Section(
        key="fronts",
        title="The fronts",
        drawings=drawings,
        captions=[
            "What is filled is on the front of all trials together; what is hollow is beaten.",
            "The view begins below the worst knee; double-click the figure for all trials.",
        ],
    )


def _courses(found: Comparison) -> Section:
    known = ("trials",) if found.seconds is None else ("seconds", "trials")
    return Section(
        key="courses",
        title="Who was ahead when",
        drawings=[
            Drawing(
                key=f"courses-{against}",
                about=f"hypervolume of each study against {against}",
                draw=partial(front_figure.courses, found, against),
            )
            for against in known
        ],
        captions=["The dotted line is what all of them have spent, where they are compared."],
    )


def _numbers(found: Comparison) -> Section:
    header = ("what", *(one.study for one in found.studies))
    told, above = [], ""
    for name, cells in rows(found):
        if not name.startswith(" "):
            above = name
        told.append((above if name == above else f"{above}: {name.strip()}", *cells))
    table = Table(header=header, rows=tuple(told))
    return Section(key="numbers", title="The numbers", tables=[table])
