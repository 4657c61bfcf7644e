"""The end of a run: the report as a file, then the front and the next commands on the screen."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from hpsearch.core.analysis.study_analysis import StudyAnalysis
from hpsearch.core.plural import plural
from hpsearch.errors import HpsearchError
from hpsearch.view.report.narrative import guessing_words, headline
from hpsearch.view.terminal.trial_tables import end_summary

_log = logging.getLogger(__name__)


def write_report(analysis: StudyAnalysis, *, storage_options: Sequence[str]) -> Path | None:
    """Writes the report into the current folder and returns its path.

    Returns None before the first complete or pruned trial, and if the folder cannot be written:
    that is logged and not an error, because the study is safe in its database.
    """
    if not analysis.trials:
        return None
    # Loads Plotly, which a run needs only here.
    from hpsearch.view.report.report import default_path, render, write

    path = default_path(analysis.study)
    try:
        write(render(analysis, "html", storage_options=storage_options), path)
    except HpsearchError as exc:
        _log.info("no report: %s", exc)
        return None
    return path


def ending_view(
    analysis: StudyAnalysis,
    ending: str,
    *,
    storage_options: Sequence[str],
    again: Sequence[str],
    report: Path | None = None,
) -> RenderableType:
    """Returns the end of a run.

    Args:
        analysis: the analysis of the study.
        ending: how the run ended, in a word or two.
        storage_options: the options that name the storage, for the next commands.
        again: the study file and the options that continue the same search.
        report: the path of the report; None if there is none.
    """
    counted, target = len(analysis.trials), analysis.environment.spec.search.trials
    head = f"study {analysis.study}: {ending}, {counted} of {plural(target, 'trial')}"
    parts: list[RenderableType] = [Text(head, "bold")]
    if analysis.answer.is_guessing:
        warning = f"{headline(analysis.answer)} {guessing_words(analysis.answer)}"
        parts.append(Text(warning, "yellow"))
    commands = _next_commands(analysis, storage_options=storage_options, again=again)
    if report is not None:
        commands.append(f"{report}  # the report: open it in a browser")
    summary = end_summary(
        [trial.record for trial in analysis.front],
        objectives=analysis.objectives,
        knee=analysis.knee.record.number if analysis.knee else None,
        hypervolume=analysis.hypervolume if analysis.front else None,
        saved=analysis.savings,
        commands=commands,
    )
    return Group(*parts, Text(), summary)


def _next_commands(
    analysis: StudyAnalysis, *, storage_options: Sequence[str], again: Sequence[str]
) -> list[str]:
    """The commands to type next, each with a comment."""
    target = analysis.environment.spec.search.trials
    is_done = len(analysis.trials) >= target
    # A search that has its trials continues only with a higher total.
    named = ["--study", analysis.study]
    total = ["--trials", str(target * 2 if is_done else target)]
    run = shlex.join(["hpsearch", "run", *again, *named, *total, *storage_options])
    commands = [f"{run}  # {'add trials' if is_done else 'continue'}"]
    if analysis.knee is not None:
        is_one = len(analysis.objectives) == 1
        which = ["--trial", str(analysis.knee.record.number)] if is_one else ["--knee"]
        train = shlex.join(["hpsearch", "train", *which, *named, *storage_options, "-o", "model"])
        commands.append(f"{train}  # train the {'best' if is_one else 'knee'} for use")
    if analysis.knee is not None and is_done:
        confirm = shlex.join(["hpsearch", "confirm", *named, *storage_options])
        commands.append(f"{confirm}  # retrain the front with fresh seeds")
    dashboard = shlex.join(["hpsearch", "dashboard", *storage_options])
    return [*commands, f"{dashboard}  # browse all trials"]
