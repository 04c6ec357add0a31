"""Settings of the book. From the repository's root, without a network:

python -m sphinx -W --keep-going -c book -b html . book/_build/html
"""

import ast
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the API pages import the package from here, installed or not

project = "IPR Lite"
author = "The IPR Lite authors"
copyright = "the IPR Lite authors, Apache-2.0"
language = "en"
highlight_language = "none"  # blocks without a language are commands, error texts and sketches
smartquotes_action = "qe"  # two dashes are an option's, not a long dash

# Sources stay where they are: nothing is copied, and outputs are those that the tests compare.
root_doc = "book/index"
include_patterns = [
    "book/**",
    "notebooks/**",
    "data/*/CARD.md",
    "data/*-base/README.md",
    "data/advisers/README.md",
    "data/judges/README.md",
    "data/showcase/README.md",
    "data/smol/README.md",
]
exclude_patterns = ["**/_build", "**/.ipynb_checkpoints"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3


def imported(folder):
    """Names of the packages that the modules in a folder import, but for the standard library's and their own."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return sorted(found - sys.stdlib_module_names - {folder.name})


WINGS = {
    "root": "The algorithm: the files of the package's root, in the order in which to read them",
    "engine": "How it is fast, durable and measured; it changes no result",
    "envs": "What all worlds share: interface, people, importers of the authors' files",
    "shop": "The shop: WebShop in text",
    "sql": "The database: InterCodeSQL, with MySQL's dialect on SQLite",
    "house": "The household: ALFWorld in text",
    "methods": "What IPR is compared with: a file a method",
    "study": "Comparing, tables, figures, reports: reads files, writes pages",
    "checks": "What tells a learner right from wrong: a file a chapter",
    "make": "How what is shipped was made",
    "doors": "The worlds in other people's tools: Gymnasium, TRL, OpenEnv",
}
READING = "records config chat model rollout step_reward pairs losses train evaluation run ipr".split()


def wing_of(parts):
    """The page of a module, from its path in the package: a world has one of its own, a folder that no page knows too."""
    if len(parts) == 1:
        return "root"
    return parts[1] if parts[0] == "envs" and len(parts) > 2 else parts[0]


def index(name):
    """The option that keeps a module out of the index where its package has a function of the same name."""
    *folder, last = name.split(".")
    package = ROOT.joinpath("ipr_lite", *folder, "__init__.py")
    clashes = package.exists() and re.search(rf"^def {last}\(", package.read_text(encoding="utf-8"), re.MULTILINE)
    return "   :no-index:\n" if clashes else ""


def api_pages():
    """The API's pages, name -> text: every module of the package on the page of its wing, whatever files there are."""
    wings = {wing: [] for wing in WINGS}
    for path in (ROOT / "ipr_lite").rglob("*.py"):
        parts = path.relative_to(ROOT / "ipr_lite").with_suffix("").parts
        if parts != ("__init__",) and parts != ("__main__",):
            wings.setdefault(wing_of(parts), []).append(".".join(parts).removesuffix(".__init__"))
    pages = {}
    for wing, modules in wings.items():
        modules.sort(key=lambda name: (READING.index(name) if name in READING else 99, name))
        shown = [
            f"## {name}\n\n```{{eval-rst}}\n.. automodule:: ipr_lite.{name}\n{index(name)}```\n" for name in modules
        ]
        pages[wing] = "\n".join([f"# {wing}\n\n{WINGS.get(wing, '')}\n", *shown])
    return pages


def write_api(app, config):
    """Write the API's pages where Sphinx looks for sources; git does not keep them."""
    folder = ROOT / "book" / "api"
    folder.mkdir(exist_ok=True)
    pages = api_pages()
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for wing, text in pages.items():
        path = folder / f"{wing}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")


# The API pages need docstrings and signatures, nothing that runs: the book builds without torch, and the same with it.
# But for pydantic, which makes the records and options that the pages describe.
autodoc_mock_imports = [name for name in imported(ROOT / "ipr_lite") if name != "pydantic"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
default_role = "code"
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = "IPR Lite"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("search.js", {"defer": "defer"})]
html_extra_path = ["_root"]  # an index.html that leads to the book's first page
html_copy_source = False
html_context = {"default_mode": "auto"}
html_theme_options = {"navbar_persistent": [], "use_download_button": False, "use_fullscreen_button": False}
mathjax_path = "mathjax/tex-svg.js"

# On GitHub, where this is set, pages link to the repository that they were built from: a fork's book to the fork.
if os.environ.get("GITHUB_REPOSITORY"):
    html_theme_options |= {
        "repository_url": "https://github.com/" + os.environ["GITHUB_REPOSITORY"],
        "repository_branch": os.environ.get("GITHUB_REF_NAME", "main"),
        "use_repository_button": True,
        "use_source_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }


def docstring_as_rst(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code` and indented blocks; reStructuredText wants both said twice."""
    text = "\n".join(lines).replace("```", r"\`\`\`")
    text = re.sub(r"(?<![\\`])`([^`]+)`(?=(\w?))", lambda m: f"``{m[1].strip()}``" + (r"\ " if m[2] else ""), text)
    written = []
    for line in text.split("\n"):
        above = written[-2:]
        if line.startswith("    ") and above[1:] == [""] and not above[0].startswith("    "):
            written += ["::", ""]
        written.append(line if line.startswith("    ") else re.sub(r"(?<![\w\\])\*(?!\w)", r"\*", line))
    lines[:] = written


def without_aliases(app, what, name, obj, skip, options):
    """The fields of a NamedTuple stand in its signature; "Alias for field number 0" adds nothing."""
    return skip or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


def as_the_book_has_it(app, docname, source):
    """Chapters carry the number that the prose calls them by; the glossary's code and `api` lead to the API pages."""
    chapter = re.match(r"notebooks/(?:solutions/)?(\d\d)_", docname)
    if chapter:
        book = json.loads(source[0])
        title = "".join(book["cells"][0]["source"])
        book["cells"][0]["source"] = title.replace("# ", f"# {chapter[1]}. ", 1)
        source[0] = json.dumps(book)
    elif docname == "book/api":
        source[0] += "\n".join(
            ["", "```{toctree}", ":hidden:", "", *(f"api/{wing}" for wing in api_pages()), "```", ""]
        )
    elif docname == "book/glossary":
        source[0] = re.sub(r"`(\w+(?:\.\w+)+|\w+)`(?=[^|]*\|\n)", r"{py:obj}`\1 <ipr_lite.\1>`", source[0])


def setup(app):
    app.connect("config-inited", write_api)
    app.connect("autodoc-process-docstring", docstring_as_rst)
    app.connect("autodoc-skip-member", without_aliases)
    app.connect("source-read", as_the_book_has_it)
