"""The command line: made from Config and the commands' own parameters, told by --help, refused in one line."""

import json
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from pydantic import ValidationError

from ipr_lite import envs
from ipr_lite.__main__ import main, read
from ipr_lite.commands import COMMANDS, seeds_of
from ipr_lite.config import MEMORY, QUICK, SCALES, TINY_BASE, WHERE, Config
from ipr_lite.losses import RATIO_PER, SFT_ON, SFT_PER

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def helped(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["run"]])
def test_help_takes_no_second_and_no_torch(command):
    """Seconds of the processor: those on the clock hang on what else the machine does."""
    code = "import sys; from ipr_lite.__main__ import main\ntry: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    assert min(spent) < 1.0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(name, capsys):
    text = helped([name], capsys)
    assert squeezed(COMMANDS[name].__doc__) in squeezed(text)
    bare = re.findall(r"^  (--\S+(?: \S+)*|\w+)(?: {2,}(\S.*))?$\n?( {20,}\S)?", text, re.MULTILINE)
    assert bare and all(same_line or next_line for _, same_line, next_line in bare), bare
    if "config" in get_type_hints(COMMANDS[name]):
        for field, about in Config.__pydantic_fields__.items():
            assert "--" + field.replace("_", "-") in text
            assert squeezed(about.description).removesuffix(".") in squeezed(text), field


def test_help_shows_the_commands_and_examples(capsys):
    text = helped([], capsys)
    assert all(squeezed(f"{name} {do.__doc__}") in squeezed(text) for name, do in COMMANDS.items())
    lines = re.findall(r"^  (python -m ipr_lite.*?)(?: {2,}.*)?$", text, re.MULTILINE)
    assert len(lines) > 9
    for line in lines:
        read(shlex.split(line)[3:])


def documented() -> list[tuple[str, str]]:
    """(page, line) of every command that the README and the book tell, in a block or between backticks."""
    found = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
        for name, value in re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE):
            text = re.sub(rf"^\${name}\b", value, re.sub(rf"^{name}=.*", "", text, flags=re.M), flags=re.M)
        lines = re.findall(r"`([^`\n]*python -m ipr_lite(?!\.)[^`]*)`", text) + re.findall(
            r"^(?!.*`)(.*python -m ipr_lite(?!\.).*)$", re.sub(r"`[^`\n]+`", "", text), re.MULTILINE
        )
        found += [(page.name, " ".join(line.split("python -m ipr_lite", 1)[1].split())) for line in lines]
    return found


@pytest.mark.parametrize(("page", "line"), documented())
def test_documented_commands_are_understood(page, line):
    line = re.sub(r"\s+(?:#|&&|>).*", "", line).replace("[--model ...]", "").replace(" ...", "")
    if "--help" in line or line in COMMANDS:  # a name alone: what to look up
        return
    _, given = read(shlex.split(line.replace("NAME", "small")))
    if "seeds" in given:
        assert seeds_of(given["seeds"])
    for setting in given.get("settings", ()):
        given["config"].with_setting(setting)


def test_enough_documented_commands_are_found():
    pages = [page for page, _ in documented()]
    assert len(pages) > 50 and {"README.md", "serving.md", "models.md", "original_data.md", "log.md"} <= set(pages)


@pytest.mark.parametrize(("line", "message"), [
    ("run --env moon", "no world 'moon'; the worlds are shop"),
    ("run --data nowhere", "nowhere"),
    ("run --scale huge", "--scale huge: should be 'tiny', 'smol', 'small' or 'consumer'"),
    ("run --precision int3", "--precision int3: should be 'nf4' or 'full'"),
    ("run --reference none", "--reference none: should be 'sft' or 'current'"),
    ("run --habits lazy", "choose one of habitual, careful"),
    ("run --iterations 0", "--iterations 0: should be greater than or equal to 1"),
    ("run --dev 0", "--dev 0: should be greater"),
    ("run --test -3", "--test -3: should be greater"),
    ("run --batch-size 0", "--batch-size 0: should be greater"),
    ("run --demonstrations -396", "--demonstrations -396: should be greater"),
    ("run --micro-batch 3", "--micro-batch 3: must divide --batch-size 8"),
    ("run --samples 2.5", "--samples 2.5: should be a valid integer"),
    ("run --learning-rate inf", "--learning-rate inf: should be a finite number"),
    ("run --sft-learning-rate -1", "--sft-learning-rate -1: should be greater than 0"),
    ("run --beta nan", "--beta nan: should be a finite number"),
    ("run --tau-outcome nan", "--tau-outcome nan: should be a finite number"),
    ("run --explore-temperature nan", "--explore-temperature nan: should be a finite number"),
    ("run --keep nan", "--keep nan: should be a finite number"),
    ("run --w-outcome 0 --w-step 0 --w-sft 0", "nothing is trained"),
    ("run --step-reward runs/{sed}", "--step-reward runs/{sed}: in braces only {seed} can stand"),
    ("run --env all --recorded x.json", "--recorded: their files are of one world"),
    ("run --served sft", "--served sft: write {policy} where"),
    ("run --warp 9", "unrecognized arguments: --warp 9; `python -m ipr_lite --help`"),
    ("run --seed", "argument --seed: expected one argument; `python -m ipr_lite run --help`"),
    ("run --threads 0", "--threads 0: should be greater"),
    ("walk", "invalid choice: 'walk'"),
    ("train", "run the stage `pairs` first"),
    ("train --iteration 0", "--iteration 0: should be greater"),
    ("show missing.jsonl", "missing.jsonl"),
    ("compare --seeds x", "--seeds x: give a range such as 0-9"),
    ("compare --seeds 5-3", "--seeds 5-3: give a range such as 0-9"),
    ("compare --results x.md", "--results x.md: name a .csv file"),
    ("compare --split test_seen", "--split test_seen: should be 'test' or 'dev'"),
    ("compare --settings beta=nan", "setting 'beta=nan': --beta nan: should be a finite number"),
    ("bench --runs 0", "--runs 0: should be greater"),
    ("play --task 0", "--task 0: should be greater"),
    ("merge runs/x", "the following arguments are required: --out"),
    ("pretrain --worlds moon", "no world 'moon'; the worlds are shop"),
])  # fmt: skip
def test_bad_requests_end_with_one_line_and_code_two(line, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_options_are_read_by_the_types_of_config():
    line = "--no-both-directions --gradient-checkpointing --keep 0 --sft-per sequence --w-step=0 --out x --quick"
    do, given = read(line.split())
    assert do is COMMANDS["run"] and given["folder"] == "x"
    expected = {
        "both_directions": False,
        "gradient_checkpointing": True,
        "keep": 0.0,
        "sft_per": "sequence",
        "w_step": 0.0,
    }
    assert given["config"] == Config(**expected | QUICK)
    assert read([])[1]["config"] == read(["run"])[1]["config"] == Config()


def test_quick_gives_way_to_what_is_given_by_hand():
    config = read(["--quick", "--samples", str(Config().samples)])[1]["config"]
    assert (config.samples, config.updates) == (Config().samples, QUICK["updates"])


def test_the_command_of_record_can_be_pasted():
    arguments = ["compare", "--settings", "beta=0.3 updates=40", "--out", "my runs"]
    assert shlex.split(read(arguments)[1]["command"])[3:] == arguments


def test_words_are_those_of_the_package():
    kinds = get_type_hints(Config)
    assert get_args(kinds["scale"]) == tuple(SCALES)
    assert (get_args(kinds["sft_on"]), get_args(kinds["sft_per"])) == (SFT_ON, SFT_PER)
    assert get_args(kinds["ratio_per"]) == RATIO_PER
    told = Config.__pydantic_fields__["env"].description
    assert all(re.search(rf"\b{name}\b", told) for name in envs.PLACES)
    assert {*MEMORY, *WHERE} <= kinds.keys()


def test_a_config_of_an_earlier_version_opens(tmp_path):
    path = tmp_path / "config.json"
    old = json.loads((TINY_BASE.parent / "showcase" / "config.json").read_text(encoding="utf-8"))
    assert Config.read(TINY_BASE.parent / "showcase" / "config.json") == Config()
    gone = {"eto_reference": "current", "eto_once": False, "ppo_samples": 1, "best_of": 10, "without": ""}
    path.write_text(json.dumps(old | gone | {"beta": 0.2}), encoding="utf-8-sig")
    assert Config.read(path) == Config(beta=0.2)


@pytest.mark.parametrize(("text", "message"), [
    ('{"best_of": 5}', "best_of is no option any more, and was not at its default, 10"),
    ('{"warp": 5}', "--warp: no such option"), ('{"beta": "much"}', "--beta much: should be a valid number"),
    ("[1]", "not a JSON object"), ('{"beta": 0.1', "delimiter"), ("", "Expecting value"),
])  # fmt: skip
def test_a_config_that_cannot_be_read_is_named(text, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as raised:
        Config.read(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: ") and message in said and "correct it, or give another --out" in said
    assert "\n" not in said and not isinstance(raised.value, ValidationError)
