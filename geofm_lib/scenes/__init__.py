"""The drawing of the built-in data set."""
