"""``hpsearch.train`` from Python."""

from __future__ import annotations

import subprocess
import sys


def test_threads_are_told_to_wait_before_torch_is_imported(tmp_path):
    """OpenMP reads its environment once; threads that spin slow a busy machine down manifold."""
    code = (
        "import sys\n"
        "from hpsearch.nn.runtime import cpu\n"
        "prepare, first = cpu.prepare_environment, []\n"
        "def noting(*arguments, **options):\n"
        "    first.append('torch' not in sys.modules)\n"
        "    return prepare(*arguments, **options)\n"
        "cpu.prepare_environment = noting\n"
        "import hpsearch\n"
        "hpsearch.train(sys.argv[1], dataset='digits', settings=['n_blocks=1'], epochs=1)\n"
        "assert first[0], 'torch was imported before'\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[-500:]) == (0, "")
