"""bittensor 10, the last SDK with an Axon and a Dendrite, in an environment of its own outside the repository.

It cannot live beside bittensor 11. Made on first use under ``$XDG_CACHE_HOME/coremesh`` (else
``~/.cache/coremesh``) and kept there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "10.2.1"
INSTALL_TIMEOUT_S = 420


def python() -> Path | None:
    """The interpreter of that environment, made if need be; None when it cannot be installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coremesh"
    folder = cache / f"bittensor-{VERSION}-py{sys.version_info[0]}.{sys.version_info[1]}"
    interpreter, stamp = folder / "bin" / "python", folder / ".complete"
    if stamp.exists():
        return interpreter
    try:
        shutil.rmtree(folder, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", folder], [*install, f"bittensor=={VERSION}"]):
            subprocess.run(
                command, check=True, timeout=INSTALL_TIMEOUT_S, stdout=sys.stderr, stderr=sys.stderr
            )
        check = "from bittensor.core.dendrite import Dendrite; from bittensor.core.axon import Axon"
        subprocess.run([interpreter, "-c", check], check=True, timeout=120, stdout=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"bittensor {VERSION} cannot be installed: {error}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    stamp.touch()
    return interpreter


if __name__ == "__main__":
    found = python()
    print(found or "not available")
    sys.exit(found is None)
