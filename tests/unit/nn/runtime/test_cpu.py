"""Cores, quotas, live workers and the number of threads that follows."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.errors import SpecError
from hpsearch.nn.runtime import cpu


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


@pytest.fixture
def places(monkeypatch, tmp_path):
    """The folders of the environment, in the test's own; "foreign" holds another user's files."""
    for name, place in (("HPSEARCH_CACHE", "cache"), ("XDG_RUNTIME_DIR", "run"), ("TMPDIR", "tmp")):
        monkeypatch.setenv(name, str(tmp_path / place))
        (tmp_path / place).mkdir(mode=0o700)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    (tmp_path / "foreign" / f"{platform.node()}-1-00000000").touch()  # like a dead worker's
    return tmp_path


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_lock_files_lie_where_only_the_user_can_write(places):
    with cpu.worker_presence():
        assert cpu.live_workers() == 1
        assert len(left(places / "cache")) == 2
    assert left(places / "tmp") == left(places / "run") == []


@pytest.mark.parametrize("planted", ["link", "open", "file"])
def test_a_planted_folder_is_neither_read_nor_swept(places, planted, caplog):
    """Before, counting deleted the files behind a link in the folder of temporary files."""
    before = left(places / "foreign")
    folder = cpu.presence_directory()
    if planted == "link":
        folder.symlink_to(places / "foreign")
    elif planted == "open":
        (places / "foreign").rename(folder)
        folder.chmod(0o777)
    else:
        folder.write_text("precious")

    assert cpu.live_workers() == 0
    with cpu.worker_presence():
        assert "other workers on this host do not count this one" in caplog.text
        assert "expected a folder that only you can write" in caplog.text

    if planted == "file":
        assert folder.read_text() == "precious"
    else:
        assert left(folder) == before


def test_only_empty_lock_files_of_this_host_are_swept(places):
    folder = cpu.presence_directory()
    with cpu.worker_presence():
        for name in ("thesis.tex", "elsewhere-1-00000000"):
            (folder / name).touch()
        ours = folder / f"{platform.node()}-"
        Path(f"{ours}1-00000000").touch()
        Path(f"{ours}2-00000000").write_text("not empty")
        Path(f"{ours}3-00000000").symlink_to(places / "foreign" / "thesis.tex")
        os.mkfifo(f"{ours}4-00000000")
        assert cpu.live_workers() == 1
    kept = {path.name.removeprefix(ours.name) for path in folder.iterdir()}
    assert kept == {"thesis.tex", "elsewhere-1-00000000", *(f"{i}-00000000" for i in (2, 3, 4))}


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
