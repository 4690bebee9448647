"""The command line."""

from coremesh.cli.main import main

__all__ = ["main"]
