"""The four deployables. They import coremesh and never each other."""
