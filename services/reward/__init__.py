"""The reward service: scores completions."""
