"""Studies, budgets and workers: the only room that runs on Optuna."""
