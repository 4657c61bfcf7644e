"""The content of the live view at one moment, and its layout for the size of the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.segment import Segment
from rich.text import Text

from hpsearch.core.analysis.pareto import front
from hpsearch.core.trial import State, TrialRecord
from hpsearch.errors import plural
from hpsearch.view.format import describe, format_value
from hpsearch.view.terminal.trial_tables import STYLES, EncodingSafe, short_front, state_text

_FRONT_HEAD = 4  # lines above the first trial of the front: blank, title, header and rule
_LABEL = 9  # columns
_ECHO = 2  # free columns at the right: if an echoed ^C wrapped, the next drawing would be displaced


class FrontPanel:
    """The front in the live view; its table is rendered once per size.

    Rendering a table of 15 trials takes 7 ms, everything else 2 ms (AMD EPYC, Rich 15.0), and the
    front changes far less often.
    """

    def __init__(self, records: Sequence[TrialRecord], *, objectives: Sequence[str]) -> None:
        found = front(records, objectives)
        self.trials, self.knee = found.trials, found.knee
        self._objectives = tuple(objectives)
        self._tables: dict[int, _Cached] = {}

    def table(self, *, rows: int) -> RenderableType:
        """Returns the front in at most ``rows`` (1 or more) trials."""
        if rows not in self._tables:
            table = short_front(self.trials, objectives=self._objectives, knee=self.knee, rows=rows)
            self._tables[rows] = _Cached(table)
        return self._tables[rows]


class _Cached:
    """A renderable that is rendered again only if the width changes."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner
        self._width = 0
        self._segments: list[Segment] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width != self._width:
            self._segments = list(console.render(self._inner, options))
            self._width = options.max_width
        return self._segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The content of the live view at one moment; two equal snapshots look the same.

    ``counts`` is by state: complete, pruned and failed. ``time_left`` is in words, and empty if
    unknown.
    """

    title: str
    target: int
    epochs: int
    counts: Mapping[str, int]
    time_left: str
    running: tuple[TrialRecord, ...]
    last: Text | None
    front: FrontPanel
    stopping: bool = False

    @property
    def counted(self) -> int:
        """The number of trials that count towards the budget."""
        return self.counts["complete"] + self.counts["pruned"]


def outcome(record: TrialRecord, *, objectives: Sequence[str]) -> Text:
    """Returns the outcome of a trial, in one line."""
    line = Text(f"trial {record.number}  ")
    if record.state is State.WAITING:
        line.append("paused", STYLES[record.state])
        line.append(f" after epoch {len(record.curve)}, will resume" if record.curve else "")
        line.append(f": {record.reason}" if record.reason else "")
    else:
        line.append_text(state_text(record))
    for name in objectives:
        if name in record.values:
            line.append(f"  {name} {format_value(name, record.values[name])}")
    line.append(f"  [{describe(record)}]" if record.params else "")
    # A reason may have several lines, the view has room for one.
    return Text(" ".join(line.plain.splitlines())) if "\n" in line.plain else line


def draw(snapshot: Snapshot, *, width: int, height: int) -> RenderableType:
    """Returns the snapshot in at most ``height`` - 1 lines; the front gets the remaining ones."""
    room, width = max(1, height - 1), max(1, width - _ECHO)
    lines = [_bar(snapshot, width=width), _label("").append_text(_counts(snapshot))]
    if snapshot.stopping and room > len(lines):
        lines.append(_label("stopping").append("after this epoch; Ctrl-C again stops at once"))
    lines += _running(snapshot, width=width, room=room - len(lines))
    if snapshot.last is not None and room > len(lines):
        lines.append(_label("last").append_text(snapshot.last))
    if snapshot.title and room > len(lines):
        lines.insert(0, Text(snapshot.title, "bold"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    parts: list[RenderableType] = [*lines[:room]]
    rows = room - len(lines) - _FRONT_HEAD
    count = len(snapshot.front.trials)
    if count and rows >= 1:
        shown = f"{rows} of " if rows < count else ""
        parts += [Text(), _label("front").append(shown + plural(count, "trial"))]
        parts.append(snapshot.front.table(rows=rows))
    return EncodingSafe(Constrain(Group(*parts), width))


def closing(snapshot: Snapshot) -> RenderableType:
    """Returns the line that remains after the run."""
    line = Text(f"{snapshot.counted} of {snapshot.target} trials:  ", "bold")
    return EncodingSafe(line.append_text(_counts(snapshot)))


def _label(word: str) -> Text:
    return Text().append(f"{word:<{_LABEL}}", "dim")


def _bar(snapshot: Snapshot, *, width: int) -> Text:
    tail = f"  {snapshot.counted}/{snapshot.target}"
    if snapshot.time_left:
        tail += f"  {snapshot.time_left}"
    cells = min(60, width - _LABEL - len(tail))
    share = snapshot.counted / snapshot.target if snapshot.target else 1.0
    return _label("trials").append_text(_progress_bar(share, cells=cells)).append(tail)


def _progress_bar(share: float, *, cells: int) -> Text:
    """Returns a bar whose two parts differ in shape, not in colour alone."""
    full = round(min(1.0, share) * max(4, cells))
    return Text().append("━" * full, "green").append("─" * (max(4, cells) - full), "dim")


def _counts(snapshot: Snapshot) -> Text:
    line = Text(style="default")
    for state in (State.COMPLETE, State.PRUNED, State.FAILED):
        count = snapshot.counts[state.value]
        line.append(f"{count} {state.value}", STYLES[state] if count else "dim").append("  ")
    return line


def _running(snapshot: Snapshot, *, width: int, room: int) -> list[Text]:
    """Returns two lines for a single running trial, one line each for several."""
    trials = snapshot.running
    if len(trials) == 1:
        trial, measured = trials[0], _measured(snapshot, trials[0])
        share = trial.curve[-1].epoch / snapshot.epochs if trial.curve else 0.0
        bar = _progress_bar(share, cells=min(20, width - _LABEL - len(measured) - 2))
        return [
            _label("running").append(f"trial {trial.number}  {describe(trial)}"),
            _label("").append_text(bar).append("  ").append_text(measured),
        ]
    shown = trials if len(trials) <= max(2, room // 3) else trials[: max(1, room // 3 - 1)]
    lines: list[Text] = []
    for trial in shown:
        line = _label("" if lines else "running").append(f"trial {trial.number:<4}")
        lines.append(line.append_text(_measured(snapshot, trial)).append(f"  {describe(trial)}"))
    if len(shown) < len(trials):
        lines.append(_label("").append(f"and {len(trials) - len(shown)} more", "dim"))
    return lines


def _measured(snapshot: Snapshot, trial: TrialRecord) -> Text:
    if not trial.curve:
        return Text(f"epoch 0/{snapshot.epochs}")
    last = trial.curve[-1]
    return Text(
        f"epoch {last.epoch}/{snapshot.epochs}"
        f"  accuracy {format_value('accuracy', last.val_accuracy)}"
        f"  {format_value('train_seconds', last.train_seconds)}"
        f"  val_loss {last.val_loss:.3f}"
    )
