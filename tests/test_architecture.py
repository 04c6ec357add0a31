"""The house: who may import whom, no circle, and how large a room may be (README, "Read the code")."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ipr_lite"
LAYERS = (
    {"records", "losses", "config"},
    {"envs", "chat", "model", "evaluation", "batches"},
    {"rollout", "train"},
    {"engine"},
    {"run", "step_reward"},
    {"pairs"},
    {"ipr"},
    {"methods"},
    {"study"},
    {"checks", "make", "doors"},
    {"commands"},
    {"__main__"},
)
"""Who may import whom: a layer those before it, a room of the root its own."""
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def module_of(path: Path, package: Path = PACKAGE) -> str:
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, package: Path = PACKAGE) -> set[str]:
    """The package's modules that a file imports, wherever in it."""
    modules = {module_of(other, package) for other in package.rglob("*.py")}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name for name in names if name in modules}
    return found - {package.name}


def room(module: str) -> str:
    return module.split(".")[1]


def faults(package: Path = PACKAGE) -> list[str]:
    """Imports against the layers, and circles of modules."""
    found, graph = [], {}
    for path in sorted(package.rglob("*.py")):
        module = module_of(path, package)
        if module == package.name:
            continue
        graph[module] = imports(path, package) - {module}
        for other in graph[module]:
            low, high = RANK.get(room(other), 99), RANK.get(room(module), -1)  # a room that no layer knows is a fault
            if room(module) != room(other) and low >= high:
                found.append(f"{module} imports {other}, which is not below it")
    try:
        # A package's own __init__ gathers its modules; that they name a sibling through it is no circle.
        TopologicalSorter(
            {m: {o for o in others if not m.startswith(o + ".")} for m, others in graph.items()}
        ).prepare()
    except Exception as circle:
        found.append(f"a circle: {circle.args[1]}")
    return found


def lines(*patterns: str) -> dict[str, int]:
    paths = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    return {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}


def test_imports_run_one_way_and_in_no_circle():
    assert faults() == []


@pytest.mark.parametrize(
    "line, fault",
    [
        ("from ipr_lite.study.plots import PALETTE", "ipr_lite.losses imports ipr_lite.study.plots"),
        ("from ipr_lite import run", "ipr_lite.losses imports ipr_lite.run"),
    ],
)
def test_an_import_against_the_layers_is_seen(line, fault, tmp_path):
    for name in ("losses", "run", "study/plots"):
        path = tmp_path / "ipr_lite" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line if name == "losses" else "")
    assert [f.startswith(fault) for f in faults(tmp_path / "ipr_lite")] == [True]


def test_a_circle_is_seen(tmp_path):
    (tmp_path / "ipr_lite" / "envs").mkdir(parents=True)
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / "ipr_lite" / "envs" / f"{one}.py").write_text(f"from ipr_lite.envs.{other} import x")
    assert "a circle" in faults(tmp_path / "ipr_lite")[0]


def test_the_algorithm_is_read_in_an_evening():
    """Of the root: all but what a run stands on (config, run, evaluation) and the command line."""
    apart = ("config", "run", "evaluation", "commands", "__main__", "__init__")
    algorithm = {name: n for name, n in lines("*.py").items() if name.removesuffix(".py") not in apart}
    assert sum(algorithm.values()) <= 2_060, algorithm


def test_rooms_are_small():
    assert {name: n for name, n in lines("methods/*.py", "doors/*.py").items() if n > 120} == {}
    assert {name: n for name, n in lines("**/*.py").items() if n > 400} == {}
    assert sum(lines("*.py", "engine/*.py").values()) <= 5_970
