"""Jobs on a finished study: retrain, confirm, compare, export."""
