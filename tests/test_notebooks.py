"""The static gate: what a notebook must be before anyone runs it (nbval runs it).

nbval passes a checked cell without outputs in silence, and keeps stale outputs; this does not.
"""

import json
import re
import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted(
    path
    for path in (Path(__file__).parent.parent / "notebooks").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in path.parts
)
COLAB = runpy.run_path(str(Path(__file__).parent.parent / "notebooks" / "run.py"))["COLAB"]
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|work|tmp|opt|usr|mnt|content)/|\b[A-Z]:\\\\?(?:Users|Windows|Temp)\b"
)


def faults(path: Path) -> list[str]:
    """What is wrong with a notebook, one line each; empty when it is fit to be committed."""
    text = path.read_text(encoding="utf-8")
    try:
        book = json.loads(text)
    except json.JSONDecodeError as error:
        return [f"not valid JSON: {error}"]
    found = []
    if path.stat().st_size > 1_000_000:
        found.append("over 1 MB: make the figures smaller")
    if book["metadata"].get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel must be python3")
    cells = [(index, cell, "".join(cell["source"])) for index, cell in enumerate(book["cells"])]
    prose = [source for _, cell, source in cells if cell["cell_type"] == "markdown"]
    headings = [h for source in prose for h in re.findall(r"^# .+", _without_code(source), re.M)]
    if len(headings) != 1 or not cells or not cells[0][2].startswith("# "):
        found.append("the first cell must begin with the notebook's one '# ' heading")
    code = [item for item in cells if item[1]["cell_type"] == "code" and item[2].strip()]
    counts = [cell.get("execution_count") for _, cell, _ in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"not run top to bottom in a fresh kernel: execution counts {counts[:8]}")
    for index, cell, source in cells:
        written = source + json.dumps([_without_images(output) for output in cell.get("outputs", [])])
        if ABSOLUTE.search(written):
            found.append(f"cell {index}: an absolute path: {ABSOLUTE.search(written).group()}")
    for index, cell, source in code:
        tags = cell["metadata"].get("tags", [])
        if len(source.splitlines()) > 40:
            found.append(f"cell {index}: over 40 lines")
        if "raises-exception" not in tags and any(o["output_type"] == "error" for o in cell["outputs"]):
            found.append(f"cell {index}: holds an error")
        if "nbval-check-output" in tags and not cell["outputs"]:
            found.append(f"cell {index}: checked by nbval but without an output, so it always passes")
    return found


def _without_code(source: str) -> str:
    return re.sub(r"^```.*?^```", "", source, flags=re.M | re.S)


def _without_images(output: dict) -> dict:
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    return {**output, "data": data}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_fit_to_be_committed(path):
    assert faults(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_second_cell_installs_on_colab_and_does_nothing_here(path):
    cell = json.loads(path.read_text(encoding="utf-8"))["cells"][1]
    assert (cell["id"], "".join(cell["source"]), cell["outputs"]) == ("colab", COLAB, [])


def notebook(*cells) -> dict:
    return {"cells": list(cells), "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}


def code(source, count, outputs=(), tags=()) -> dict:
    return {
        "cell_type": "code", "source": source, "execution_count": count,
        "outputs": list(outputs), "metadata": {"tags": list(tags)},
    }  # fmt: skip


TITLE = {"cell_type": "markdown", "source": "# Try it\n```\n# a comment\n```", "metadata": {}}
ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
PRINTED = {"output_type": "stream", "name": "stdout", "text": "saved " + "/ho" + "me/me/x"}


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ([TITLE, code("1", 1), code("", None), code("2", 2)], None),
        ([TITLE, code("1/0", 1, [ERROR], ["raises-exception"])], None),
        ([TITLE, code("1", 2)], "execution counts"),
        ([TITLE, code("1/0", 1, [ERROR])], "holds an error"),
        ([TITLE, code("\n".join("a" * 41), 1)], "over 40 lines"),
        ([TITLE, code("print(x)", 1, [PRINTED])], "absolute path"),
        ([TITLE, code("x", 1, tags=["nbval-check-output"])], "always passes"),
        ([TITLE, TITLE, code("1", 1)], "one '# ' heading"),
        ([code("1", 1)], "one '# ' heading"),
    ],
)
def test_the_gate_sees_a_fault(tmp_path, cells, fault):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook(*cells)), encoding="utf-8")
    found = faults(path)
    assert found == [] if fault is None else fault in " ".join(found)
