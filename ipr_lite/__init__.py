"""IPR Lite: process supervision for LLM agents, step by step."""

import logging
import warnings
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
"""What ships with the project: the tiny base, the worlds' data, a finished run, results."""

# On some CPUs bitsandbytes, when imported, asks for the optional package `kernels`, which only makes 4-bit there faster;
# the tiny scale decodes from a merged copy and does not need it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# Bars are drawn as text where ipywidgets is not installed, and that is all there is to say about it.
warnings.filterwarnings("ignore", message="IProgress not found")
