"""A study as the file that makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hpsearch.core.spec import StudySpec, to_dict


def to_toml(spec: StudySpec) -> str:
    """Returns the study file of the spec, with every key that it can have.

    >>> from hpsearch.core.space import default_space
    >>> text = to_toml(StudySpec(name="digits", space=default_space("geometric")))
    >>> [line for line in text.splitlines() if "n_blocks" in line or "name" in line]
    ['name = "digits"', 'n_blocks = { low = 1, high = 5, log = false }']
    """
    plain = to_dict(spec)
    lines = [f"name = {_value(plain.pop('name'))}"]
    for section, table in plain.items():
        entries = _space(table) if section == "space" else table
        kept = [f"{key} = {_value(value)}" for key, value in entries.items() if value is not None]
        lines += ["", f"[{section}]", *kept]
    return "\n".join(lines) + "\n"


def _space(table: Mapping[str, Any]) -> dict[str, Any]:
    """A choice is a list in a study file, and a table in the stored spec."""
    return {
        name: dim["choices"] if isinstance(dim, Mapping) and "choices" in dim else dim
        for name, dim in table.items()
    }


def _value(value: Any) -> str:
    if isinstance(value, str):  # of JSON's escapes TOML knows all; it wants DEL escaped too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (bool, int, float)):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    return "[" + ", ".join(_value(inner) for inner in value) + "]"
