"""What nbval compares, and how long it waits."""


def pytest_collectstart(collector):
    # Warnings, tables and vector figures differ between machines; the numbers stand in asserts.
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml")


def pytest_collection_modifyitems(items):
    # nbval waits five seconds for the output of a finished cell, which a busy machine exceeds.
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
