"""The book builds without a warning or a network, and its pages keep up with chapters, package and error texts."""

import importlib.util
import json
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ipr_lite import envs
from ipr_lite.__main__ import main
from ipr_lite.make import front
from ipr_lite.methods import METHODS
from ipr_lite.step_reward import steps_of

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(BOOK.glob("*.md"))]
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
    sources = [*NOTEBOOKS, *BOOK.glob("*.md")]
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


def modules() -> set[str]:
    files = (path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "ipr_lite").rglob("*.py"))
    return {".".join(parts).removesuffix(".__init__") for parts in files} - {"ipr_lite", "ipr_lite.__main__"}


def test_the_api_pages_hold_every_module(html):
    """Each once, whoever adds a file; where autodoc could read it, its anchor or its name stands in the book."""
    pages = runpy.run_path(str(BOOK / "conf.py"))["api_pages"]()
    shown = re.findall(r"automodule:: (\S+)\n(   :no-index:)?", "".join(pages.values()))
    assert sorted(name for name, _ in shown) == sorted(modules())
    text = "".join((html / "book/api" / f"{page}.html").read_text(encoding="utf-8") for page in pages)
    assert all(without or f'id="module-{name}"' in text for name, without in shown)


def test_a_new_folder_or_file_gets_its_place_on_the_api_pages(tmp_path):
    conf = runpy.run_path(str(BOOK / "conf.py"))
    conf["api_pages"].__globals__["ROOT"] = tmp_path
    for name in ("records", "zeta", "envs/farm/env", "doors/trl", "methods/grpo"):
        path = tmp_path / "ipr_lite" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    pages = conf["api_pages"]()
    assert re.findall(r"automodule:: (\S+)", pages["root"]) == ["ipr_lite.records", "ipr_lite.zeta"]
    places = {"farm": "envs.farm.env", "doors": "doors.trl", "methods": "methods.grpo"}
    assert all(f"automodule:: ipr_lite.{module}\n" in pages[page] for page, module in places.items())


def test_the_front_pages_pictures_are_those_of_the_script():
    made = {path.name: path.read_bytes() for path in (BOOK / "pictures").glob("*.png")}
    assert made == front.pictures(), "run `python ipr_lite/make/front.py`"


def test_the_front_page_is_short_and_shows_the_thing():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1200
    images = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(images) == 3 and all((ROOT / image).exists() for image in images)
    assert text.index(images[0]) < 1500, "a page of the shop in the first screen"


def test_the_front_page_leads_to_the_code_of_each_equation():
    """A file and its functions for equations 1 to 10 and Algorithm 1: each is there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| \[`(\w+\.py)`\]\((ipr_lite/\w+\.py)\) \| ([^|]+) \|$", text, re.MULTILINE
    )
    told = " ".join(row[0] for row in rows)
    assert "Algorithm 1" in told
    assert set(map(int, re.findall(r"\d+", told.replace("Algorithm 1", "")))) == set(range(1, 11))
    for _, name, path, functions in rows:
        assert path.endswith(f"/{name}")
        code = (ROOT / path).read_text(encoding="utf-8")
        for function in re.findall(r"`(?:\w+\.)?(\w+)`", functions):
            assert re.search(rf"^\s*def {function}\(", code, re.MULTILINE), f"{path}: no {function}"


PATH = re.compile(r"`((?:ipr_lite|tests|notebooks|data|book)/[\w./{}*-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_that_are_there(page):
    """Of the log only what it says of today's code: history keeps the names of its day."""
    if page.name == "log.md":
        pytest.skip("history")
    for name in PATH.findall(page.read_text(encoding="utf-8")):
        if not re.search(r"NAME|NN|_build|/api/|sft_best|envs/guess|_sft.json", name):
            assert list(ROOT.glob(name.rstrip("/"))), f"{page.name}: no {name}"


CHECKS = sorted((ROOT / "ipr_lite" / "checks").glob("*.py"))
OLD = r"(?<![a-z])(trips?|(?<!fair )coins?(?! flip)|contests?|trunks?|experts?)(?![a-z])"


def shown(path: Path) -> str:
    """What a reader sees: a page without its code, a file of the package, a notebook with code and stored texts."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    if path.suffix == ".py":
        return text
    cells = json.loads(text)["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    data = [text for output in outputs for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    parts = [cell["source"] for cell in cells] + [output.get("text", "") for output in outputs] + data
    return "\n".join("".join(part) for part in parts)


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS, *CHECKS], ids=lambda page: page.name)
def test_pages_chapters_and_checks_keep_to_the_glossarys_words(page):
    """No private words; "expert" where the paper, or a name in a command or a file, is quoted."""
    if page.name == "log.md":
        pytest.skip("history")
    for line in shown(page).splitlines():
        if not re.search("paper|authors", line):
            assert not re.search(OLD, line, re.IGNORECASE), f"{page.name}: {line[:300]}"


OURS = (
    "advantage", "answer key", "branch", "budget", "careful person", "contrast", "control", "demonstrator", "exploration",
    "habit", "health", "iterate", "loser", "margin", "n-gram guess", "outcome pair", "playing on", "prefix",
    "random preferences", "round", "scorer", "step pair", "step reward", "suffix", "tau", "tie", "value", "verdict", "winner",
)  # fmt: skip
"""Words in a sense of this project's own; the names of its methods are such words, too."""


def terms() -> dict[str, str]:
    """Term of the glossary, in small letters, and the last column of its line."""
    text = (BOOK / "glossary.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| \*\*(.+?)\*\* \| .+ \| (.+?) \|$", text, re.MULTILINE)
    return {term.lower(): where for heads, where in lines for term in heads.split(", ")}


def says(text: str, term: str) -> bool:
    """Is the term in the text, in the plural perhaps, or as a name in code?"""
    plural = term.replace("person", "(?:person|people)")
    return bool(re.search(rf"(?<![a-z]){plural}s?(?![a-z])", " ".join(text.split()), re.IGNORECASE))


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_the_glossary_has_the_projects_own_words(page):
    text, known = shown(page), {term.replace(" ", "-") for term in terms()}
    used = [term for term in (*OURS, *METHODS) if says(text, term)]
    assert not [term for term in used if not {term.replace(" ", "-"), f"{term}-person"} & known], page.name


def test_a_term_stands_in_the_chapters_that_the_glossary_names():
    texts = {path.name[:2]: shown(path) for path in NOTEBOOKS if path.parent.name == "notebooks"}
    for term, where in terms().items():
        chapters = re.findall(r"\d\d", where.partition("chapter")[2])
        if re.search(r"\d\d to \d\d", where):
            chapters = [f"{number:02}" for number in range(int(chapters[0]), int(chapters[1]) + 1)]
        assert not [n for n in chapters if not says(texts[n], term)], term


def recipes() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_recipe_for_a_method_makes_one():
    """On a run that only remembers: the better half is cloned, and the agent is named."""

    class Run:
        folder = Path("run")
        cloned, kept = [], []

        def demonstrations(self):
            return [SimpleNamespace(reward=reward) for reward in (0.5, 1.0, 0.75, 0.25)]

        def clone(self, demonstrations):
            self.cloned += [d.reward for d in demonstrations]
            return {}, [{}, {}]

        def spend(self, stage, **amounts):
            self.kept.append((stage, amounts))

        def adapter(self, folder, log, make):
            return make()

    names: dict = {}
    exec(recipes()[0], names)
    run = Run()
    assert names["SFT_BEST"].train(run) == ["sft-best"]
    assert run.cloned == [1.0, 0.75] and run.kept == [("sft-best/1", {"updates": 2})]
    assert "SFT_BEST".lower().replace("_", "-") == names["SFT_BEST"].name


def test_the_recipe_for_a_world_makes_one(monkeypatch):
    """The door finds it, careful people always win it, people with habits do not, and steps of it can be scored."""
    module = ModuleType("ipr_lite.envs.guess")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(recipes()[1], module.__dict__)
    place = re.search(r"`(\"guess\": .*),`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))[1]
    monkeypatch.setattr(envs, "PLACES", envs.PLACES | json.loads("{" + place + "}"))
    env, people = envs.make("guess"), envs.people_of("guess")
    tasks = envs.tasks("guess", "train")
    careful, habitual = (people.demonstrations(tasks, env, h, 0) for h in (people.careful, people.habitual))
    assert all(t.success for t in careful) and 0.4 < sum(t.reward for t in habitual) / len(habitual) < 0.9
    assert {step.terminal for step in steps_of(env, habitual[0], "demonstrator")} == {True, False}
    guide = people.guide(tasks[0], env)
    guide.did(tasks[0].instruction, "Action: guess[9]")
    assert guide.act("Observation: Lower.").endswith("guess[4]")


def test_viewers_have_the_same_colours_in_the_book():
    style = (ROOT / "ipr_lite/study/templates/style.css").read_text(encoding="utf-8")
    light_and_dark = re.findall(r"\.ipr\{(--ink:[^\s}]*)", style)
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
