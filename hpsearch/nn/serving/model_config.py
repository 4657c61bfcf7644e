"""What a model folder's ``config.json`` says, read with distrust: whoever made it may be anyone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from hpsearch.core.dimensions import BUILT_IN, MAX_BLOCKS
from hpsearch.core.dimensions import check_custom_value as plain_value
from hpsearch.core.spec import FactorySpec, ModelSpec, NetSpec
from hpsearch.errors import ModelError
from hpsearch.nn.models.cnn import MIN_SIDE

FORMAT = "hpsearch-model"
VERSION = 1  # of the folder: raise it when an older hpsearch could misread what is written
CONFIG = "config.json"
_RESIZE = (
    "upright by its EXIF tag, scaled bilinearly to cover the size, cropped to its middle,"
    " converted to as many channels"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """All that a model's weights need to be used, and where they come from.

    ``input_shape`` is (C, H, W); ``mean`` and ``std`` are per channel, of images scaled to [0, 1].
    ``provenance`` is what JSON can hold. ``onnx`` says what ``model.onnx`` takes and returns; it
    is empty where there is none.
    """

    model: NetSpec
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    onnx: Mapping[str, Any] = field(default_factory=dict)

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
    text = json.dumps(_plain(config), indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _plain(config: ModelConfig) -> dict[str, Any]:
    height, width = config.size
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": asdict(config.model),
        "input_shape": list(config.input_shape),
        "classes": list(config.classes),
        "mean": list(config.mean),
        "std": list(config.std),
        "preprocessing": {
            "size": [height, width],
            "channels": config.channels,
            "resize": _RESIZE,
            "scale": "(value / 255 - mean) / std, per channel",
        },
        "onnx": dict(config.onnx) or None,
        "provenance": dict(config.provenance),
    }


def read_config(folder: Path) -> ModelConfig:
    """Returns what a model folder's ``config.json`` says.

    Raises:
        ModelError: it is missing, damaged or of a newer version.
    """
    path = folder / CONFIG
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        refuse(path, "is missing")
    except (OSError, ValueError, RecursionError) as exc:
        refuse(path, f"cannot be read ({exc})")
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        refuse(path, f"found no format {FORMAT!r} in it")
    version = plain.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ModelError(
            f"{path}: found format version {version}, expected at most {VERSION}; upgrade hpsearch"
        )
    try:
        return _parsed(plain)
    except (KeyError, TypeError, ValueError) as exc:
        what = f"found no {exc}" if isinstance(exc, KeyError) else str(exc)
        refuse(path, what)


def refuse(path: Path, what: str) -> NoReturn:
    """Raises ModelError: the file is damaged, as ``what`` says."""
    raise ModelError(
        f"{path}: {what}; expected a whole model folder, copy it again or train the model again"
    ) from None


def _parsed(plain: Mapping[str, Any]) -> ModelConfig:
    channels, height, width = _whole(plain, "input_shape", low=1, high=4096, count=3)
    _expect(channels in (1, 3, 4), "input_shape", plain["input_shape"])
    _expect(min(height, width) >= MIN_SIDE, "input_shape", plain["input_shape"])
    classes = plain["classes"]
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    _expect(named and len(classes) >= 2, "classes", classes)
    _expect(plain.get("version") == VERSION, "version", plain.get("version"))
    return ModelConfig(
        model=_model_spec(plain["model"]),
        input_shape=(channels, height, width),
        classes=tuple(classes),
        mean=_numbers(plain, "mean", count=channels),
        std=_numbers(plain, "std", count=channels),
        provenance=plain.get("provenance") or {},
        onnx=plain.get("onnx") or {},
    )


def _expect(ok: bool, key: str, found: object) -> None:
    if not ok:
        raise ValueError(f"found {key} {str(found)[:80]}")


def _whole(plain: Mapping[str, Any], key: str, *, low: int, high: int, count: int) -> list[int]:
    values = plain[key]
    ok = isinstance(values, list) and (count == len(values) or not count)
    ok = ok and all(type(value) is int and low <= value <= high for value in values)
    _expect(ok, key, values)
    return list(values)


def _numbers(plain: Mapping[str, Any], key: str, *, count: int) -> tuple[float, ...]:
    values = plain[key]
    ok = isinstance(values, list) and len(values) == count
    ok = ok and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    _expect(ok, key, values)
    return tuple(float(value) for value in values)


def _model_spec(plain: Any) -> NetSpec:
    if isinstance(plain, dict) and set(plain) == {"factory", "params"}:
        name, params = plain["factory"], plain["params"]
        _expect(isinstance(name, str) and isinstance(params, dict), "model", plain)
        return FactorySpec(factory=name, params={k: plain_value(v) for k, v in params.items()})
    names = {each.name for each in fields(ModelSpec)}
    _expect(isinstance(plain, dict) and set(plain) == names, "model", plain)
    widths = _whole(plain, "widths", low=1, high=4096, count=0)
    _expect(1 <= len(widths) <= MAX_BLOCKS, "model.widths", widths)
    rest = {name: BUILT_IN[name].check(plain[name]) for name in names - {"widths"}}
    return ModelSpec(widths=tuple(widths), **rest)  # type: ignore[arg-type]
