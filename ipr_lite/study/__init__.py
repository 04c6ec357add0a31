"""Reads what runs wrote; compares, measures, draws, writes pages."""
