"""A thread that steps back does so alone."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from coremesh.service.priority import step_back


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows priorities of threads")
def test_only_the_thread_that_calls_it_steps_back() -> None:
    found: list[int] = []

    def work() -> None:
        step_back(2)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [min(19, before + 2)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
