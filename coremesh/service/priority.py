"""Who goes first on a busy machine."""

from __future__ import annotations

import contextlib
import os
import sys
import threading


def step_back(nice: int) -> None:
    """Lower the priority of the calling thread, and of those that it starts, by ``nice`` (1 to 19).

    For threads that compute: an event loop that is woken up next to them need not wait until their turn on the core is
    over. Only Linux knows priorities of threads; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + nice)
