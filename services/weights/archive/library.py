"""pyarrow, which only the archive needs: asked for where a setting or a command wants it."""

from __future__ import annotations

from coremesh.errors import BadSetting


def need_pyarrow() -> None:
    """Raises BadSetting when pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise BadSetting(
            "Parquet needs pyarrow, which is not installed",
            remedy="Install it (pip install 'coremesh[parquet]'), or leave archive.to empty.",
        ) from None
