"""Killing a process that is certainly still doing the observed work."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress


def kill_while(pid: int, is_so: Callable[[], bool]) -> bool:
    """Kills a process that is stopped while something is so; lets it go on if it no longer is.

    A process that was looked at may have gone on by the time a signal reaches it.
    """
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        if is_so():
            os.kill(pid, signal.SIGKILL)
            return True
        os.kill(pid, signal.SIGCONT)
    return False
