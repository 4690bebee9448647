"""The weights service: folds scores and sets weights."""
