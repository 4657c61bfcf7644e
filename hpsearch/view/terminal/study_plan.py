"""What a study file would search, before anything is run."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpsearch.core.dataset_summary import DatasetSummary
from hpsearch.core.plural import plural
from hpsearch.core.space import ChoiceDim, Dim, FloatDim, IntDim, Value, listed
from hpsearch.core.spec import ShapeSpec, StudySpec
from hpsearch.view.format import format_seconds
from hpsearch.view.terminal.trial_tables import EncodingSafeTable

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
