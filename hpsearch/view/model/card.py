"""The model card of a trained model, in Markdown, and its parts in words."""

from __future__ import annotations

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from hpsearch.core.analysis.metrics import Scores
from hpsearch.core.analysis.statistics import MeanAndDeviation
from hpsearch.core.spec import FactorySpec, TrialSpec
from hpsearch.errors import plural
from hpsearch.search.jobs.retrain import RetrainedModel, RetrainPlan
from hpsearch.view.document import code_span, escaped
from hpsearch.view.format import format_seconds, format_value, spelled


def card(trained: RetrainedModel, *, params: int) -> str:
    """Returns the model card of a trained model with ``params`` parameters."""
    config, scores = trained.model.config, trained.scores
    height, width = config.size
    return _template().render(
        config=config,
        provenance=config.provenance,
        data=config.provenance["data"],
        scores=scores,
        params=params,
        onnx=bool(config.onnx),
        height=height,
        width=width,
        mode={1: "gray", 3: "RGB", 4: "RGBA"}[config.channels],
        net=net(trained.trial),
        factory=config.model.factory if isinstance(config.model, FactorySpec) else None,
        searched_by_trial=trained.plan.trial is not None,
        accuracy=accuracy(scores),
        interval=interval(scores),
        searched=trained.plan.searched,
        apart=apart(trained),
        held_out=trained.curve[-1].val_accuracy if trained.held_out else None,
        seeds=seeds_text(trained.accuracies) if len(trained.seeds) > 1 else None,
        origin=origin(trained.plan),
        recipe=_recipe(trained.trial),
        seed=trained.trial.seed,
        train_seconds=format_seconds(trained.curve[-1].train_seconds),
        rare=[escaped(each.name) for each in scores.classes if each.support < 20],
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
    environment.filters["escaped"] = escaped
    environment.filters["code"] = code_span
    environment.filters["plural"] = plural
    environment.filters["percent"] = percent
    environment.filters["share"] = lambda share: "-" if share is None else f"{100 * share:.1f} %"
    return environment.get_template("card.md.j2")


def net(trial: TrialSpec) -> str:
    """Returns the net in words, such as ``2 blocks 8-16, kernel 3, flatten``."""
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
    """Returns the training in words, such as ``12 epochs, adamw 0.006, one-cycle, batch 64``."""
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
    """Returns the origin of a configuration, in words."""
    how = f" ({' '.join(plan.chosen)})" if plan.chosen else ""
    if plan.trial is not None:
        return f"trial {plan.trial} of study {plan.study}{how}"
    where = f", data and recipe of study {plan.study}" if plan.study else ""
    return f"set by hand{how}{where}"


def percent(share: float) -> str:
    """Returns a share in percent, with the decimals of an accuracy.

    >>> percent(0.97), percent(0.9931)
    ('97.0 %', '99.31 %')
    """
    return format_value("accuracy", share)


def accuracy(scores: Scores) -> str:
    """Returns the accuracy in percent, with the decimals that the number of images justifies."""
    return format_value("accuracy", scores.accuracy, images=scores.n)


def interval(scores: Scores) -> str:
    """Returns the 95 % interval of the accuracy in words."""
    low, high = scores.interval
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def apart(trained: RetrainedModel) -> str | None:
    """Explains a searched accuracy outside the interval of the test accuracy; None inside it."""
    searched, (low, high) = trained.plan.searched, trained.scores.interval
    if searched is None or low <= searched <= high:
        return None
    if searched < low:
        return (
            "the search measured less than the interval above allows: more training images, longer"
            " training or easier test images may explain it"
        )
    return (
        "the search measured more than the interval above allows: the trials of a front are partly"
        " lucky, short trainings vary a lot, and the test images may be harder; `hpsearch confirm`"
        " shows how much was luck"
    )


def seeds_text(accuracies: MeanAndDeviation) -> str:
    """Returns mean and deviation of several accuracies.

    >>> seeds_text(MeanAndDeviation(values=(0.5, 0.6), mean=0.55, deviation=0.0707))
    '55.00 ± 7.07 %, 2 seeds'
    """
    deviation = f" ± {100 * accuracies.deviation:.2f}" if accuracies.deviation is not None else ""
    return f"{100 * accuracies.mean:.2f}{deviation} %, {len(accuracies.values)} seeds"
