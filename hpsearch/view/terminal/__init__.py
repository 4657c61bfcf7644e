"""Tables and the live view on a terminal."""
