"""A trained model in words: its card, in Markdown."""

from __future__ import annotations

import functools
import re

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from hpsearch.core.analysis.metrics import MeanAndDeviation, Scores
from hpsearch.core.plural import plural
from hpsearch.core.spec import FactorySpec, TrialSpec
from hpsearch.search.jobs.retrain import RetrainedModel
from hpsearch.search.jobs.retrain_plan import RetrainPlan
from hpsearch.view.format import format_seconds, format_value, spelled


def card(taken: RetrainedModel, *, params: int, onnx: bool) -> str:
    """Returns the model card.

    Args:
        taken: the model and its scores.
        params: the number of parameters.
        onnx: whether there is a ``model.onnx`` in the same folder.
    """
    config, scores = taken.model.config, taken.scores
    height, width = config.size
    return _template().render(
        config=config,
        provenance=config.provenance,
        scores=scores,
        params=params,
        onnx=onnx,
        height=height,
        width=width,
        mode={1: "gray", 3: "RGB", 4: "RGBA"}[config.channels],
        net=net(taken.trial),
        factory=config.model.factory if isinstance(config.model, FactorySpec) else None,
        searched_by_trial=taken.plan.trial is not None,
        accuracy=accuracy(scores),
        interval=interval(scores),
        quality=_quality(taken),
        origin=_origin(taken),
        rare=[_escaped(each.name) for each in scores.classes if each.support < 20],
    )


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("hpsearch.view", "model"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["escaped"] = _escaped
    environment.filters["plural"] = plural
    environment.filters["share"] = lambda share: "-" if share is None else f"{100 * share:.1f} %"
    return environment.get_template("card.md.j2")


def _quality(taken: RetrainedModel) -> dict[str, str]:
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
    if (difference := apart(taken)) is not None:
        rows["search and test"] = difference
    if taken.held_out:
        rows["validation accuracy"] = percent(taken.curve[-1].val_accuracy)
    if len(taken.seeds) > 1:
        rows["test accuracy, mean ± deviation"] = (
            f"{seeds_text(taken.accuracies)}; this model is the first of them, not the best"
        )
    return rows


def _origin(taken: RetrainedModel) -> dict[str, str]:
    provenance = taken.model.config.provenance
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


def _escaped(text: str) -> str:
    """The text as it is read within a line or a table's cell of Markdown, names of classes too.

    >>> print(_escaped("a|b $x$ <c>"))
    a\\|b \\$x\\$ \\<c\\>
    """
    return " ".join(re.sub(r"[\\|*_`\[\]<>&$~]", r"\\\g<0>", text).split())
