"""Devices by name, their assignment to workers, and errors of full memory."""

import doctest

import pytest
import torch

from hpsearch.errors import DeviceError
from hpsearch.nn.runtime import cpu, device


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fma avx2 avx512f\n", False),
        ("flags\t\t: avx512f avx512_bf16\n", True),
        ("flags\t\t: amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd i8mm bf16\n", True),
    ],
)
def test_bf16_is_used_where_the_processor_has_it(tmp_path, cpuinfo, expected):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(cpuinfo)
    assert device.has_bf16(root=tmp_path) is expected


def test_devices_are_picked_by_name():
    assert device.pick_device("cpu") == torch.device("cpu")
    assert device.pick_device("auto").type == device.available()[-1].partition(":")[0]
    assert device.describe(torch.device("cpu")) == f"cpu: {cpu.processor()}"


def test_workers_are_assigned_to_the_gpus_in_turn():
    def never():
        raise AssertionError("a processor's memory is not measured")

    assert doctest.testmod(device).failed == 0
    assert (
        device.assign_devices("cpu", workers=3, gpus_per_worker=None, footprint=never)
        == ["cpu"] * 3
    )
    two = ["cuda:0", "cuda:1"]
    packed = device.assign_gpus(two, workers=8, share=0.25)
    assert packed == two * 4
    assert device.assign_gpus(two, workers=5, share=None) == [*two, *two, "cuda:0"]
    assert device.assign_gpus(["cuda:1"], workers=3, share=1 / 3) == ["cuda:1"] * 3
    with pytest.raises(DeviceError, match=r"found 9 workers that need 0\.25 .* at most 8 on 2"):
        device.assign_gpus(two, workers=9, share=0.25)
    with pytest.raises(DeviceError, match=r"at most 1 on 1 GPU; start fewer"):
        device.assign_gpus(["cuda:0"], workers=2, share=0.6)


def test_a_share_of_a_gpu_is_refused_without_one():
    device.check_share(torch.device("cpu"), None)
    device.check_share(torch.device("cuda", 1), 0.25)
    message = r"gpus-per-worker: found 0\.25 of a GPU for workers on cpu, .*; omit it"
    with pytest.raises(DeviceError, match=message):
        device.check_share(torch.device("cpu"), 0.25)


def test_more_workers_than_a_gpus_memory_holds_are_refused():
    gib = 2**30
    device.check_room("cuda:0", workers=4, needed=2 * gib, free=8 * gib, total=16 * gib)
    message = r"cuda:0: found 8\.0 of 16\.0 GiB free, expected 5 × 2\.0 GiB for 5 workers"
    with pytest.raises(DeviceError, match=message):
        device.check_room("cuda:0", workers=5, needed=2 * gib, free=8 * gib, total=16 * gib)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:99", r"found 'cuda:99', expected a device of this machine \(cpu"),
        ("cdua", "found 'cdua'; did you mean 'cuda'"),
        ("cuda:x", "found 'cuda:x'; did you mean"),
        ("auto:1", "found 'auto:1'; did you mean 'auto'"),
        ("cpu:9", "found 'cpu:9'; did you mean 'cpu'"),
        ("cuda:", "found 'cuda:'; did you mean 'cuda:0'"),
        ("cuda:²", "found 'cuda:²'; did you mean 'cuda:0'"),
        ("", "found ''; known: auto, cpu, cuda"),
    ],
)
def test_a_missing_device_is_refused_with_the_names_of_the_others(name, words):
    with pytest.raises(DeviceError, match=words):
        device.pick_device(name)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_distinguished_from_other_errors(error, expected):
    assert device.is_out_of_memory(error) is expected


def test_a_real_allocation_that_is_too_large_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert device.is_out_of_memory(caught.value)
    device.free_memory(torch.device("cpu"))
