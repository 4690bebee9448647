"""``coremesh doctor``: what is missing on this machine, and how to fix it."""

from coremesh.cli.doctor.run import Patient, examine_all

__all__ = ["Patient", "examine_all"]
