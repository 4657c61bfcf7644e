"""A model folder's ``config.json``: written, and read as untrusted input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from hpsearch.core.dimensions import BUILT_IN, MAX_BLOCKS, check_custom_value
from hpsearch.core.spec import FactorySpec, ModelSpec, NetSpec
from hpsearch.errors import ModelError, expect_plain, shown
from hpsearch.nn.models import MIN_SIDE
from hpsearch.util.atomic import read_regular

FORMAT = "hpsearch-model"
VERSION = 1  # of the folder: raise it when an older hpsearch could misread a new one
CONFIG = "config.json"
_MOST_BYTES = 2**24  # of config.json
_RESIZE = (
    "upright by its EXIF tag, scaled bilinearly to cover the size, cropped to its middle,"
    " converted to as many channels"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """All that is needed to use a model's weights, and their provenance, as JSON can hold it.

    ``input_shape`` is (C, H, W); ``mean`` and ``std`` are per channel, of images scaled to [0, 1].
    ``onnx`` describes the input and output of ``model.onnx``; empty without that file.
    ``weights_sha256`` is the hash of the file of weights; None in folders of earlier versions.
    """

    model: NetSpec
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    onnx: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str | None = field(default=None, compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.input_shape[1:]

    @property
    def channels(self) -> int:
        """1 (gray), 3 (RGB) or 4 (RGBA)."""
        return self.input_shape[0]


def write_config(folder: Path, config: ModelConfig) -> None:
    """Writes ``config.json`` into a folder."""
    height, width = config.size
    plain = {
        "format": FORMAT,
        "version": VERSION,
        "model": asdict(config.model),
        "input_shape": list(config.input_shape),
        "classes": list(config.classes),
        "mean": list(config.mean),
        "std": list(config.std),
        "weights_sha256": config.weights_sha256,
        "preprocessing": {
            "size": [height, width],
            "channels": config.channels,
            "resize": _RESIZE,
            "scale": "(value / 255 - mean) / std, per channel",
        },
        "onnx": dict(config.onnx) or None,
        "provenance": dict(config.provenance),
    }
    text = json.dumps(plain, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_config(folder: Path) -> ModelConfig:
    """Returns the content of a model folder's ``config.json``.

    Raises:
        ModelError: it is missing, damaged or of a newer version.
    """
    path = folder / CONFIG
    try:
        plain = json.loads(read_regular(path, most=_MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        refuse(path, "is missing")
    except OSError as exc:
        refuse(path, f"cannot be read ({exc.strerror})")
    except (ValueError, RecursionError) as exc:
        refuse(path, f"cannot be read ({exc})")
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        refuse(path, f"found no format {FORMAT!r} in it")
    try:
        for key, value in plain.items():
            expect_plain(key, value)
    except ValueError as exc:
        refuse(path, str(exc))
    version = plain.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ModelError(
            f"{path}: found format version {version}, expected at most {VERSION}; upgrade hpsearch"
        )
    file = _validated(_ConfigFile, plain, path)
    for key, values in (("mean", file.mean), ("std", file.std)):
        if len(values) != file.input_shape[0]:
            refuse(path, f"found {key} {shown(list(values))}")
    if len(set(file.classes)) < len(file.classes):
        refuse(path, f"found two equal classes in {shown(list(file.classes))}")
    spec: NetSpec
    if "factory" in file.model:
        spec = FactorySpec(**dict(_validated(_CustomModel, file.model, path, prefix="model.")))
    else:
        spec = ModelSpec(**dict(_validated(_BuiltInModel, file.model, path, prefix="model.")))
    return ModelConfig(
        model=spec,
        input_shape=file.input_shape,
        classes=file.classes,
        mean=file.mean,
        std=file.std,
        provenance=file.provenance or {},
        onnx=file.onnx or {},
        weights_sha256=file.weights_sha256,
    )


def refuse(path: Path, what: str) -> NoReturn:
    """Raises ModelError for a damaged file; ``what`` describes the damage."""
    raise ModelError(
        f"{path}: {what}; expected a whole model folder, copy it again or train the model again"
    ) from None


# Strict: pydantic would otherwise accept "3" and true as numbers.
_Side = Annotated[int, Field(strict=True, ge=MIN_SIDE, le=4096)]
_Width = Annotated[int, Field(strict=True, ge=1, le=4096)]
# Of pixels scaled to [0, 1], so neither can be larger.
_Mean = Annotated[float, Field(strict=True, ge=0, le=1)]
_Deviation = Annotated[float, Field(strict=True, gt=0, le=1)]


class _ConfigFile(BaseModel):
    """The keys that are read; others are ignored."""

    version: Literal[1]
    model: dict[str, Any]
    input_shape: tuple[Literal[1, 3, 4], _Side, _Side]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    mean: tuple[_Mean, ...]
    std: tuple[_Deviation, ...]
    weights_sha256: str | None = None
    provenance: dict[str, Any] | None = None
    onnx: dict[str, Any] | None = None


class _BuiltInModel(BaseModel, extra="forbid"):
    widths: Annotated[tuple[_Width, ...], Field(min_length=1, max_length=MAX_BLOCKS)]
    kernel_size: Annotated[Any, AfterValidator(BUILT_IN["kernel_size"].check)]
    batch_norm: Annotated[Any, AfterValidator(BUILT_IN["batch_norm"].check)]
    dropout: Annotated[Any, AfterValidator(BUILT_IN["dropout"].check)]
    head: Annotated[Any, AfterValidator(BUILT_IN["head"].check)]


class _CustomModel(BaseModel, extra="forbid"):
    factory: str
    params: dict[str, Annotated[Any, AfterValidator(check_custom_value)]]


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(
    kind: type[_Model], plain: Mapping[str, Any], path: Path, *, prefix: str = ""
) -> _Model:
    """Returns the checked values; refuses the file with the first error, in our words."""
    try:
        return kind.model_validate(plain)
    except ValidationError as exc:
        error = exc.errors()[0]
    key = error["loc"][0]
    if error["type"] == "missing":
        refuse(path, f"found no '{prefix}{key}'")
    if error["type"] == "value_error":  # of a dimension's own check, which names the choices
        refuse(path, f"{prefix}{key}: {error['ctx']['error']}")
    refuse(path, f"found {prefix}{key} {str(plain[str(key)])[:80]}")
