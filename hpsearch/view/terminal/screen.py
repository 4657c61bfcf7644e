"""What the live view shows at one moment, and how it is laid out in the terminal's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.segment import Segment
from rich.text import Text

from hpsearch.core.analysis.pareto import front
from hpsearch.core.plural import plural
from hpsearch.core.trial import State, TrialRecord
from hpsearch.view.format import describe, format_value
from hpsearch.view.terminal.trial_tables import STYLES, EncodingSafe, short_front, state_text

_FRONT_HEAD = 4  # lines above the front's first trial: a space, its title, the header and a rule
_LABEL = 9  # columns
_ECHO = 2  # columns left free at the right: where a typed ^C wraps, the next picture is displaced


class Front:
    """The front as the live view shows it, its table rendered once per size.

    Rendering the table of 15 trials takes 7 ms, all else on the screen 2 ms (AMD EPYC, Rich 15.0),
    and it changes far less often than the rest.
    """

    def __init__(self, records: Sequence[TrialRecord], *, objectives: Sequence[str]) -> None:
        found = front(records, objectives)
        self.trials, self.knee = found.trials, found.knee
        self._objectives = tuple(objectives)
        self._tables: dict[int, _Still] = {}

    def table(self, *, rows: int) -> RenderableType:
        """Returns the front in at most ``rows`` (1 or more) trials."""
        if rows not in self._tables:
            table = short_front(self.trials, objectives=self._objectives, knee=self.knee, rows=rows)
            self._tables[rows] = _Still(table)
        return self._tables[rows]


class _Still:
    """A renderable that is rendered anew only when the width changes."""

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
class Picture:
    """What the live view shows at one moment; two equal pictures look the same.

    ``counts`` is by state: complete, pruned and failed. ``time_left`` is in words, and empty where
    it is not known.
    """

    title: str
    target: int
    epochs: int
    counts: Mapping[str, int]
    time_left: str
    running: tuple[TrialRecord, ...]
    last: Text | None
    front: Front
    stopping: bool = False

    @property
    def counted(self) -> int:
        """The trials that used up the budget."""
        return self.counts["complete"] + self.counts["pruned"]


def outcome(record: TrialRecord, *, objectives: Sequence[str]) -> Text:
    """Returns how a trial ended, in one line."""
    line = Text(f"trial {record.number}  ")
    if record.state is State.WAITING:
        line.append("handed back", STYLES[record.state])
        line.append(f" after epoch {len(record.curve)}, to be resumed" if record.curve else "")
        line.append(f": {record.reason}" if record.reason else "")
    else:
        line.append_text(state_text(record))
    for name in objectives:
        if name in record.values:
            line.append(f"  {name} {format_value(name, record.values[name])}")
    line.append(f"  [{describe(record)}]" if record.params else "")
    return Text(" ".join(line.plain.splitlines())) if "\n" in line.plain else line


def draw(picture: Picture, *, width: int, height: int) -> RenderableType:
    """Returns the picture in at most ``height`` - 1 lines; the front takes what the rest leaves."""
    room, width = max(1, height - 1), max(1, width - _ECHO)
    lines = [_bar(picture, width=width), _tally(picture)]
    if picture.stopping and room > len(lines):
        lines.append(_label("stopping").append("after this epoch; Ctrl-C again ends at once"))
    lines += _running(picture, width=width, room=room - len(lines))
    if picture.last is not None and room > len(lines):
        lines.append(_label("last").append_text(picture.last))
    if picture.title and room > len(lines):
        lines.insert(0, Text(picture.title, "bold"))
    parts: list[RenderableType] = [_one_line(line) for line in lines[:room]]
    rows = room - len(lines) - _FRONT_HEAD
    count = len(picture.front.trials)
    if count and rows >= 1:
        shown = f"{rows} of " if rows < count else ""
        parts += [Text(), _label("front").append(shown + plural(count, "trial"))]
        parts.append(picture.front.table(rows=rows))
    return EncodingSafe(Constrain(Group(*parts), width))


def closing(picture: Picture) -> RenderableType:
    """Returns the line that remains of the picture when the run is over."""
    line = Text(f"{picture.counted} of {picture.target} trials:  ", "bold")
    return EncodingSafe(line.append_text(_states(picture)))


def _one_line(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _label(word: str) -> Text:
    return Text().append(f"{word:<{_LABEL}}", "dim")


def _bar(picture: Picture, *, width: int) -> Text:
    tail = f"  {picture.counted}/{picture.target}" + f"  {picture.time_left}" * bool(
        picture.time_left
    )
    cells = min(60, width - _LABEL - len(tail))
    share = picture.counted / picture.target if picture.target else 1.0
    return _label("trials").append_text(_cells(share, cells=cells)).append(tail)


def _cells(share: float, *, cells: int) -> Text:
    """Returns a bar; its two halves differ in shape, not in colour alone."""
    full = round(min(1.0, share) * max(4, cells))
    return Text().append("━" * full, "green").append("─" * (max(4, cells) - full), "dim")


def _tally(picture: Picture) -> Text:
    return _label("").append_text(_states(picture))


def _states(picture: Picture) -> Text:
    line = Text(style="default")
    for state in (State.COMPLETE, State.PRUNED, State.FAILED):
        count = picture.counts[state.value]
        line.append(f"{count} {state.value}", STYLES[state] if count else "dim").append("  ")
    return line


def _running(picture: Picture, *, width: int, room: int) -> list[Text]:
    """Returns two lines for a trial that runs alone, one for each of several."""
    trials = picture.running
    if len(trials) == 1:
        name = _label("running").append(f"trial {trials[0].number}  {describe(trials[0])}")
        return [name, _epochs(picture, trials[0], width=width)]
    shown = trials if len(trials) <= max(2, room // 3) else trials[: max(1, room // 3 - 1)]
    lines: list[Text] = []
    for trial in shown:
        line = _label("" if lines else "running").append(f"trial {trial.number:<4}")
        lines.append(line.append_text(_measured(picture, trial)).append(f"  {describe(trial)}"))
    if len(shown) < len(trials):
        lines.append(_label("").append(f"and {len(trials) - len(shown)} more", "dim"))
    return lines


def _epochs(picture: Picture, trial: TrialRecord, *, width: int) -> Text:
    measured = _measured(picture, trial)
    share = trial.curve[-1].epoch / picture.epochs if trial.curve else 0.0
    cells = min(20, width - _LABEL - len(measured) - 2)
    return _label("").append_text(_cells(share, cells=cells)).append("  ").append_text(measured)


def _measured(picture: Picture, trial: TrialRecord) -> Text:
    if not trial.curve:
        return Text(f"epoch 0/{picture.epochs}")
    now = trial.curve[-1]
    return Text(
        f"epoch {now.epoch}/{picture.epochs}"
        f"  accuracy {format_value('accuracy', now.val_accuracy)}"
        f"  {format_value('train_seconds', now.train_seconds)}"
        f"  val_loss {now.val_loss:.3f}"
    )
