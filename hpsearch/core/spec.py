"""Studies and trials as frozen data: specs, how a trial is resolved, and their JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hpsearch.core.dimensions import Dim, Value, parse
from hpsearch.core.initial_trials import RECIPE
from hpsearch.core.objectives import OBJECTIVES
from hpsearch.core.pruning import Rule
from hpsearch.core.space import TRAINING, Space, dims, width_names
from hpsearch.errors import SpecError, expect, expect_known, is_text

SAMPLERS = ("tpe", "nsga2", "gp", "random", "qmc", "grid", "grid+random")
WIDTHS = ("geometric", "per-block")
_FORBID = {"extra": "forbid"}


def _expect_dotted(key: str, found: str | None) -> None:
    ok = found is None or re.fullmatch(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*", found)
    expect(bool(ok), key, found, "a module and a name in it, as 'mypackage.nets:build'")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """Which images, and how they are split.

    ``dataset`` is a known name, a folder of class folders, or an ``.npz`` file. ``image_size``
    (pixels) resizes a folder's images. The fractions cut validation and test images from the
    training images if the data set does not come with such a split.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _FORBID
    dataset: str = "mnist5k"
    image_size: int | None = None
    val_fraction: float = 0.15
    test_fraction: float = 0.15

    def __post_init__(self) -> None:
        ok = bool(self.dataset) and is_text(self.dataset)
        expect(ok, "data.dataset", self.dataset, "a name or a path")
        size = self.image_size
        expect(size is None or 8 <= size <= 512, "data.image_size", size, "8 to 512 pixels")
        for key in ("val_fraction", "test_fraction"):
            value = getattr(self, key)
            expect(0 < value <= 0.5, f"data.{key}", value, "a fraction above 0, at most 0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """The number of images per class, and per part of the split, counted without decoding any."""

    classes: Mapping[str, int]
    train: int
    val: int
    test: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSpec:
    """The settings that all trainings of a study share.

    ``shift`` is in pixels, ``rotate`` in degrees, each the largest random change to either side;
    ``flip`` mirrors half of the images left to right. ``function`` names a custom training
    function, as ``mypackage.loops:train`` (see :mod:`hpsearch.nn.training.custom_loop`).
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
        expect(1 <= self.epochs <= 10_000, "train.epochs", self.epochs, "1 to 10000")
        smoothing = self.label_smoothing
        expect(0 <= smoothing < 1, "train.label_smoothing", smoothing, "0 to below 1")
        expect(0 <= self.shift <= 64, "train.shift", self.shift, "0 to 64 pixels")
        expect(0 <= self.rotate <= 180, "train.rotate", self.rotate, "0 to 180 degrees")


def check_shift(shift: int, *, height: int, width: int) -> None:
    """Refuses a shift, in pixels, by half of an image of that size or more.

    Raises:
        SpecError: the shift is too large.

    >>> check_shift(13, height=28, width=28)
    >>> check_shift(14, height=28, width=32)
    Traceback (most recent call last):
    hpsearch.errors.SpecError: train.shift: found 14 on images of 28×32 pixels, expected at most \
13, less than half of the side; lower it
    """
    most = (min(height, width) - 1) // 2
    if shift > most:
        raise SpecError(
            f"train.shift: found {shift} on images of {height}×{width} pixels, expected at most"
            f" {most}, less than half of the side; lower it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSpec:
    """How channel widths are drawn: ``geometric`` (base width and growth) or ``per-block``.

    ``max_width`` caps geometric widths. ``factory`` names a function that builds a custom model
    instead, as ``mypackage.nets:build`` (see :mod:`hpsearch.nn.models`).
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _FORBID
    widths: str = "geometric"
    max_width: int = 64
    factory: str | None = None

    def __post_init__(self) -> None:
        _expect_dotted("model.factory", self.factory)
        # a custom model has no built-in widths, so setting them is a mistake
        for key in ("widths", "max_width") if self.factory else ():
            found, default = getattr(self, key), getattr(ShapeSpec(), key)
            expect(found == default, f"model.{key}", found, "none with model.factory; drop it")
        expect_known("model.widths", self.widths, WIDTHS)
        expect(1 <= self.max_width <= 4096, "model.max_width", self.max_width, "1 to 4096")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """The objectives, the sampler and the budget of a search.

    ``trials`` is the study's total of complete and pruned trials. ``timeout``, of a run, and
    ``trial_timeout``, of a trial, are in seconds; a trial that is not done by then fails.
    ``grid`` names the dimensions that a grid covers (empty: all, for the sampler ``grid``), and
    ``grid_points`` is the number of values that it takes from a continuous one.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _FORBID
    trials: int = 100
    objectives: tuple[str, ...] = ("accuracy", "train_seconds")
    sampler: str = "tpe"
    grid: tuple[str, ...] = ()
    grid_points: int = 3
    seed: int = 0
    timeout: float | None = None
    trial_timeout: float | None = None
    workers: int = 1
    max_failures: int = 5

    def __post_init__(self) -> None:
        expect(1 <= self.trials <= 10**7, "search.trials", self.trials, "1 or more")
        key, objectives = "search.objectives", list(self.objectives)
        expect(len(objectives) > 0, key, objectives, "at least one")
        for name in objectives:
            expect_known(key, name, OBJECTIVES)
        expect(len(set(objectives)) == len(objectives), key, objectives, "each objective once")
        expect_known("search.sampler", self.sampler, SAMPLERS)
        expect(2 <= self.grid_points <= 1000, "search.grid_points", self.grid_points, "2 to 1000")
        expect(0 <= self.seed < 2**63, "search.seed", self.seed, "0 to 2**63 - 1")
        for key in ("timeout", "trial_timeout"):
            seconds = getattr(self, key)
            ok = seconds is None or 0 < seconds < math.inf
            expect(ok, f"search.{key}", seconds, "more than 0 seconds")
        expect(1 <= self.workers <= 4096, "search.workers", self.workers, "1 or more")
        expect(self.max_failures >= 1, "search.max_failures", self.max_failures, "1 or more")
        if self.sampler == "grid+random" and not self.grid:
            raise ValueError(
                "search.grid: found nothing, expected the dimensions that 'grid+random' covers"
                ' evenly; add e.g. grid = ["n_blocks"]'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A whole study: its data, recipe, model shape, search, pruning rule and space."""

    name: str
    data: DataSpec = field(default_factory=DataSpec)
    train: RecipeSpec = field(default_factory=RecipeSpec)
    model: ShapeSpec = field(default_factory=ShapeSpec)
    search: SearchSpec = field(default_factory=SearchSpec)
    pruning: Rule = field(default_factory=Rule)
    space: Space

    def __post_init__(self) -> None:
        expect(bool(self.name.strip()), "name", self.name, "a name that is not empty")
        expect(is_text(self.name), "name", self.name, "a name in UTF-8 without NUL")
        drawn = dims(self.space)
        for name in self.search.grid:
            expect_known("search.grid", name, tuple(drawn))

    @property
    def has_user_code(self) -> bool:
        """Whether the study has a custom model or a custom training function."""
        return self.model.factory is not None or self.train.function is not None

    @property
    def grid_dimensions(self) -> tuple[str, ...]:
        """The dimensions that the grid samplers cover."""
        return self.search.grid or tuple(dims(self.space))


def with_dataset(spec: StudySpec, dataset: str | None) -> StudySpec:
    """Returns the spec with ``dataset`` as the location of its images; None changes nothing.

    Raises:
        SpecError: ``dataset`` is neither a name nor a path.
    """
    if dataset is None:
        return spec
    try:
        return dataclasses.replace(spec, data=dataclasses.replace(spec.data, dataset=dataset))
    except ValueError as exc:
        raise SpecError(f"--dataset: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One CNN: a block per width (convolution, batch norm, ReLU, max-pool), then the head.

    ``head`` is ``flatten`` or ``gap`` (global average pooling); dropout precedes its linear layer.
    """

    widths: tuple[int, ...]
    kernel_size: int = 3
    batch_norm: bool = True
    dropout: float = 0.0
    head: str = "flatten"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorySpec:
    """A custom model: the function that builds it, and the values that it is built from."""

    factory: str
    params: Mapping[str, Value]


NetSpec = ModelSpec | FactorySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """One training. ``seed`` fixes the order of the images, their augmentation and dropout.

    ``function`` is a custom training function (None: the built-in one); ``params`` holds all the
    trial's values for it, and is empty for the built-in one.
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
    """One trial, ready to be trained: completely determined, seeds included."""

    number: int
    seed: int
    model: NetSpec
    train: TrainSpec


def derive_seed(seed: int, *path: int | str) -> int:
    """Returns a seed in [0, 2**31) that depends on all the arguments and nothing else.

    >>> derive_seed(0, 7, "sampler") == derive_seed(0, 7, "sampler") != derive_seed(0, 8, "sampler")
    True
    """
    # not hash(), which differs between processes
    text = json.dumps([seed, *path]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 2**31


def trial_seed(spec: StudySpec, number: int) -> int:
    """Returns the seed of trial ``number`` for its weights, data order and dropout."""
    return derive_seed(spec.search.seed, number, "trial")


def is_control(spec: StudySpec, number: int) -> bool:
    """Whether trial ``number`` is a control: never pruned, to measure what pruning loses.

    One trial in every 1 / ``control`` numbers, chosen by the study's seed. Independent draws
    would leave one in 170 studies of 100 trials without any control.
    """
    share = spec.pruning.control
    if share <= 0:
        return False
    # block k holds the numbers from k / share up to (k + 1) / share, and has one control
    block = math.floor(number * share + 1e-9)
    first, end = (math.ceil(edge / share - 1e-9) for edge in (block, block + 1))
    return number == first + derive_seed(spec.search.seed, block, "control") % (end - first)


def geometric_widths(n_blocks: int, base_width: int, growth: float, cap: int) -> tuple[int, ...]:
    """Returns one width per block: base width × growth per block, in multiples of 4, capped.

    >>> geometric_widths(4, 32, 2.0, 128)
    (32, 64, 128, 128)
    """
    # multiples of 4 suit vector instructions; base widths below 4 are the user's choice
    raw = (base_width * growth**block for block in range(n_blocks))
    return tuple(min(cap, max(base_width if base_width < 4 else 4, 4 * round(w / 4))) for w in raw)


def resolve(spec: StudySpec, *, number: int, params: Mapping[str, Value]) -> TrialSpec:
    """Turns the values drawn for trial ``number`` into a trial that can be trained."""
    custom = spec.train.function is not None
    # A custom training function need not have the dimensions of the built-in training.
    p: dict[str, Any] = {**(RECIPE if custom else {}), **params}
    seed = trial_seed(spec, number)
    drawn = ("batch_size", "optimizer", "learning_rate", "weight_decay", "schedule")
    train = TrainSpec(
        **{key: p[key] for key in drawn},
        momentum=p.get("momentum", 0.0),
        **dataclasses.asdict(spec.train),  # the settings that all trainings share
        params=dict(params) if custom else {},
        seed=seed,
    )
    return TrialSpec(number=number, seed=seed, model=_net(spec, params), train=train)


def reseeded(trial: TrialSpec, seed: int) -> TrialSpec:
    """Returns the same trial with another seed for its weights and data order."""
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

    def plain_dim(dim: Dim | Value) -> Any:
        if isinstance(dim, (bool, int, float, str)):
            return dim
        return {key: value for key, value in dataclasses.asdict(dim).items() if value is not None}

    space = {name: plain_dim(dim) for name, dim in spec.space.items()}
    return {**dataclasses.asdict(spec), "space": space}


def to_json(spec: StudySpec) -> str:
    """Returns the spec as canonical JSON, with sorted keys: equal specs give equal text."""
    return json.dumps(to_dict(spec), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> StudySpec:
    """Returns the spec that :func:`to_json` wrote."""

    def with_tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
        return {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}

    plain = json.loads(text)
    train, model = RecipeSpec(**plain["train"]), ShapeSpec(**plain["model"])
    custom = train.function is not None or model.factory is not None
    return StudySpec(
        name=plain["name"],
        data=DataSpec(**plain["data"]),
        train=train,
        model=model,
        search=SearchSpec(**with_tuples(plain["search"])),
        pruning=Rule(**with_tuples(plain["pruning"])),
        space={name: parse(name, raw, custom=custom) for name, raw in plain["space"].items()},
    )
