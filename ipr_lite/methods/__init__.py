"""A method a file: what IPR is compared with."""
