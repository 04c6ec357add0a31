"""The book's tables and figures come from data/results alone, and say what the numbers say."""

import math
import re
from statistics import stdev

import pandas as pd
import pytest
from scipy.stats import t

from ipr_lite.methods.base import CAREFUL
from ipr_lite.study import plots, tables
from ipr_lite.study.quality import COLUMNS, pair_quality, uncounted
from ipr_lite.study.results import add_results, add_task_rewards, keep_rows
from ipr_lite.study.tables import budgets, papers, rates

PAGES = [tables.BOOK.parent / "README.md", *sorted(tables.BOOK.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_hold_what_the_results_say(page):
    text = page.read_text(encoding="utf-8")
    assert tables.fill(text) == text, "run `python -m ipr_lite tables`"


def test_every_table_is_shown_and_every_figure_is_there():
    shown = {
        name for page in PAGES for name in re.findall(r"<!-- table ([\w-]+) -->", page.read_text(encoding="utf-8"))
    }
    assert shown == set(tables.TABLES)
    made = {f"{name}.png": plots.png_bytes(figure) for name, figure in tables.figures().items()}
    assert {path.name: path.read_bytes() for path in (tables.BOOK / "figures").glob("*.png")} == made


def row(method, seed, reward, **more):
    base = {"env": "shop", "setting": "default", "iteration": 0, "selected": 1, "split": "test", "precision": "nf4",
            "scale": "tiny", "n": 10, "success": 0, "steps": 4, "env_steps": 0, "updates": 0, "tokens": 0}  # fmt: skip
    return base | {"method": method, "seed": seed, "reward": reward} | more


@pytest.fixture
def folder(tmp_path):
    """SFT, ETO and IPR on three seeds, where ETO minus SFT is surely below 0 and IPR minus SFT surely above."""
    rows = []
    for seed, level in enumerate((0.5, 0.6, 0.7)):
        rows += [
            row("sft", seed, level),
            row("eto", seed, level - 0.1 - 0.001 * seed),
            row("ppo", seed, level + (-1) ** seed),
        ]
        rows += [
            row("ipr", seed, level + 0.1 + 0.001 * seed, iteration=1),
            row("ipr", seed, level + 0.3, iteration=2, selected=0),
        ]
    add_results(tmp_path / "shop_table2.csv", rows, "x")
    return tmp_path


def test_verdicts_come_from_the_intervals(folder):
    lines = [
        line
        for line in tables.table2_claims(folder).splitlines()
        if "| shop" in re.sub(" +", " ", line) or " shop |" in line
    ]
    told = {line.split("|")[1].strip(): line.rsplit("|", 2)[1].strip() for line in lines}
    assert told["ipr minus sft"] == "reproduced" and told["eto minus sft"] == "reversed"
    assert told["ppo minus sft"] == "open" and told["rft minus sft"] == "not run"


def test_verdicts_are_given_to_all_claims_at_once():
    """A claim with p = .03 stands alone, and not beside another like it; one that was not run does not count."""
    low = 0.1 - float(t.ppf(0.975, 4)) * 0.1 / float(t.isf(0.015, 4))
    claim = (0.1, low, 0.2 - low, 5)
    assert tables.verdicts([claim], [1]) == ["reproduced"] and tables.verdicts([claim], [-1]) == ["reversed"]
    assert tables.verdicts([claim, claim], [1, 1]) == ["open", "open"]
    assert tables.verdicts([claim, (math.nan, math.nan, math.nan, 0)], [1, 1]) == ["reproduced", "not run"]
    assert tables.verdicts([(0.0, -0.01, 0.01, 5)], [1]) == ["equal"]


def test_a_difference_says_what_it_could_have_seen():
    low, high = (0.01 + sign * float(t.ppf(0.975, 9)) * 0.09 / math.sqrt(10) for sign in (-1, 1))
    assert tables.difference_cell((0.01, low, high, 10)) == "+0.010 (-0.054 to 0.074), sees 0.090 [10]"
    assert tables.difference_cell((0.01, math.nan, math.nan, 1)) == "+0.010 (-) [1]"


def test_a_method_without_seeds_of_its_own_shows_no_interval(folder):
    """Every seed plays the same base and the same careful person: five equal numbers are no sure mean."""
    add_results(folder / "shop_table2.csv", [row(m, s, 0.4) for m in ("base", CAREFUL.name) for s in range(5)], "x")
    lines = [[cell.strip() for cell in line.split("|")] for line in tables.table2(folder).splitlines()]
    cells = {line[1]: line[2] for line in lines if len(line) > 2}
    assert (cells["base"], cells["careful"]) == ("0.400", "0.400")
    assert cells["sft"].startswith("0.600 ± ") and cells["sft"].endswith("[3]")


def test_the_front_figure_has_one_n_and_says_what_the_intervals_say(folder):
    """ETO has one seed less than the others, so it is not drawn; IPR is above its clone, and below the base."""
    rows = [row(m, s, level) for m, level in (("base", 0.9), ("random-pairs", 0.5)) for s in range(4)]
    rows += [row(m, 3, 0.55 + more, iteration=1) for m, more in (("sft", 0.0), ("ipr", 0.1))]
    add_results(folder / "shop_table2.csv", rows, "x")
    figure = tables.figures(folder)["worlds"]
    told = figure.get_suptitle()
    assert "n = 4 seeds" in told
    assert told.startswith("IPR is surely better than its clone in shop, surely better than the untrained base nowhere")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts].count("too few seeds") == 4  # sft-long, eto, sft-careful, careful
    assert [label.get_text() for label in axis.get_yticklabels()][::-1][0] == "base: no training"


def test_choosing_on_test_is_shown_as_what_it_adds(folder):
    line = next(line for line in tables.optimism(folder).splitlines() if line.startswith("| ipr"))
    assert "+0.199 (0.197 to 0.201), sees 0.003 [3]" in line


def test_a_deviation_shows_the_rounds_that_its_choice_hides(folder):
    rounds = [row("ipr", 0, 0.2, setting="action_only=True", iteration=1, selected=0)]
    rounds += [row("ipr", 0, 0.6, setting="action_only=True", iteration=2)]
    rounds += [row("ipr", 1, 0.3, setting="action_only=True", iteration=1)]
    add_results(folder / "shop_deviations.csv", rounds, "x")
    lines = tables.deviations(folder).splitlines()
    assert next(line for line in lines if "action_only" in line).endswith("0.200 |     2 of 3 |")
    assert next(line for line in lines if "tau_step=0.1" in line).rstrip(" |").endswith("-")


def test_filling_is_stable_and_unknown_tables_are_named(folder):
    page = "A.\n<!-- table table2 -->\nold\n<!-- end -->\nB.\n"
    once = tables.fill(page, folder)
    assert "old" not in once and "0.600" in once and once.startswith("A.\n") and once.endswith("B.\n")
    assert tables.fill(once, folder) == once
    with pytest.raises(ValueError, match="no table 'table9'"):
        tables.fill(page.replace("table2", "table9"), folder)


def test_a_comparison_becomes_two_pages(folder, tmp_path):
    told, html = tables.write_comparison(folder / "shop_table2.csv", tmp_path / "out" / "shop")
    assert "| ipr " in told.read_text() and "<table" in html.read_text() and "data:image/png" in html.read_text()


# --- how good pairs are ----------------------------------------------------------------------------


def contrast(number, agent, expert, outcome, pages=(0.0, 1.0), scorer="sft"):
    rows = []
    for who, samples, ended, page in (("demonstrator", expert, 1.0, pages[1]), ("agent", agent, outcome, pages[0])):
        rows.append({"env": "shop", "seed": 0, "scorer": scorer, "contrast": number, "id": "a", "step": 2, "who": who,
                     "terminal": 0, "outcome": ended, "page_score": page, "samples": samples})  # fmt: skip
    return rows


def test_pair_quality_counts_wrong_pairs():
    """Certain contrasts: one right, one whose step reward contradicts the outcome (no pair). A fair coin: half wrong."""
    sure = pd.DataFrame(contrast(0, "0x1000", "1x1000", 0.0) + contrast(1, "1x1000", "0x1000", 0.0))
    found = pair_quality(sure, "sft", n=5, tau=0.01)
    assert found["built"] == 0.5 and found["wrong"] == 0.0 and found["pairs"] == 2
    assert pair_quality(sure, "sft", n=5, tau=0.01, truth="page")["agrees"] == 1.0
    # One rollout each, wins with probability 0.6 and 0.4: of the pairs built (agent 0, expert 1: .36; or the
    # other way round, which the outcome forbids) none is wrong; N = 1 with the outcome on the agent's side: all are.
    rows = pd.DataFrame(contrast(0, "0x600;1x400", "0x400;1x600", 0.0))
    found = pair_quality(rows, "sft", n=1, tau=0.01)
    assert 0.25 < found["built"] < 0.47 and found["wrong"] == 0.0
    against = pd.DataFrame(contrast(0, "0x600;1x400", "0x400;1x600", 2.0))
    found = pair_quality(against, "sft", n=1, tau=0.01)
    assert 0.08 < found["built"] < 0.25 and found["wrong"] == 1.0


def test_counted_samples_read_back(tmp_path):
    assert uncounted("0.5x2;1x1") == [0.5, 0.5, 1.0]
    path = keep_rows(tmp_path / "a.csv", contrast(0, "0x1", "1x1", 0.0), COLUMNS, ("seed",), "command", lambda row: 0)
    assert path.read_text().startswith("# command\n# schema 1\nenv,seed,")


@pytest.fixture
def two_budgets(tmp_path):
    """Three seeds of the shop: ETO alike at both budgets but for its actions, IPR .1 above per demonstration."""
    rows = []
    for seed, level in enumerate((0.5, 0.6, 0.7)):
        for method, budget, reward, actions in (
            ("sft", "per action", level, 0), ("ipr", "per action", level + 0.1, 4000), ("eto", "per action", level + 0.1, 4000),
            ("eto", "per demonstration", level + 0.001 * seed, 500),
        ):  # fmt: skip
            for number in (1, 2) if actions else (0,):
                mine = row(
                    method, seed, reward, setting=budgets.BUDGETS[budget], iteration=number,
                    selected=int(number != 1), env_steps=actions * number,
                )  # fmt: skip
                rows.append(mine | {"panel": "abcdefgh", "rewards": [reward - 0.1, reward + 0.1]})
    add_results(tmp_path / "shop_table2.csv", rows, "x")
    add_task_rewards(tmp_path / "shop_table2.csv", rows, "x")
    return tmp_path


def test_both_budgets_stand_beside_each_other(two_budgets):
    lines = [
        [c.strip() for c in line.split("|")[1:-1]] for line in tables.TABLES["both-budgets"](two_budgets).splitlines()
    ]
    cells = {(line[1], line[2]): line[3:] for line in lines[2:]}
    assert cells["eto", "per demonstration"][2] == "1,000" and cells["eto", "per action"][2] == "8,000"
    assert cells["ipr", ""][0].startswith("0.700") and cells["ipr", ""][1].startswith("+0.100")
    assert cells["sft", ""][1] == ""


def test_a_claim_is_judged_once_a_budget(two_budgets):
    lines = [
        [c.strip() for c in line.split("|")[1:-1]] for line in tables.TABLES["budget-claims"](two_budgets).splitlines()
    ]
    said = {(line[0], line[2]): line[3:] for line in lines[2:]}
    once = said["ipr minus eto", "per demonstration"]
    assert once[0] == "+0.039" and once[1].startswith("+0.099 (0.097 to 0.101)") and once[3] == "above"
    assert ("ipr minus eto", "per action") not in said, "Table 2's claims have it"
    equal = next(line for line in tables.table2_claims(two_budgets).splitlines() if "ipr minus eto" in line)
    assert "+0.000 (0.000 to 0.000)" in equal and equal.rstrip(" |").endswith("equal")
    low, high = map(float, once[2].split(" to "))
    assert low <= 0.099 <= high and high - low < 0.01


def test_the_real_llms_differences_are_over_tasks(tmp_path):
    """Three tasks on which IPR gains .1, .2 and .3; ETO at IPR's rate is compared with it, ETO at another is not."""
    of_method = {"sft": [0.5, 0.5, 0.5], "ipr": [0.6, 0.7, 0.8], "eto": [0.1, 0.1, 0.1]}
    rows = [
        row(m, 0, sum(r) / 3, scale="smol", setting="budget=paper" if m == "eto" else "default", env_steps=9)
        | {"panel": "abcdefgh", "rewards": r}
        for m, r in of_method.items()
    ]
    rows.append(
        rows[-1]
        | {"setting": "learning_rate=5e-05 budget=paper", "rewards": [0.9, 0.9, 0.9], "reward": 0.9}
        | {"env_steps": 99}
    )
    add_results(tmp_path / "shop_smol.csv", rows, "x")
    add_task_rewards(tmp_path / "shop_smol.csv", rows, "x")
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in tables.TABLES["real-llm"](tmp_path).splitlines()]
    cells = {(line[0], line[1], line[2]): line[3:] for line in lines[2:]}
    assert len(cells) == 4
    half = float(t.ppf(0.975, 2)) * 0.1 / math.sqrt(3)
    ipr, sft = cells["ipr", "", "0.0002"], cells["sft", "", ""]
    assert ipr[2].startswith(f"+0.200 ({0.2 - half:.3f} to {0.2 + half:.3f}), sees ") and ipr[3] == ""
    assert sft[3] == ipr[2] and sft[2] == ""
    same, other = (cells["eto", "per demonstration", rate] for rate in ("0.0002", "5e-05"))
    assert same[2].startswith("-0.400") and same[3].startswith("+0.600")
    assert other[0].startswith("0.900") and other[3] == ""
    assert (same[4], other[4]) == ("9", "99")  # each setting's own


def test_the_neighbours_are_compared_on_the_seeds_that_all_have(tmp_path):
    """HPL has seeds 0 to 2, IPR one more, which does not count; ATLaS falls, iStar is IPR again."""
    level = {"hpl": 0.62, "istar": 0.6, "ipr": 0.6, "grpo": 0.55, "atlas": 0.1}
    rows, more = [], []
    for name, _, method, setting, *_ in papers.ROWS:
        mine = more if name in ("ipr", "eto") else rows
        for seed in range(4 if name == "ipr" else 3):
            reward = level.get(name, 0.5) + 0.01 * seed + (9 if seed == 3 else 0) + 1e-4 * (seed == 1) * (name == "hpl")
            mine.append(row(method, seed, reward, setting=setting, iteration=1, env_steps=700))
    add_results(tmp_path / "shop_papers.csv", rows, "x")
    add_results(tmp_path / "shop_table2.csv", more, "x")
    cells, gains = (
        {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in lines.splitlines()[2:]}
        for lines in (tables.TABLES[name](tmp_path) for name in ("papers", "papers-gains"))
    )
    assert cells["ipr"][6].startswith("0.610 ±") and cells["ipr"][6].endswith("[3]") and cells["ipr"][5] == "700"
    assert gains["hpl"][1].startswith("+0.020") and gains["atlas"][0].startswith("-0.400")
    assert gains["sft"][0] == gains["ipr"][1] == ""
    claims = tables.TABLES["papers-claims"](tmp_path).splitlines()[2:]
    told = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in claims}
    assert (
        told["atlas minus sft"] == "below" and told["hpl minus ipr"] == "above" and told["istar minus ipr"] == "equal"
    )


def test_the_budgets_figure_draws_a_point_a_round(two_budgets):
    (axis,) = tables.figures(two_budgets)["budgets"].axes
    drawn = {line.get_label(): list(line.get_xdata()) for line in axis.lines}
    assert drawn["eto"] == drawn["ipr"] == [4000, 8000] and drawn["eto, as its paper explores"] == [500, 1000]


def test_searches_are_told_by_world_and_by_task(tmp_path):
    """A beam that gains .1 on one task of four and .3 on another; at the database one seed."""
    gains = {"sft": (0, 0, 0, 0), "best-of-n": (0.1, 0.1, 0, 0), "agentrm": (0.1, 0.3, 0, 0), "orps": (0.1, 0.3, 0, 0)}
    for world, seeds in (("shop", 2), ("sql", 1)):
        rows = [
            row(
                method,
                seed,
                0.5 + sum(more) / 4,
                env=world,
                env_steps=900,
                panel="p",
                episodes="e",
                rewards=[0.5 + gain for gain in more],
            )
            for method, more in gains.items()
            for seed in range(seeds)
        ]
        add_results(tmp_path / f"{world}_judges.csv", rows, "x")
        add_task_rewards(tmp_path / f"{world}_judges.csv", rows, "x")
    lines = [
        [c.strip() for c in line.split("|")[1:-1]] for line in tables.TABLES["searches"](tmp_path).splitlines()[2:]
    ]
    cells = {(world, method): rest for world, method, *rest in lines}
    half = stdev((0.1, 0.3, 0, 0)) / 2 * t.ppf(0.975, 3)
    assert cells["shop", "agentrm"][2].startswith(f"+0.100 ({0.1 - half:.3f} to {0.1 + half:.3f})")
    assert cells["shop", "agentrm"][2].endswith("[2]") and cells["shop", "agentrm"][3].startswith("+0.050")
    assert cells["shop", "agentrm"][0] == "900" and cells["sql", "orps"][2].endswith("[1]")
    assert cells["sql", "best-of-n-oracle"] == ["-", "-", "", ""] and cells["shop", "sft"][2] == ""
    claims = tables.TABLES["searches-claims"](tmp_path).splitlines()[2:]
    told = [[c.strip() for c in line.split("|")[1:-1]] for line in claims]
    assert told[0] == ["shop: agentrm minus sft", cells["shop", "agentrm"][2]]
    assert told[2][1] == "-" and told[3][1].startswith("+0.000")


def test_each_method_has_the_rate_that_dev_likes_best(tmp_path):
    """ETO's is 2e-4 per demonstration; IPR's is the one of all other tables, whose rows are read there."""
    dev = {("ipr", ""): (0.5, 0.6, 0.7), ("eto", " budget=paper"): (0.5, 0.7, 0.6), ("eto", ""): (0.1, 0.2, 0.3)}
    rows = [
        row(method, seed, level, setting=f"learning_rate={rate}{rest}", split="dev", iteration=1)
        for (method, rest), levels in dev.items()
        for rate, level in zip(("0.0001", "0.0002", "0.0005"), levels, strict=True)
        for seed in range(2)
    ]
    rows += [
        row("eto", seed, 0.65 + 0.001 * seed, setting="learning_rate=0.0002 budget=paper", iteration=1)
        for seed in range(3)
    ]
    add_results(tmp_path / "shop_rates.csv", rows, "x")
    add_results(tmp_path / "shop_table2.csv", [row("ipr", seed, 0.6, iteration=1) for seed in (0, 1, 2, 3, 16)], "x")
    assert [rates.best_rate(who, tmp_path) for who in rates.WHO] == ["5e-4", "2e-4", "5e-4"]
    lines = tables.TABLES["rates"](tmp_path).splitlines()[2:]
    first, second, third = ([c.strip() for c in line.split("|")[1:-1]] for line in lines)
    assert first[-1].startswith("0.600") and first[-1].endswith("[4]")
    assert second[2].startswith("0.700") and second[-1].endswith("[3]") and third[-1] == "-"
    claim = tables.TABLES["rates-claims"](tmp_path).splitlines()[2]
    assert "-0.051" in claim and claim.strip("| ").endswith("below")


def test_advisers_stand_beside_the_clone_and_beside_their_own_start(tmp_path):
    """A planner that gains .2 over its cloned self and .1 over the clone, on every task but one; a row that was not run."""
    level = {("sft", "default"): 0.5, ("mpo-sft", "budget=paper"): 0.4, ("mpo", "budget=paper"): 0.6}
    rows = [
        row(method, seed, mean, setting=setting, panel="p", episodes="e", rewards=[mean] * 3 + [0.5])
        for (method, setting), mean in level.items()
        for seed in range(2)
    ]
    add_results(tmp_path / "shop_papers.csv", rows, "x")
    add_task_rewards(tmp_path / "shop_papers.csv", rows, "x")
    lines = [
        [c.strip() for c in line.split("|")[1:-1]]
        for line in tables.TABLES["papers-advisers"](tmp_path).splitlines()[2:]
    ]
    cells = {(method, other): rest for method, _, _, other, rest in lines}
    assert cells["mpo", "mpo-sft"].startswith("+0.150") and cells["mpo", "mpo-sft"].endswith("[2]")
    assert cells["mpo", "sft"].startswith("+0.075") and cells["mpo-sft", "sft"].startswith("-0.075")
    assert cells["acc-collab", "sft"] == "-" and len(lines) == len(tables.papers.ADVISERS)
