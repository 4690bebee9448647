"""What every service is made of: an app with health, readiness, metrics and clear errors, and a way to run it."""

from coremesh.service.app import Health, create_app
from coremesh.service.loops import Loops
from coremesh.service.run import run_service

__all__ = ["Health", "Loops", "create_app", "run_service"]
