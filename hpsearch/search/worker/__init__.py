"""Worker processes: launching, training trials, heartbeats."""
