"""Data sets: reading, splitting, caching, batching."""
