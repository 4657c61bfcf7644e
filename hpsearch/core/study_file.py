"""Writing a spec as a study file that reads back as the same study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hpsearch.core.spec import StudySpec, to_dict


def to_toml(spec: StudySpec) -> str:
    """Returns the text of a study file with every key of the spec that is not None.

    >>> from hpsearch.core.dimensions import IntDim
    >>> text = to_toml(StudySpec(name="s", space={"n_blocks": IntDim(low=1, high=5)}))
    >>> text.splitlines()[0], text.splitlines()[-1]
    ('name = "s"', 'n_blocks = { low = 1, high = 5, log = false }')
    """
    plain = to_dict(spec)
    lines = [f"{key} = {_value(v)}" for key, v in plain.items() if not isinstance(v, Mapping)]
    for section, table in plain.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_value(v)}" for key, v in table.items() if v is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        if set(value) == {"choices"}:
            return _value(value["choices"])
        inner = ", ".join(f"{key} = {_value(v)}" for key, v in value.items() if v is not None)
        return f"{{ {inner} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):  # TOML escapes as JSON does, and DEL too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
