"""The options that benchmarks share, with the first line of a benchmark's docstring as help."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

_HELP: Mapping[str, str] = {
    "trials": "of a search",
    "epochs": "of a trial",
    "seed": "of the first search",
    "seeds": "how many, from 0",
    "repeats": "how often each is measured",
    "rounds": "how often all are run, in turns",
    "threads": "of a training",
}


def parser_of(text: str, **numbers: int | None) -> argparse.ArgumentParser:
    """Returns a parser of the named whole numbers; the benchmark adds what is its own.

    Args:
        text: the benchmark's docstring.
        numbers: the defaults by name; None: what hpsearch or the study has.
    """
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    for name, default in numbers.items():
        told = "hpsearch's own" if default is None else str(default)
        help_ = f"{_HELP[name]}  [default: {told}]"
        parser.add_argument(f"--{name}", type=int, default=default, help=help_)
    return parser


def add_quick(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of a run that only shows that the benchmark works."""
    parser.add_argument("--quick", action="store_true", help="a smoke run: no figures to keep")
