"""Settings of every test, and of every notebook kernel that pytest starts."""

import os

# Progress bars go to stderr, which nbval would compare; nothing here may reach for the network.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
