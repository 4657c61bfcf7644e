"""Studies on a terminal: list, status, plan, comparison, a run's end, the doctor's findings."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.text import Text

from hpsearch.core.analysis.pruning_stats import StudySummary
from hpsearch.core.dimensions import ChoiceDim, Dim, FloatDim, IntDim, Value, listed
from hpsearch.core.spec import DatasetSummary, StudySpec
from hpsearch.errors import HpsearchError, plural
from hpsearch.view.format import format_seconds
from hpsearch.view.terminal.trial_tables import EncodingSafe, EncodingSafeTable, end_summary, facts

if TYPE_CHECKING:  # `list` and `status` need none of the analysis, nor what the doctor checks
    from hpsearch.core.analysis.comparison import Comparison
    from hpsearch.core.analysis.study_analysis import StudyAnalysis
    from hpsearch.search.jobs.doctor import Finding

_LEAST_NAME = 8  # columns of a study name
_CLASSES = 12  # that are named
_MARKS = {
    "good": Text("ok", "green"),
    "fair": Text("WARN", "yellow"),
    "bad": Text("BAD", "bold red"),
}


def study_list(summaries: Sequence[StudySummary]) -> RenderableType:
    """Returns the studies as a table, a row each.

    On a narrow console each objective gets a line of its own; if that is not enough, names wrap.
    """
    if not summaries:
        return Text("No study yet; start one with: hpsearch run --trials 100")
    return _StudyList(summaries)


class _StudyList:
    """The list of studies, laid out for the width of the console."""

    def __init__(self, summaries: Sequence[StudySummary]) -> None:
        self.summaries = summaries

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name, unbounded = max(len(s.study) for s in self.summaries), options.update_width(10**5)
        # The layouts from the widest to the narrowest; the first that fits is shown.
        for separator in (", ", ",\n"):
            table = self._table(name, separator)
            if options.max_width >= unbounded.max_width:  # a file, where any width fits
                break
            excess = Measurement.get(console, unbounded, table).maximum - options.max_width
            if excess <= 0:
                break
        else:
            table = self._table(max(_LEAST_NAME, name - excess), separator)
        yield table

    def _table(self, name: int, separator: str) -> EncodingSafeTable:
        table = EncodingSafeTable()
        table.add_column("study", overflow="fold", width=max(name, len("study")))
        for header in ("trials", "running", "front", "hypervolume"):
            table.add_column(header, justify="right", no_wrap=True)
        table.add_column("objectives", overflow="fold")
        table.add_column("created", no_wrap=True)
        for s in self.summaries:
            cells = (
                s.study,
                f"{s.complete + s.pruned}/{s.target}",
                str(s.running),
                str(s.front_size),
                _hypervolume(s),
                separator.join(s.objectives),
                _created(s).partition(" ")[0],
            )
            # As texts: Rich would look for markup and emoji in each string.
            table.add_row(*map(Text, cells))
        return table


def status_lines(summary: StudySummary) -> RenderableType:
    """Returns the status of a study, a line per fact."""
    s, table = summary, facts()
    table.add_row("study", Text(s.study))
    table.add_row("storage", Text(s.storage))
    table.add_row("objectives", ", ".join(s.objectives))
    table.add_row("created", _created(s))
    done = f"{s.complete + s.pruned} of {s.target}"
    table.add_row("trials", f"{done}: {s.complete} complete, {s.pruned} pruned")
    table.add_row("", f"{s.running} running, {s.waiting} waiting, {s.failed} failed (not counted)")
    if s.imported:
        table.add_row("", f"{s.imported} imported, not trained by hpsearch (not counted, left out)")
    if s.silent:
        table.add_row("", f"{s.silent} of the running lost their workers; the next resumes them")
    table.add_row("front", plural(s.front_size, "trial"))
    table.add_row("hypervolume", _hypervolume(s))
    return EncodingSafe(table)


def _created(summary: StudySummary) -> str:
    """Returns the creation time in local time, as the times of trials are."""
    return "-" if summary.created is None else f"{summary.created.astimezone():%Y-%m-%d %H:%M}"


def _hypervolume(summary: StudySummary) -> str:
    """Returns the hypervolume, or a dash for one objective or without a complete trial."""
    is_known = summary.complete and len(summary.objectives) > 1
    return f"{summary.hypervolume:.4f}" if is_known else "-"


def plan(spec: StudySpec, images: DatasetSummary | None = None) -> RenderableType:
    """Returns the settings of a study, the counts of its images, and its space as a table."""
    data, train, search, model = spec.data, spec.train, spec.search, spec.model
    size = f", resized to {data.image_size} px" if data.image_size else ""
    flip = ", flip" if train.flip else ""
    function = f", by {train.function}" if train.function else ""
    limit = f", at most {format_seconds(search.timeout)}" if search.timeout else ""
    each = f" of at most {format_seconds(search.trial_timeout)}" if search.trial_timeout else ""
    grid = f" over {', '.join(spec.grid_dimensions)}" if search.sampler.startswith("grid") else ""
    control = f"{100 * spec.pruning.control:.3g} %"
    cap = f", at most {model.max_width}" if model.widths == "geometric" else ""
    values = {
        "study": spec.name,
        "data": data.dataset + size,
        "images": describe_images(images) if images else "",
        "objectives": ", ".join(search.objectives),
        "training": f"{plural(train.epochs, 'epoch', thousands=',')}, label smoothing"
        f" {train.label_smoothing:g}, shift ±{train.shift} px, rotate ±{train.rotate:g}°"
        f"{flip}{function}",
        "search": f"{plural(search.trials, 'trial', thousands=',')}{each}{limit}, sampler"
        f" {search.sampler}{grid}",
        "seed": str(search.seed),
        "pruning": f"{spec.pruning.pruner}, {control} of trials always run to the end",
        "net": f"built by {model.factory}" if model.factory is not None else "",
        "widths": model.widths + cap if model.factory is None else "",
    }
    settings = facts()
    for name, value in values.items():
        if value:
            settings.add_row(name, Text(value))
    table = EncodingSafeTable("dimension", "searched")
    for name, dim in spec.space.items():
        table.add_row(name, Text(describe_dimension(dim)))
    return Group(settings, Text(), table)


def describe_images(images: DatasetSummary) -> str:
    """Returns the counts of images: by class, and by part of the split.

    >>> describe_images(DatasetSummary(classes={"cat": 40, "dog": 30}, train=50, val=10, test=10))
    '70 in 2 classes (cat: 40, dog: 30): 50 to train on, 10 to validate, 10 to test'
    """
    counts = images.classes
    named = [f"{name}: {count:,}" for name, count in list(counts.items())[:_CLASSES]]
    if len(counts) > _CLASSES:
        named.append(f"and {len(counts) - _CLASSES} more")
    return (
        f"{sum(counts.values()):,} in {len(counts)} classes ({', '.join(named)}): {images.train:,}"
        f" to train on, {images.val:,} to validate, {images.test:,} to test"
    )


def describe_dimension(dim: Dim | Value) -> str:
    """Returns a dimension in words.

    >>> describe_dimension(IntDim(low=1, high=5)), describe_dimension(True)
    ('1 to 5 (integer)', 'always true')
    """
    if isinstance(dim, ChoiceDim):
        return f"one of {listed(dim.choices)}"
    if isinstance(dim, (IntDim, FloatDim)):
        integer = " (integer)" if isinstance(dim, IntDim) else ""
        scale = ", log scale" if dim.log else ""
        step = f", in steps of {dim.step:g}" if dim.step else ""
        return f"{dim.low:g} to {dim.high:g}{integer}{scale}{step}"
    return f"always {listed([dim])}"


def comparison_table(comparison: Comparison) -> RenderableType:
    """Returns the studies side by side, a column each, with the verdict below."""
    from hpsearch.view.report.comparison_tables import small_print, verdict

    words = [_wrapped(sentence) for sentence in verdict(comparison)]
    small = [_wrapped(sentence, "dim") for sentence in small_print(comparison)]
    return EncodingSafe(Group(_SideBySide(comparison), Text(), *words, Text(), *small))


class _SideBySide:
    """As many studies side by side as fit the width of the console; the others below.

    Names and settings may wrap, numbers never.
    """

    def __init__(self, comparison: Comparison) -> None:
        from hpsearch.view.report.comparison_tables import rows

        self.studies, self.rows = comparison.studies, rows(comparison)
        numbers = self.rows[len(comparison.differences) :]
        self.widest = max(len(cell) for _, cells in numbers for cell in cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - max(len(name) for name, _ in self.rows)
        fit = max(1, room // (self.widest + 2))
        for start in range(0, len(self.studies), fit):
            if start:
                yield Text()
            yield self._table(slice(start, start + fit))

    def _table(self, shown: slice) -> EncodingSafeTable:
        table, least = EncodingSafeTable(""), self.widest
        for each in self.studies[shown]:
            table.add_column(Text(each.study), justify="right", overflow="fold", min_width=least)
        for name, cells in self.rows:
            table.add_row(Text(name), *(Text(cell) for cell in cells[shown]))
        return table


def _wrapped(words: str, style: str = "") -> Text:
    return Text(words, style, no_wrap=False, overflow="fold")  # even under soft_wrap=True


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """Returns the findings, a line each, with the advice below."""
    table = facts()
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(finding.name, _MARKS[finding.health.value], Text(finding.found))
        if finding.advice:
            table.add_row("", "", Text(f"→ {finding.advice}", "dim"))
    return EncodingSafe(table)


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

    path = default_path(analysis.study, analysis.environment.created)
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
    from hpsearch.view.report.narrative import guessing_words, headline

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
