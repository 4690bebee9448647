"""A module that waits, for a test to interrupt."""

from __future__ import annotations

import time

if __name__ == "__main__":
    print("waiting", flush=True)
    time.sleep(30)
