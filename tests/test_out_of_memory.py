"""What a plan says before a run, and what a run says that ran out of memory, and how it goes on."""

from dataclasses import replace

import pytest
import torch

from ipr_lite import train
from ipr_lite.__main__ import main, read
from ipr_lite.config import SCALES, TINY_BASE, Config, scale
from ipr_lite.engine.memory import STAGES, config_of, expected
from ipr_lite.engine.out_of_memory import FRAGMENTS, OutOfMemory, remedies, with_advice
from ipr_lite.run import Run


def test_a_plan_needs_no_weights_and_no_network(capsys):
    assert main(["plan", "--scale", "consumer", "--max-length", "1024"]) == 0
    said = capsys.readouterr().out
    found = expected(config_of(SCALES["consumer"].model), replace(SCALES["consumer"], max_length=1024))
    for stage, parts in found.items():
        row = next(line for line in said.splitlines() if line.startswith(stage))
        assert row.split()[1] == "5.17" and row.split()[-1] == f"{sum(parts.values()) / 2**30:.2f}"
    assert "24 GB card: fits" in said


def test_a_plan_takes_a_folder_that_holds_only_a_configuration(tmp_path, capsys):
    config_of(str(TINY_BASE)).save_pretrained(tmp_path)
    assert main(["plan", "--model", str(tmp_path)]) == 0
    mine = capsys.readouterr().out.splitlines()[1:]
    main(["plan"])
    assert mine == capsys.readouterr().out.splitlines()[1:]


def test_a_folder_without_a_configuration_is_named(tmp_path, capsys):
    assert main(["plan", "--model", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_remedy_is_an_option_of_a_run_and_helps(stage, name):
    one, model = scale(name), config_of(str(TINY_BASE))
    found = remedies(stage, one, 8)
    assert len(found) == 3

    def need(one):
        return sum(expected(model, one, batch_size=8, stages=(stage,))[stage].values())

    for text, changed in found:
        if text == FRAGMENTS:
            continue
        config = read(["run", *text.split()])[1]["config"]
        assert {key: getattr(config, key) for key in changed} == changed
        assert need(replace(one, **changed)) < need(one)
        one = replace(one, **changed)


def test_a_run_that_ran_out_says_what_helps_and_goes_on_with_it(tmp_path, monkeypatch):
    config = Config(demonstrations=6, sft_epochs=1.0, showcase=1)
    with monkeypatch.context() as patch:
        # A petabyte: torch's own error, as a too large batch would raise it.
        patch.setattr(train, "train_sft", lambda *args, **more: torch.empty(1 << 50, dtype=torch.uint8))
        with pytest.raises(OutOfMemory) as raised:
            Run(config, tmp_path, quiet=True).sft()
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("sft ran out of memory; expected were")
    assert [line.split(" (")[0] for line in lines[1:4]] == [
        "  1. --micro-batch 1",
        "  2. --gradient-checkpointing",
        f"  3. {FRAGMENTS}",
    ]
    assert (tmp_path / "demonstrations.jsonl").exists()
    again = Run(replace(config, micro_batch=1, gradient_checkpointing=True), tmp_path, quiet=True)
    assert again.sft()


def test_other_errors_pass_as_they_are():
    @with_advice("sft", None)
    def broken():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="^shapes differ$"):
        broken()
