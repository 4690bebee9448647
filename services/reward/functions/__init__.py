"""Reward functions, one a file."""
