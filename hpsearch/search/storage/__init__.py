"""The database: connections, transactions, and all SQL on Optuna's tables."""
