"""Run notebooks top to bottom in fresh kernels on the CPU and keep their outputs.

    python notebooks/run.py              all of them, solutions included
    python notebooks/run.py 02 04        those whose file name begins so

A notebook that raises, or writes to stderr, is left as it was. What is stored says nothing of the
machine: no timings, no paths, one kernel name. The second cell of each is for Colab, and written here.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/ipr-lite/ipr-lite"
"""Where Colab fetches the project from: a fork changes this line and runs all notebooks."""

COLAB = f"""\
# On Colab this fetches the project and installs what it needs; elsewhere it does nothing.
import os
import sys

if "google.colab" in sys.modules:
    get_ipython().system(
        "git clone -q {REPOSITORY} project && cd project && pip install -q -r requirements.txt"
    )
    os.chdir("project/notebooks")
    sys.path.insert(0, os.path.abspath(".."))"""
QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, where ipywidgets is not installed
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}


def notebooks(starts: list[str]) -> list[Path]:
    """Notebooks whose name begins with one of `starts` (all without any), in the reader's order."""
    found = (path for path in HERE.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    return sorted(
        (path for path in found if not starts or path.name.startswith(tuple(starts))),
        key=lambda path: (path.parent != HERE, path.name),
    )


def execute(path: Path) -> str:
    """Run one notebook; the text to store. Raises where a cell fails or writes to stderr."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    if book.cells[1].get("id") != "colab":
        book.cells.insert(1, nbformat.v4.new_code_cell(id="colab", metadata={"tags": ["remove-cell"]}))
    book.cells[1].source = COLAB
    NotebookClient(
        book,
        timeout=600,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(book.cells):
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"cell {number} writes to stderr:\n{output['text']}")
            if "metadata" in output:
                output.metadata = {}
    nbformat.validate(book)
    return nbformat.writes(book) + "\n"


def main(starts: list[str]) -> int:
    """Exit code: 0 all stored, 1 a notebook failed, 2 no such notebook."""
    os.environ.update(QUIET)  # kernels inherit it
    paths = notebooks(starts)
    if not paths:
        print(f"no notebook begins with {' or '.join(starts)}", file=sys.stderr)
        return 2
    failed = 0
    for path in paths:
        began = time.perf_counter()
        try:
            text = execute(path)
        except Exception as error:
            print(f"{path.name}: NOT stored: {error}", file=sys.stderr)
            failed = 1
            continue
        aside = path.with_name(path.name + ".part")
        aside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(aside, path)
        print(f"{path.name}: {time.perf_counter() - began:.0f} s, {len(text) // 1024} KiB", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
