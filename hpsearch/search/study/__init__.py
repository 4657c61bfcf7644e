"""Studies, leases and the budget."""
