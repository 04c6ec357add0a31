"""Settings of every test, and of every notebook kernel that pytest starts."""

import os

# Progress bars go to stderr, which nbval would compare; nothing here may reach for the network.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two processes test at once (pyproject.toml), each with one thread: with more, they would stand in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
