"""A trained model in words: its card, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hpsearch.core.analysis.metrics import ClassScore, Scores
from hpsearch.core.analysis.statistics import MeanAndDeviation
from hpsearch.core.plural import plural
from hpsearch.core.spec import FactorySpec, TrialSpec
from hpsearch.search.jobs.retrain import RetrainedModel
from hpsearch.search.jobs.retrain_plan import RetrainPlan
from hpsearch.view.format import format_seconds, format_value, spelled


def card(taken: RetrainedModel, *, params: int, onnx: bool) -> str:
    """Returns the model card.

    Args:
        taken: the model and its scores.
        params: how many parameters it has.
        onnx: whether there is a ``model.onnx`` beside it.
    """
    config, scores = taken.model.config, taken.scores
    provenance = config.provenance
    parts = [
        f"# {_title(taken)}",
        _summary(taken, params=params),
        "## Use it",
        _usage(taken, onnx=onnx),
        "## How good it is",
        _how_good(taken),
        "![Confusion matrix](confusion.png)",
        "The numbers are in [`metrics.json`](metrics.json) and [`confusion.csv`](confusion.csv).",
        _class_table(scores.classes),
        "## What it mistakes",
        _mistakes(scores),
        "## How it was made",
        _table(_made(taken, provenance)),
        "## Limits",
        _limits(taken),
    ]
    return "\n\n".join(parts) + "\n"


def _title(taken: RetrainedModel) -> str:
    return f"A classifier of {_escaped(taken.model.config.provenance['dataset'])}"


def _summary(taken: RetrainedModel, *, params: int) -> str:
    config = taken.model.config
    channels, height, width = config.input_shape
    unseen = "the training never" if taken.plan.trial is None else "neither search nor training"
    own = isinstance(taken.trial.model, FactorySpec)
    kind = {1: "gray", 3: "RGB", 4: "RGBA"}[channels]
    return (
        f"A {'net built by' if own else 'convolutional net of'} {net(taken.trial)}, {params:,}"
        " parameters. It tells"
        f" {len(config.classes)} classes apart in {kind} images of {height}×{width} pixels, and"
        f" was right on **{accuracy(taken.scores)}** of {taken.scores.n:,} test images"
        f" that {unseen} saw (95 % interval {interval(taken.scores)})."
    )


def _usage(taken: RetrainedModel, *, onnx: bool) -> str:
    config = taken.model.config
    height, width = config.size
    option, argument, note = "", "", "; nothing in this folder is run when it is loaded."
    if isinstance(config.model, FactorySpec):
        name = config.model.factory
        option, argument = f" --factory {name}", f', factory="{name}"'
        note = (
            f"; the net is built by `{name}`, which must be installed or in the current folder and"
            " is run only where it is named as above."
        )
    lines = [
        f"```console\n$ hpsearch predict . photo.png folder/ images.npz{option}\n```",
        f'```python\nimport hpsearch\n\nmodel = hpsearch.load_model("."{argument})\n'
        'told = model.predict(["photo.png"])  # or a uint8 array N×H×W, N×H×W×C or N×C×H×W\n'
        "told.classes, told.probabilities\n```",
        f"Images of another size or mode are turned upright, scaled to cover {height}×{width}"
        " pixels, cropped to their middle and converted"
        f" to {plural(config.channels, 'channel')}; then each value is divided"
        " by 255, less the mean, over the deviation in [`config.json`](config.json). The weights"
        f" are in `model.safetensors`{note}",
    ]
    if onnx:
        lines.append(
            f"`model.onnx` takes `images`, uint8 N×{height}×{width}×{config.channels} from 0 to"
            " 255, and returns `probabilities`, float32"
            f" N×{len(config.classes)}; the scaling is in the graph. It told every test image as"
            " torch did."
        )
    return "\n\n".join(lines)


def _how_good(taken: RetrainedModel) -> str:
    scores, rows = taken.scores, {}
    rows["test accuracy"] = f"{accuracy(scores)} (95 % interval {interval(scores)})"
    rows["test images"] = f"{scores.n:,}"
    rows["test loss"] = f"{scores.loss:.4f} nats"
    rows["expected calibration error"] = f"{scores.calibration_error:.4f} (15 bins)"
    if taken.plan.searched is not None:
        rows["validation accuracy in the search"] = (
            f"{percent(taken.plan.searched)}; the search went by it, so it promises a little too"
            " much"
        )
    if (told := apart(taken)) is not None:
        rows["search and test"] = told
    if taken.held_out:
        rows["validation accuracy"] = percent(taken.curve[-1].val_accuracy)
    if len(taken.seeds) > 1:
        rows["test accuracy, mean ± deviation"] = (
            f"{seeds_text(taken.accuracies)}; this model is the first of them, not the best"
        )
    return _table(rows)


def _class_table(classes: Sequence[ClassScore]) -> str:
    lines = ["| class | test images | of them told right | right among those told so |"]
    lines.append("|---|---|---|---|")
    for each in classes:
        shares = [
            f"{100 * s:.1f} %" if s is not None else "-" for s in (each.recall, each.precision)
        ]
        lines.append(f"| {_escaped(each.name)} | {each.support} | {shares[0]} | {shares[1]} |")
    return "\n".join(lines)


def _mistakes(scores: Scores) -> str:
    if not scores.confused:
        return "Nothing: every test image was told right."
    lines = ["| true class | taken for | test images |", "|---|---|---|"]
    lines += [
        f"| {_escaped(p.true)} | {_escaped(p.predicted)} | {p.count} |" for p in scores.confused
    ]
    return "\n".join(lines) + "\n\n![The most confused pairs](confused.png)"


def _made(taken: RetrainedModel, provenance: Mapping[str, Any]) -> dict[str, str]:
    data, hardware = provenance["data"], provenance["hardware"]
    threads = plural(hardware["threads"], "thread")
    return {
        "configuration": _escaped(origin(taken.plan)),
        "net": net(taken.trial),
        "training": _recipe(taken.trial),
        "seed": str(taken.trial.seed),
        "seconds of training steps": format_seconds(taken.curve[-1].train_seconds),
        "data": f"{_escaped(provenance['dataset'])}: {data['train']:,} training, {data['val']:,}"
        f" validation, {data['test']:,} test images (content {data['content'][:12]}, split"
        f" {data['split'][:12]})",
        "trained on": provenance["trained_on"],
        "hardware": _escaped(f"{hardware['device']}, {threads}"),
        "versions": ", ".join(f"{name} {v}" for name, v in provenance["versions"].items()),
        "made": provenance["created"],
    }


def _limits(taken: RetrainedModel) -> str:
    scores = taken.scores
    limits = [
        f"It knows {len(scores.classes)} classes and takes every image for one of them, whatever"
        " it shows.",
        "The test images come from the same source as the training images: on others, of another"
        " camera, hand or background (dark on light instead of light on dark), it will do worse.",
        f"{scores.n:,} test images leave the accuracy uncertain by the interval above; classes"
        " with few images more so.",
    ]
    limits.append(
        "The test images were looked at once, for this model. Whoever trains many and keeps the"
        " best by its test accuracy will find it less good on new images."
    )
    few = [each.name for each in scores.classes if each.support < 20]
    if few:
        shown = ", ".join(_escaped(name) for name in few[:10]) + ", …" * (len(few) > 10)
        limits.append(f"Fewer than 20 test images: {shown}.")
    return "\n".join(f"* {limit}" for limit in limits)


def net(trial: TrialSpec) -> str:
    """Returns the net in words, as ``2 blocks 8-16, kernel 3, flatten``."""
    model = trial.model
    if isinstance(model, FactorySpec):
        values = ", ".join(f"{name} {spelled(value)}" for name, value in model.params.items())
        return f"{model.factory} ({values})" if values else model.factory
    blocks = plural(len(model.widths), "block")
    parts = [f"{blocks} {'-'.join(map(str, model.widths))}", f"kernel {model.kernel_size}"]
    parts += ["batch norm"] * model.batch_norm
    parts += [model.head, f"dropout {model.dropout:.2g}"]
    return ", ".join(parts)


def _recipe(trial: TrialSpec) -> str:
    """The training in words."""
    train = trial.train
    if train.function is not None:
        values = ", ".join(f"{name} {spelled(value)}" for name, value in train.params.items())
        return f"{train.epochs} epochs of {train.function} ({values})"
    parts = [
        f"{train.epochs} epochs",
        f"{train.optimizer} {train.learning_rate:.2g}",
        train.schedule,
        f"batch {train.batch_size}",
        f"weight decay {train.weight_decay:.2g}",
    ]
    parts += [f"momentum {train.momentum:.2g}"] * bool(train.momentum)
    parts += [f"label smoothing {train.label_smoothing:g}", f"shift ±{train.shift} px"]
    parts += [f"rotate ±{train.rotate:g}°"] * bool(train.rotate) + ["flip"] * train.flip
    return ", ".join(parts)


def origin(plan: RetrainPlan) -> str:
    """Returns where a configuration comes from, in words."""
    how = f" ({' '.join(plan.chosen)})" if plan.chosen else ""
    if plan.trial is not None:
        return f"trial {plan.trial} of study {plan.study}{how}"
    where = f", data and recipe of study {plan.study}" if plan.study else ""
    return f"set by hand{how}{where}"


def percent(share: float) -> str:
    """Returns a share in percent, to as many decimals as an accuracy has.

    >>> percent(0.97), percent(0.9931)
    ('97.0 %', '99.31 %')
    """
    return format_value("accuracy", share)


def accuracy(scores: Scores) -> str:
    """Returns the accuracy in percent, to as many decimals as its images carry."""
    return format_value("accuracy", scores.accuracy, images=scores.n)


def interval(scores: Scores) -> str:
    """Returns the accuracy's interval in words."""
    low, high = scores.interval
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def apart(taken: RetrainedModel) -> str | None:
    """Returns what to make of a searched accuracy outside the test accuracy's interval."""
    searched, (low, high) = taken.plan.searched, taken.scores.interval
    if searched is None or low <= searched <= high:
        return None
    if searched < low:
        return (
            "the search saw less than the interval above allows: more training images, longer"
            " training or easier test images may explain it"
        )
    return (
        "the search saw more than the interval above allows: a front's trials are partly lucky,"
        " trainings of few steps differ much from each other, and the test images may be harder;"
        " `hpsearch confirm` tells how much was luck"
    )


def seeds_text(accuracies: MeanAndDeviation) -> str:
    """Returns mean and deviation of several accuracies.

    >>> seeds_text(MeanAndDeviation(values=(0.5, 0.6), mean=0.55, deviation=0.0707))
    '55.00 ± 7.07 %, 2 seeds'
    """
    deviation = f" ± {100 * accuracies.deviation:.2f}" if accuracies.deviation is not None else ""
    return f"{100 * accuracies.mean:.2f}{deviation} %, {len(accuracies.values)} seeds"


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {v} |" for name, v in rows.items())])


def _escaped(text: str) -> str:
    """The text as it is read within a line or a table's cell of Markdown, names of classes too.

    >>> print(_escaped("a|b $x$ <c>"))
    a\\|b \\$x\\$ \\<c\\>
    """
    return " ".join(re.sub(r"[\\|*_`\[\]<>&$~]", r"\\\g<0>", text).split())
