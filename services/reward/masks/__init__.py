"""Masks, one a file."""
