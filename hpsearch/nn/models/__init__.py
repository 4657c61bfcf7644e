"""Models built from specs, and their costs."""
