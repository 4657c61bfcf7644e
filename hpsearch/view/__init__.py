"""What a person sees: progress, tables and the dashboard."""
