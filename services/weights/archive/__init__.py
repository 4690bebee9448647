"""The history as Parquet, and as the rotating event log of the first validator."""
