"""optuna-dashboard with our annotations and access control."""
