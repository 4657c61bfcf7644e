"""The commands as Python functions: search, train, evaluate."""
