"""What a benchmark ran on and what it ran with, printed above every table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from hpsearch.nn.runtime import cpu

if TYPE_CHECKING:
    import torch


def settle(threads: int) -> None:
    """Has torch compute with so many threads in this process; called before torch is imported."""
    cpu.prepare_environment(threads)
    cpu.apply_threads(threads)


def describe_environment(device: torch.device | None = None) -> str:
    """Returns hardware, thread settings and versions in a few lines."""
    import torch

    from hpsearch.nn.runtime.device import autocast_dtype, describe

    device = device or torch.device("cpu")
    packages = ("torch", "torchvision", "numpy", "optuna")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return "\n".join(
        [
            f"date      {date.today().isoformat()}",
            f"device    {describe(device)}, {cpu.usable_cpus()} cores usable, load before {load}",
            f"bf16      {'in hardware' if autocast_dtype(device) else 'no: float32'}",
            f"threads   {torch.get_num_threads()},"
            f" OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'not set')}",
            f"versions  Python {platform.python_version()}, "
            + ", ".join(f"{name} {_version(name)}" for name in packages),
        ]
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table, first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    print(line(header))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row), flush=True)
