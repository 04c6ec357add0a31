"""The book builds without a warning or a network, and its pages keep up with chapters, package and error texts."""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ipr_lite.__main__ import main
from ipr_lite.study import viewer

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
TOOLS = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_copybutton")


@pytest.fixture(scope="module")
def html():
    """The folder of a fresh build. It lies in the repository: on Windows a temporary folder may be on another drive."""
    missing = [name for name in TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the book is not built: no {', '.join(missing)}; pip install -r book/requirements.txt")
    (BOOK / "_build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BOOK / "_build") as folder:
        out = Path(folder) / "html"
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "book", "-b", "html", ".", out]
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
        assert built.returncode == 0, built.stderr
        yield out


def pages(html: Path) -> dict[str, str]:
    return {
        path.relative_to(html).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(html.rglob("*.html"))
        if "_static" not in path.parts
    }


def test_every_chapter_and_page_is_in_the_book(html):
    found = pages(html)
    sources = [*NOTEBOOKS, *BOOK.glob("*.md"), *BOOK.glob("api/*.md")]
    assert {path.relative_to(ROOT).with_suffix("").as_posix() for path in sources} <= found.keys()
    assert len(found.keys() - {"index", "genindex", "py-modindex", "search"}) >= 18
    assert 'url=book/index.html"' in found["index"]
    for chapter in (path for path in NOTEBOOKS if path.parent.name == "notebooks"):
        assert f"<h1>{chapter.name[:2]}. " in found[f"notebooks/{chapter.stem}"]
        assert f"../notebooks/{chapter.stem}.html" in found["book/index"]


def test_no_page_loads_anything_from_elsewhere(html):
    for name, text in pages(html).items():
        loaded = re.findall(r'\bsrc="(?:https?:)?//[^"]*|<link\b[^>]*\bhref="(?:https?:)?//[^"]*', text)
        assert not loaded, f"{name}: {loaded}"
    for sheet in html.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet
    assert (html / "_static/mathjax/tex-svg.js").stat().st_size > 2_000_000
    assert (html / "_static/mathjax/LICENSE").exists()
    with_math = [text for text in pages(html).values() if 'class="math' in text]
    assert with_math and all("_static/mathjax/tex-svg.js" in text for text in with_math)


def test_search_needs_no_server(html):
    index = (html / "searchindex.js").read_text(encoding="utf-8")
    found = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))
    assert {"step", "reward", "rollout"} <= found["terms"].keys() and "notebooks/04_step_rewards" in found["docnames"]
    assert 'src="searchindex.js"' in (html / "search.html").read_text(encoding="utf-8")


def test_the_glossary_leads_to_the_code(html):
    text = (html / "book/glossary.html").read_text(encoding="utf-8")
    assert text.count('<code class="xref') > 40
    assert not re.findall(r'(?<!>)<code class="xref[^>]*>.*?</code>', text), "a name that is not in ipr_lite"


def test_the_api_pages_hold_every_module():
    text = "".join(page.read_text(encoding="utf-8") for page in BOOK.glob("api/*.md"))
    shown = re.findall(r"automodule:: (\S+)", text)
    files = (path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "ipr_lite").rglob("*.py"))
    modules = {".".join(parts).removesuffix(".__init__") for parts in files}
    untold = {"ipr_lite", "ipr_lite.__main__"} | {name for name in modules if ".checks.chapter_" in name}
    assert sorted(shown) == sorted(modules - untold), "a module belongs on one page of book/api"


def test_viewers_have_the_same_colours_in_the_book():
    light_and_dark = re.findall(r"\.ipr\{(--ink:[^\s}]*)", viewer.STYLE)
    sheet = (BOOK / "_static/book.css").read_text(encoding="utf-8")
    assert len(light_and_dark) == 2 and all(colours.rstrip(";") in sheet for colours in light_and_dark)


def exercises() -> list[tuple[str, str, int, str]]:
    """(chapter's file, number, minutes, level) of every exercise in the notebooks."""
    found = []
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.parent.name == "notebooks" else []
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for number, minutes, level in re.findall(r"\*\*Exercise (\d+)\*\* \((\d+) minutes, ([^)]+)\)", text):
            found.append((path.stem, number, int(minutes), level))
    return found


def test_teachers_have_points_and_an_answer_for_every_exercise():
    text = (BOOK / "teachers.md").read_text(encoding="utf-8")
    row = r"^\| \[(\d\d\.\d)\]\(\.\./notebooks/solutions/(\w+)_solutions\.ipynb\) [^|]+\| (\d+), ([^|]+) \| (\d+) \|"
    wanted = [(f"{e[0][:2]}.{e[1]}", e[0], str(e[2]), e[3], str(round(e[2] / 5))) for e in exercises()]
    assert re.findall(row, text, re.MULTILINE) == wanted, "a line for each exercise, a point for five minutes"


@pytest.mark.parametrize(
    "command",
    [
        "show nothing.jsonl",
        "show bad.jsonl",
        "run --scale big",
        "run --data nowhere --out x",
        "play --env sql --data nowhere",
        "play --env house --data nowhere",
        "train --out x2",
        "compare --methods dpo --out x",
        "compare --settings bta=0.3 --out x",
        "plan --model nosuch/model",
    ],
)
def test_troubleshooting_quotes_what_the_commands_say(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"id": "a", "env": "shop"}\n', encoding="utf-8")
    assert main(command.split()) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1].replace("\\", "/")
    quoted = re.findall(r"^error: .*", (BOOK / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert any(told == quote or (quote.endswith("...") and told.startswith(quote[:-3])) for quote in quoted), told
