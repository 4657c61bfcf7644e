"""Several workers on one GPU, where there is one: packed, and refused where they have no room."""

import pytest

from hpsearch.nn.runtime.device import available
from tests.acceptance.conftest import SMALL

pytestmark = pytest.mark.skipif("cuda:0" not in available(), reason="needs a CUDA device")


@pytest.fixture
def study_file(tmp_path, digits_npz):
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(npz=digits_npz))
    return path


def test_two_workers_share_a_gpu(shell, study_file):
    options = ("--trials", 6, "--device", "cuda:0", "--workers", 2, "--gpus-per-worker", 0.5)
    ran = shell.run("run", study_file, *options)
    assert ran.code == 0, ran.err
    told = [shell.run("show", number, "--json").json for number in range(6)]
    assert {trial["state"] for trial in told} <= {"complete", "pruned"}
    assert {trial["attributes"]["origin"]["device"] for trial in told} == {"cuda"}


@pytest.mark.parametrize(
    ("workers", "share", "told"),
    [
        (3, ("--gpus-per-worker", 0.5), "found 3 workers that need 0.5 of a GPU each"),
        (2000, (), "GiB for 2000 workers; start fewer, or narrow the search space"),
    ],
)
def test_workers_that_have_no_room_are_refused(shell, study_file, workers, share, told):
    ran = shell.run("run", study_file, "--device", "cuda:0", "--workers", workers, *share)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert not (shell.folder / "hpsearch.db").exists()
