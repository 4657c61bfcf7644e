"""Cores, quotas, live workers and what they make of the thread count."""

import doctest
import os
import subprocess
import sys

import pytest
import torch

from hpsearch.errors import DeviceError, SpecError
from hpsearch.nn.runtime import cpu, device


def fake_root(tmp_path, files):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_usable_cpus_obey_affinity_and_quota(tmp_path, eight_cores, files, expected):
    assert cpu.usable_cpus(root=fake_root(tmp_path, files)) == expected


def test_the_processor_is_named_even_where_proc_is_silent(tmp_path):
    root = fake_root(tmp_path, {"proc/cpuinfo": "processor : 0\nmodel name\t: AMD EPYC\n"})
    assert cpu.processor(root=root) == "AMD EPYC"
    assert cpu.processor(root=tmp_path / "nowhere")


def test_workers_count_while_they_live_and_leave_no_file(tmp_path):
    assert cpu.live_workers(directory=tmp_path / "none") == 0
    with cpu.worker_presence(directory=tmp_path), cpu.worker_presence(directory=tmp_path):
        assert cpu.live_workers(directory=tmp_path) == 2
    assert cpu.live_workers(directory=tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_worker_is_not_counted_and_its_file_is_swept(tmp_path):
    code = (
        "import sys, time, pathlib; from hpsearch.nn.runtime import cpu\n"
        "with cpu.worker_presence(directory=pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "held\n"
        assert cpu.live_workers(directory=tmp_path) == 1
        worker.kill()
    assert cpu.live_workers(directory=tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_cannot_make_its_file_still_works(tmp_path):
    (tmp_path / "file").write_text("")
    with cpu.worker_presence(directory=tmp_path / "file"):
        assert cpu.live_workers(directory=tmp_path / "file") == 0


@pytest.mark.parametrize(
    ("requested", "workers", "alive", "expected"),
    [(None, 1, 0, 8), (None, 3, 0, 2), (None, 1, 4, 2), (None, 20, 0, 1), (5, 4, 4, 5)],
)
def test_threads_are_those_requested_or_a_share_of_the_cores(
    monkeypatch, requested, workers, alive, expected
):
    monkeypatch.setattr(cpu, "usable_cpus", lambda: 8)
    monkeypatch.setattr(cpu, "live_workers", lambda: alive)
    assert cpu.decide_threads(requested=requested, workers=workers) == expected


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**30, 1.5, "2", True])
def test_a_number_of_threads_out_of_range_is_refused(threads):
    """OpenMP ended the process without a message at 100,000 threads."""
    with pytest.raises(SpecError, match=f"threads: found {threads!r}, expected a whole number"):
        cpu.decide_threads(requested=threads, workers=1)


def test_the_environment_waits_passively_unless_the_user_chose_otherwise():
    fresh, chosen = {}, {"OMP_WAIT_POLICY": "active"}
    cpu.prepare_environment(3, environment=fresh)
    cpu.prepare_environment(3, environment=chosen)
    counts = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    passive = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}
    assert fresh == {**passive, **counts}
    assert chosen == {"OMP_WAIT_POLICY": "active", **counts}


def test_importing_cpu_does_not_import_torch():
    code = "import sys, hpsearch.nn.runtime.cpu; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
    assert device.has_bf16(root=fake_root(tmp_path, {"proc/cpuinfo": cpuinfo})) is expected


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept_for_later_tensors():
    code = """
import resource, sys
import numpy as np
from hpsearch.nn.runtime import cpu
if sys.argv[1] == "kept":
    cpu.keep_freed_memory()
def use():
    arrays = [np.ones(2**20) for _ in range(20)]  # 8 MiB each
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", code, mode]))
        for mode in ("plain", "kept")
    }
    assert faults["kept"] < faults["plain"] / 10
