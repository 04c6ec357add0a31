"""The worlds in other people's tools: a file each, held equal to the plain worlds by `tests/test_doors.py`."""
