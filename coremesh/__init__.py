"""What every coremesh service speaks: events, history, settings, errors, HTTP. No I/O at import; no torch."""

__version__ = "0.1.0"
