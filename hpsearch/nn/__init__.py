"""Images, models and training: the only room that runs on torch."""
