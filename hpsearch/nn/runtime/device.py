"""Devices: choosing one, sharing GPUs among workers, names, data types and memory."""

from __future__ import annotations

import functools
import gc
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hpsearch.errors import DeviceError, nearest, plural
from hpsearch.nn.runtime.cpu import processor

KINDS = ("auto", "cpu", "cuda", "mps")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
_NO_MEMORY = (
    "out of memory",
    "DefaultCPUAllocator",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def pick_device(name: str) -> torch.device:
    """Returns the device of a name: ``auto`` (a GPU if available), cpu, cuda, cuda:1 or mps.

    Raises:
        DeviceError: the name is unknown, or this machine has no such device.
    """
    names = available()
    if name == "auto":
        return torch.device(names[min(1, len(names) - 1)])  # the first GPU, else the processor
    # "cuda" means the first GPU, as in torch, not the one that happens to be current.
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"cuda(:[0-9]{1,4})?|(cpu|mps)(:0)?", name):
        raise DeviceError(f"device: found {name!r}; {nearest(name, [*KINDS, 'cuda:0'])}")
    wanted = f"cuda:{int(index or 0)}" if kind == "cuda" else kind
    if wanted not in names:
        raise DeviceError(
            f"device: found {name!r}, expected a device of this machine ({', '.join(names)});"
            " choose one of them or 'auto'"
        )
    return torch.device(wanted)


def assign_devices(
    name: str, *, workers: int, gpus_per_worker: float | None, footprint: Callable[[], int]
) -> list[str]:
    """Returns the device of each worker: the GPUs in turn, or the same other device for all.

    Args:
        name: as for :func:`pick_device`; a GPU with its index gets all workers.
        workers: the number of workers.
        gpus_per_worker: the share of a GPU that each worker needs, above 0, at most 1; None: any.
        footprint: measures the bytes that a worker takes on a GPU; called for GPUs only.

    Raises:
        DeviceError: the GPUs do not have room for all workers.
    """
    picked = pick_device(name)
    if picked.type != "cuda":
        return [str(picked)] * workers
    gpus = [name] if ":" in name else [d for d in available() if d.startswith("cuda")]
    assigned = assign_gpus(gpus, workers=workers, share=gpus_per_worker)
    # Measured once, after the cheap checks: it trains a few steps of the largest net.
    needed = footprint()
    for gpu in gpus:
        free, total = torch.cuda.mem_get_info(gpu)
        check_room(gpu, workers=assigned.count(gpu), needed=needed, free=free, total=total)
    return assigned


def check_share(device: torch.device, share: float | None) -> None:
    """Checks that a share of a GPU is given only for a GPU.

    Raises:
        DeviceError: it is given for another device.
    """
    if share is not None and device.type != "cuda":
        raise DeviceError(
            f"gpus-per-worker: found {share:g} of a GPU for workers on {device.type}, expected a"
            " GPU; omit it, or name a GPU with --device"
        )


def assign_gpus(gpus: Sequence[str], *, workers: int, share: float | None) -> list[str]:
    """Returns each worker's GPU, in turn.

    >>> assign_gpus(["cuda:0", "cuda:1"], workers=3, share=0.5)
    ['cuda:0', 'cuda:1', 'cuda:0']

    Raises:
        DeviceError: the workers need more GPUs than there are.
    """
    # The quotient may come out just below a whole number, from which int() would drop one.
    room = len(gpus) * int(1 / share + 1e-9) if share is not None else workers
    if workers > room:
        raise DeviceError(
            f"found {workers} workers that need {share:g} of a GPU each, expected at most"
            f" {room} on {plural(len(gpus), 'GPU')}; start fewer or reduce the share"
        )
    return [gpus[worker % len(gpus)] for worker in range(workers)]


def check_room(gpu: str, *, workers: int, needed: int, free: int, total: int) -> None:
    """Checks that a GPU's free memory has room for what each worker needs; sizes in bytes.

    Raises:
        DeviceError: the workers need more memory than is free.
    """
    if workers * needed > free:
        raise DeviceError(
            f"{gpu}: found {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, expected"
            f" {workers} × {needed / 2**30:.1f} GiB for {workers} workers; start fewer, or narrow"
            " the search space"
        )


def available() -> tuple[str, ...]:
    """Returns the names of the devices of this machine, the processor first."""
    gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return ("cpu", *gpus, *(("mps",) if torch.mps.device_count() else ()))


def cuda_version() -> str | None:
    """Returns the version of CUDA that torch is built for; None for a build without CUDA."""
    return torch.version.cuda


def describe(device: torch.device) -> str:
    """Returns the device's kind and model, such as ``cpu: AMD EPYC`` or ``cuda: NVIDIA H100``."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {processor()}"


@functools.cache
def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Returns the data type of training on the device, or None for plain float32.

    bfloat16 if the hardware computes it; emulated, it would be slower than float32.
    """
    if device.type == "cuda":
        # Older GPUs emulate bfloat16; ROCm numbers its devices otherwise and computes it natively.
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native or torch.version.hip else None
    if device.type == "cpu" and has_bf16() and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return torch.bfloat16
    return None


def has_bf16(*, root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bfloat16 in hardware (x86: AVX-512 or AMX; Arm: BF16).

    Linux lists it in ``/proc/cpuinfo``; on other systems torch 2.10 or later reports it.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        report: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(report.get(flag) is True for flag in ("avx512_bf16", "amx_bf16"))
    flags = (line.partition(":") for line in lines if line.startswith(("flags", "Features")))
    return any(_BF16_FLAGS & set(value.split()) for _, _, value in flags)


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether the exception means that the device or the machine has no memory left.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    True
    >>> is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    False
    """
    if isinstance(exc, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(exc, RuntimeError) and any(words in str(exc) for words in _NO_MEMORY)


def free_memory(device: torch.device) -> None:
    """Returns unreferenced memory to the device.

    Delete the model, its optimizer and the exception first: a traceback keeps tensors alive.
    """
    # Reference cycles of a failed training hold its tensors until they are collected.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


# torch imports torch._dynamo at the first call of an optimizer or of an operation counter, only to
# exclude that call from compilation (1.1 s on an Intel Xeon, 2 s on an AMD EPYC Milan, torch
# 2.14.1). We compile nothing: the next two functions avoid the import in every worker.


def leave_uncompiled(owner: type) -> None:
    """Marks a class's methods as already excluded from torch's compiler."""
    for _, method in inspect.getmembers(owner, inspect.isfunction):
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            setattr(inner, "__dynamo_disable", inner)  # the name that torch looks up


def bare_step(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """Returns the optimizer's step without torch's wrappers for the compiler."""
    step: Any = type(optimizer).step
    while hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    return torch.no_grad()(lambda: step(optimizer))
