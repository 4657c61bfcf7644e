"""Runs commands with a closed, full or broken stdout or stderr; each in a fork, in its own folder.

A fork of a process that has imported everything starts in milliseconds, an interpreter in a second.
Reads ``[[arguments, fault], …]`` as JSON from stdin, with the folder to copy as its argument;
writes ``[[exit code, stdout, stderr], …]``.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import optuna  # noqa: F401 (loaded before the forks)
import torch

import hpsearch.search.jobs.analyse
import hpsearch.search.jobs.confirm
import hpsearch.search.jobs.doctor
import hpsearch.search.worker.service
import hpsearch.view.report.report  # noqa: F401
from hpsearch.cli.main import enter


def main() -> None:
    torch.set_num_threads(1)
    cases = json.load(sys.stdin)
    results = [run(sys.argv[1], arguments, fault) for arguments, fault in cases]
    sys.stdout.write(json.dumps(results))


def run(source, arguments, fault):
    """Returns the exit code, stdout and stderr of a command, in a copy of the source folder."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(shutil.copytree(source, Path(home) / "work"))
        out, err = Path(home) / "out", Path(home) / "err"
        child = os.fork()
        if not child:
            os.chdir(folder)
            try:
                prepare(out, err, fault)
                sys.argv = ["hpsearch", *arguments]
                enter()
            finally:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        return [os.waitstatus_to_exitcode(status), out.read_text(), err.read_text()]


def prepare(out, err, fault):
    """Makes this process look as if a shell had just started it with such streams."""
    for number, name, path in ((1, "stdout", out), (2, "stderr", err)):
        path.touch()
        kind = fault.removeprefix(f"{name} ") if fault.startswith(name) else ""
        if kind == "closed":
            os.close(number)
            setattr(sys, name, None)
            continue
        if kind == "broken":
            reader, target = os.pipe()
            os.close(reader)
        else:
            target = os.open("/dev/full" if kind == "full" else path, os.O_WRONLY)
        os.dup2(target, number)
        os.close(target)


if __name__ == "__main__":
    main()
