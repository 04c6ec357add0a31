"""A MySQL front for SQLite: names, types, errors and limits."""
