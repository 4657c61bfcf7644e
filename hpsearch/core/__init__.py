"""Plain data and pure rules: no torch, no Optuna, no files."""
