"""How what is shipped was made: the tiny base, the data."""
