"""What a study is and what a trial is, as frozen data: specs and their JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hpsearch.core.initial_trials import RECIPE
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.pruning import Rule
from hpsearch.core.space import TRAINING, Dim, Space, Value, dims, parse, width_names
from hpsearch.errors import SpecError, nearest

SAMPLERS = ("tpe", "nsga2", "gp", "random", "qmc", "grid", "grid+random")
WIDTHS = ("geometric", "per-block")
_FORBID = {"extra": "forbid"}


def _expect(ok: bool, key: str, found: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"{key}: found {found!r}, expected {expected}")


def _expect_known(key: str, found: str, known: tuple[str, ...] | Mapping[str, Any]) -> None:
    if found not in known:
        raise ValueError(f"{key}: found {found!r}; {nearest(found, known)}")


def _expect_dotted(key: str, found: str | None) -> None:
    ok = found is None or re.fullmatch(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*", found)
    _expect(bool(ok), key, found, "a module and a name in it, as 'mypackage.nets:build'")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """Which images, and how they are split.

    ``dataset`` is a known name, a folder of class folders, or an ``.npz`` file. ``image_size``
    (pixels) resizes a folder's images. The fractions cut validation and test images from the
    training images where the data brings no such split of its own.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _FORBID
    dataset: str = "mnist5k"
    image_size: int | None = None
    val_fraction: float = 0.15
    test_fraction: float = 0.15

    def __post_init__(self) -> None:
        ok = bool(self.dataset) and "\0" not in self.dataset
        _expect(ok, "data.dataset", self.dataset, "a name or a path")
        size = self.image_size
        _expect(size is None or 8 <= size <= 512, "data.image_size", size, "8 to 512 pixels")
        for key in ("val_fraction", "test_fraction"):
            value = getattr(self, key)
            _expect(0 < value <= 0.5, f"data.{key}", value, "a fraction above 0, at most 0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSpec:
    """What all trainings of a study have in common.

    ``shift`` is in pixels, ``rotate`` in degrees, each the largest size of a random change to
    either side; ``flip`` mirrors half of the images left to right. ``function`` names a training of
    the person's own, as ``mypackage.loops:train`` (see :mod:`hpsearch.nn.training.custom_loop`).
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _FORBID
    epochs: int = 8
    label_smoothing: float = 0.05
    shift: int = 1
    rotate: float = 0.0
    flip: bool = False
    function: str | None = None

    def __post_init__(self) -> None:
        _expect_dotted("train.function", self.function)
        _expect(1 <= self.epochs <= 10_000, "train.epochs", self.epochs, "1 to 10000")
        smoothing = self.label_smoothing
        _expect(0 <= smoothing < 1, "train.label_smoothing", smoothing, "0 to below 1")
        _expect(0 <= self.shift <= 64, "train.shift", self.shift, "0 to 64 pixels")
        _expect(0 <= self.rotate <= 180, "train.rotate", self.rotate, "0 to 180 degrees")


def check_shift(shift: int, *, height: int, width: int) -> None:
    """Refuses shifts, in pixels, that would move half of an image of that size out of sight.

    Raises:
        SpecError: the shift is that large.

    >>> check_shift(13, height=28, width=28)
    >>> check_shift(14, height=28, width=32)
    Traceback (most recent call last):
    hpsearch.errors.SpecError: train.shift: found 14 on images of 28×32 pixels, expected at most \
13, less than half of them; lower it
    """
    most = (min(height, width) - 1) // 2
    if shift > most:
        raise SpecError(
            f"train.shift: found {shift} on images of {height}×{width} pixels, expected at most"
            f" {most}, less than half of them; lower it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSpec:
    """How channel widths are drawn: ``geometric`` (base width and growth) or ``per-block``.

    ``max_width`` caps geometric widths. ``factory`` names a builder of the person's own instead, as
    ``mypackage.nets:build`` (see :mod:`hpsearch.nn.models.custom`).
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _FORBID
    widths: str = "geometric"
    max_width: int = 64
    factory: str | None = None

    def __post_init__(self) -> None:
        _expect_dotted("model.factory", self.factory)
        for key in ("widths", "max_width") if self.factory else ():
            found, default = getattr(self, key), getattr(ShapeSpec(), key)
            _expect(found == default, f"model.{key}", found, "none beside model.factory; drop it")
        _expect_known("model.widths", self.widths, WIDTHS)
        _expect(1 <= self.max_width <= 4096, "model.max_width", self.max_width, "1 to 4096")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """What is optimised, and how the search goes about it.

    ``trials`` is the study's total of complete and pruned trials. ``timeout`` is in seconds.
    ``grid`` names the dimensions that a grid covers (all of them for ``grid`` when empty), and
    ``grid_points`` how many values it takes from a continuous one.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _FORBID
    trials: int = 100
    objectives: tuple[str, ...] = ("accuracy", "train_seconds")
    sampler: str = "tpe"
    grid: tuple[str, ...] = ()
    grid_points: int = 3
    seed: int = 0
    timeout: float | None = None
    workers: int = 1
    max_failures: int = 5

    def __post_init__(self) -> None:
        _expect(1 <= self.trials <= 10**7, "search.trials", self.trials, "1 or more")
        _expect(
            len(self.objectives) > 0, "search.objectives", list(self.objectives), "at least one"
        )
        for name in self.objectives:
            _expect_known("search.objectives", name, OBJECTIVES)
        distinct = len(set(self.objectives)) == len(self.objectives)
        _expect(distinct, "search.objectives", list(self.objectives), "each objective once")
        _expect_known("search.sampler", self.sampler, SAMPLERS)
        _expect(2 <= self.grid_points <= 1000, "search.grid_points", self.grid_points, "2 to 1000")
        _expect(0 <= self.seed < 2**63, "search.seed", self.seed, "0 to 2**63 - 1")
        timeout = self.timeout
        _expect(
            timeout is None or 0 < timeout < float("inf"),
            "search.timeout",
            timeout,
            "more than 0 seconds",
        )
        _expect(1 <= self.workers <= 4096, "search.workers", self.workers, "1 or more")
        _expect(self.max_failures >= 1, "search.max_failures", self.max_failures, "1 or more")
        if self.sampler == "grid+random" and not self.grid:
            raise ValueError(
                "search.grid: found nothing, expected the dimensions that 'grid+random' covers"
                ' evenly; add e.g. grid = ["n_blocks"]'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A whole study: its data, recipe, shape, search, stopping rule and space."""

    name: str
    data: DataSpec = field(default_factory=DataSpec)
    train: RecipeSpec = field(default_factory=RecipeSpec)
    model: ShapeSpec = field(default_factory=ShapeSpec)
    search: SearchSpec = field(default_factory=SearchSpec)
    pruning: Rule = field(default_factory=Rule)
    space: Space

    def __post_init__(self) -> None:
        _expect(bool(self.name.strip()), "name", self.name, "a name that is not empty")
        drawn = dims(self.space)
        for name in self.search.grid:
            _expect_known("search.grid", name, tuple(drawn))

    @property
    def has_own_code(self) -> bool:
        """Whether the model or the training is the person's own."""
        return self.model.factory is not None or self.train.function is not None

    @property
    def grid_dimensions(self) -> tuple[str, ...]:
        """The dimensions that the grid samplers cover."""
        return self.search.grid or tuple(dims(self.space))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One CNN: a block per width (convolution, batch norm, ReLU, max-pool), then the head.

    ``head`` is ``flatten`` or ``gap`` (global average pooling); dropout stands before its linear
    layer.
    """

    widths: tuple[int, ...]
    kernel_size: int = 3
    batch_norm: bool = True
    dropout: float = 0.0
    head: str = "flatten"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorySpec:
    """One net of the person's own: who builds it, and from which values."""

    factory: str
    params: Mapping[str, Value]


NetSpec = ModelSpec | FactorySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """One training. ``seed`` fixes the order of the images, their augmentation and dropout.

    ``function`` is a training of the person's own, None the built-in one; ``params`` are all the
    trial's values then, and empty otherwise.
    """

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    schedule: str = "constant"
    label_smoothing: float = 0.0
    shift: int = 0
    rotate: float = 0.0
    flip: bool = False
    function: str | None = None
    params: Mapping[str, Value] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """One trial, ready to be trained: nothing in it is left to chance or to the process."""

    number: int
    seed: int
    model: NetSpec
    train: TrainSpec


def derive_seed(seed: int, *path: int | str) -> int:
    """Returns a seed in [0, 2**31) that depends on all the arguments and on nothing else.

    >>> derive_seed(0, 7, "sampler") == derive_seed(0, 7, "sampler") != derive_seed(0, 8, "sampler")
    True
    """
    text = json.dumps([seed, *path]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 2**31


def trial_seed(spec: StudySpec, number: int) -> int:
    """Returns the seed of trial ``number``: of its weights, data order and dropout."""
    return derive_seed(spec.search.seed, number, "trial")


def is_control(spec: StudySpec, number: int) -> bool:
    """Whether trial ``number`` always runs to the end, so that what stopping cost can be seen.

    One trial, chosen by the study's seed, in every 1 / ``control`` numbers: a coin for each
    trial would leave one study of 100 trials in 170 without any.
    """
    share = spec.pruning.control
    if share <= 0:
        return False
    block = math.floor(number * share + 1e-9)
    first, end = (math.ceil(edge / share - 1e-9) for edge in (block, block + 1))
    return number == first + derive_seed(spec.search.seed, block, "control") % (end - first)


def geometric_widths(n_blocks: int, base_width: int, growth: float, cap: int) -> tuple[int, ...]:
    """Returns one width per block: base width × growth per block, in multiples of 4, capped.

    >>> geometric_widths(4, 32, 2.0, 128)
    (32, 64, 128, 128)
    """
    raw = (base_width * growth**block for block in range(n_blocks))
    return tuple(min(cap, max(base_width if base_width < 4 else 4, 4 * round(w / 4))) for w in raw)


def resolve(spec: StudySpec, *, number: int, params: Mapping[str, Value]) -> TrialSpec:
    """Turns the values drawn for trial ``number`` into a trial that can be trained."""
    own = spec.train.function is not None  # it may not use the built-in training's values
    p: dict[str, Any] = {**(RECIPE if own else {}), **params}
    seed = trial_seed(spec, number)
    drawn = ("batch_size", "optimizer", "learning_rate", "weight_decay", "schedule")
    train = TrainSpec(
        **{key: p[key] for key in drawn},
        momentum=p.get("momentum", 0.0),
        **dataclasses.asdict(spec.train),
        params=dict(params) if own else {},
        seed=seed,
    )
    return TrialSpec(number=number, seed=seed, model=_net(spec, params), train=train)


def reseeded(trial: TrialSpec, seed: int) -> TrialSpec:
    """Returns the same trial with another seed, of its weights as of its data order."""
    return dataclasses.replace(trial, seed=seed, train=dataclasses.replace(trial.train, seed=seed))


def _net(spec: StudySpec, params: Mapping[str, Value]) -> NetSpec:
    p: dict[str, Any] = dict(params)
    if spec.model.factory is not None:
        values = {name: value for name, value in p.items() if name not in TRAINING}
        return FactorySpec(factory=spec.model.factory, params=values)
    if spec.model.widths == "geometric":
        widths = geometric_widths(p["n_blocks"], p["base_width"], p["growth"], spec.model.max_width)
    else:
        widths = tuple(p[name] for name in width_names(p["n_blocks"]))
    shared = ("kernel_size", "batch_norm", "dropout", "head")
    return ModelSpec(widths=widths, **{key: p[key] for key in shared})


def to_dict(spec: StudySpec) -> dict[str, Any]:
    """Returns the spec as plain data, in the layout of a study file."""
    plain = dataclasses.asdict(spec)
    plain["space"] = {name: _plain_dim(dim) for name, dim in spec.space.items()}
    return plain


def _plain_dim(dim: Dim | Value) -> Any:
    if isinstance(dim, (bool, int, float, str)):
        return dim
    return {key: value for key, value in dataclasses.asdict(dim).items() if value is not None}


def to_json(spec: StudySpec) -> str:
    """Returns the spec as canonical JSON: sorted keys, no spaces; equal specs give equal text."""
    return json.dumps(to_dict(spec), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> StudySpec:
    """Returns the spec that :func:`to_json` wrote."""
    plain = json.loads(text)
    train, model = RecipeSpec(**plain["train"]), ShapeSpec(**plain["model"])
    own = train.function is not None or model.factory is not None
    return StudySpec(
        name=plain["name"],
        data=DataSpec(**plain["data"]),
        train=train,
        model=model,
        search=SearchSpec(**_with_tuples(plain["search"])),
        pruning=Rule(**_with_tuples(plain["pruning"])),
        space={name: parse(name, raw, own=own) for name, raw in plain["space"].items()},
    )


def _with_tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
