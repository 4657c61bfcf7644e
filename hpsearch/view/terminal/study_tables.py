"""The studies of a database, a row each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hpsearch.core.analysis.pruning_stats import StudySummary
from hpsearch.core.dimensions import ChoiceDim, Dim, FloatDim, IntDim, Value, listed
from hpsearch.core.plural import plural
from hpsearch.core.spec import DatasetSummary, ShapeSpec, StudySpec
from hpsearch.view.format import format_seconds
from hpsearch.view.terminal.trial_tables import EncodingSafeTable, made, worth

_LEAST_NAME = 8  # columns of a study's name


def study_list(summaries: Sequence[StudySummary]) -> RenderableType:
    """Returns the studies as a table, one row each.

    Where the room is scarce, objectives go below one another, and only then are names folded.
    """
    if not summaries:
        return Text("No study yet; start one with: hpsearch run --trials 100")
    return _StudyList(summaries)


class _StudyList:
    """The studies, a row each: what is folded depends on how wide the console is."""

    def __init__(self, summaries: Sequence[StudySummary]) -> None:
        self.summaries = summaries

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name, unbounded = max(len(s.study) for s in self.summaries), options.update_width(10**6)
        for between in (", ", ",\n"):
            table = self._table(name, between)
            over = Measurement.get(console, unbounded, table).maximum - options.max_width
            if over <= 0:
                break
        else:
            table = self._table(max(_LEAST_NAME, name - over), between)
        yield table

    def _table(self, name: int, between: str) -> EncodingSafeTable:
        table = EncodingSafeTable()
        table.add_column("study", overflow="fold", width=max(name, len("study")))
        for header in ("trials", "running", "front", "hypervolume"):
            table.add_column(header, justify="right", no_wrap=True)
        table.add_column("objectives", overflow="fold")
        table.add_column("created", no_wrap=True)
        for s in self.summaries:
            table.add_row(
                Text(s.study),
                f"{s.complete + s.pruned}/{s.target}",
                str(s.running),
                str(s.front_size),
                worth(s),
                between.join(s.objectives),
                made(s).partition(" ")[0],
            )
        return table


_CLASSES = 12  # named, of however many


def plan(spec: StudySpec, images: DatasetSummary | None = None) -> RenderableType:
    """Returns the study in words, with what is known of its images, and its space as a table."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, value in _facts(spec, images).items():
        facts.add_row(Text(name, "dim"), Text(value))
    table = EncodingSafeTable("dimension", "searched")
    for name, dim in spec.space.items():
        table.add_row(name, Text(describe_dimension(dim)))
    return Group(facts, Text(), table)


def _facts(spec: StudySpec, images: DatasetSummary | None) -> dict[str, str]:
    data, train, search, pruning = spec.data, spec.train, spec.search, spec.pruning
    size = f", resized to {data.image_size} px" if data.image_size else ""
    augment = f"shift ±{train.shift} px, rotate ±{train.rotate:g}°"
    recipe = f"label smoothing {train.label_smoothing:g}, {augment}"
    grid = f" over {', '.join(spec.grid_dimensions)}" if search.sampler.startswith("grid") else ""
    limit = f", at most {format_seconds(search.timeout)}" if search.timeout else ""
    control = f"{100 * pruning.control:.3g} %"
    return {
        "study": spec.name,
        "data": data.dataset + size,
        **({"images": describe_images(images)} if images else {}),
        "objectives": ", ".join(search.objectives),
        "training": f"{plural(train.epochs, 'epoch', thousands=',')}, {recipe}"
        + (", flip" if train.flip else "")
        + (f", by {train.function}" if train.function else ""),
        "search": plural(search.trials, "trial", thousands=",")
        + f"{limit}, sampler {search.sampler}{grid}",
        "seed": str(search.seed),
        "pruning": f"{pruning.pruner}, {control} of trials always run to the end",
        **_net_facts(spec.model),
    }


def _net_facts(model: ShapeSpec) -> dict[str, str]:
    if model.factory is not None:
        return {"net": f"built by {model.factory}"}
    cap = f", at most {model.max_width}" if model.widths == "geometric" else ""
    return {"widths": model.widths + cap}


def describe_images(images: DatasetSummary) -> str:
    """Returns how many images there are, of which classes, and how they are split.

    >>> describe_images(DatasetSummary(classes={"cat": 40, "dog": 30}, train=50, val=10, test=10))
    '70 in 2 classes (cat: 40, dog: 30): 50 to train on, 10 to validate, 10 to test'
    """
    counts = images.classes
    told = [f"{name}: {count:,}" for name, count in list(counts.items())[:_CLASSES]]
    told += [f"and {len(counts) - _CLASSES} more"] * (len(counts) > _CLASSES)
    return (
        f"{sum(counts.values()):,} in {len(counts)} classes ({', '.join(told)}): {images.train:,}"
        f" to train on, {images.val:,} to validate, {images.test:,} to test"
    )


def describe_dimension(dim: Dim | Value) -> str:
    """Returns a dimension in words.

    >>> describe_dimension(IntDim(low=1, high=5)), describe_dimension(True)
    ('1 to 5, whole', 'always true')
    """
    if isinstance(dim, ChoiceDim):
        return f"one of {listed(dim.choices)}"
    if isinstance(dim, (IntDim, FloatDim)):
        parts = [f"{dim.low:g} to {dim.high:g}"]
        parts += ["whole"] * isinstance(dim, IntDim) + ["log scale"] * dim.log
        parts += [f"in steps of {dim.step:g}"] if dim.step else []
        return ", ".join(parts)
    return f"always {listed([dim])}"
