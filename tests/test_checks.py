"""The exercises' checks: right answers pass, stubs are "not attempted", wrong ones get told why."""

import itertools
import math
import random
import types
from dataclasses import replace

import numpy as np
import pytest
import torch.nn.functional as F

from ipr_lite import checks, envs
from ipr_lite.checks import END, WrongAnswer
from ipr_lite.checks.chapter_10 import power
from ipr_lite.methods.random_pairs import flipped


def stub(*unused):
    raise NotImplementedError


def mask(turns):
    found = []
    for role, _, content in turns:
        agent = role == "assistant"
        found += [0] + [int(agent)] * len(content) + [1] * agent
    return found


def skipped(trajectory):
    wishes = trajectory.task.setup["goal_options"]
    return [w for w in wishes if not any(f"Action: click[{w}]" in action for action in trajectory.actions)]


def share(losses, mask):
    return losses[mask == 0].sum() / losses.sum()


def needed(expert, agent, limit):
    return next(n for n in range(1, 50) if checks.wrong_rate(expert, agent, n) < limit)


def push(margin, beta):
    return -beta / (1 + math.exp(margin))


def action_only(pair):
    if pair.kind == "outcome":
        return pair
    return replace(pair, chosen=pair.chosen[:1], rejected=pair.rejected[:1])


def play(seed):
    return [f"Action: click[{random.Random(seed).random()}]"]


def best_setting(table, rollouts, limit):
    def right_pairs(row):
        return rollouts / row["n"] * row["built"] * (1 - row["wrong"])

    best = max((row for row in table if row["wrong"] <= limit), key=right_pairs)
    return best["n"], best["tau"]


def one_sided(firsts, limit):
    chosen, rejected = zip(*firsts)
    return sorted(k for k in set(rejected) - set(chosen) if rejected.count(k) > limit * len(firsts))


def break_even(w_sft, beta, margin):
    return w_sft * (1 + math.exp(margin)) / beta


def smoothed(margin, e):
    return -(1 - e) * F.logsigmoid(margin) - e * F.logsigmoid(-margin)


def balanced(pairs, seed):
    rng, turn = random.Random(seed), set()
    for kind in ("outcome", "step"):
        places = [i for i, pair in enumerate(pairs) if pair.kind == kind]
        turn.update(rng.sample(places, len(places) // 2))
    return [flipped(pair) if i in turn else pair for i, pair in enumerate(pairs)]


def wilson(successes, n, z=1.96):
    p = successes / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


def wald(successes, n):
    p = successes / n
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def off_centre(successes, n):
    low, high = wilson(successes, n)
    return successes / n - (high - low) / 2, successes / n + (high - low) / 2


def two_labs(gains):
    ordered = sorted(gains, key=gains.get)
    return ordered[-3:], ordered[:3]


def seeds_needed(gain, spread):
    return next(n for n in range(2, 2000) if power(gain, spread, n) >= 0.8)


def bell_seeds(factor):
    """The bell curve's formula for the number of seeds."""
    return lambda gain, spread: math.ceil(factor * (spread / gain) ** 2)


def spent(sft_updates, rounds, r):
    actions = sum(one["explore"] + one["score"] for one in rounds[:r])
    return actions, sft_updates + sum(one["updates"] for one in rounds[:r])


def stop_round(dev, patience):
    kept = paid = 0
    for paid in range(1, len(dev)):
        if dev[paid] > dev[kept]:
            kept = paid
        elif paid - kept >= patience:
            break
    return kept, paid


def expected_best(k, sd):
    return sd * float(np.random.default_rng(0).normal(size=(100_000, k)).max(1).mean())


def bits_per_weight(block, scale_bits, group):
    return 4 + scale_bits / block + (32 / (block * group) if group else 0)


def episodes_that_fit(free, layers, kv_heads, head, tokens):
    return free // (4 * layers * kv_heads * head * tokens)


def training_flops(tokens, labels, linear, head):
    return 4 * (tokens * linear + labels * head)


def tasks_needed(differences, effect, ddof=1, z=2.8):
    return math.ceil((z * np.std(differences, ddof=ddof) / effect) ** 2)


def group_advantages(outcomes, ddof=1):
    spread = np.std(outcomes, ddof=ddof)
    return [(r - np.mean(outcomes)) / spread if spread > 1e-9 else 0.0 for r in outcomes]


def complete(steps, usual, episodes):
    return (1 - usual**episodes - (1 - usual) ** episodes) ** steps


def first(enough):
    return next(n for n in range(1, 5000) if enough(n))


def episodes_needed(steps, usual, sure):
    return first(lambda n: complete(steps, usual, n) >= sure)


def two_alike(played, parse, like=lambda one, parse: [parse(a) for a in one.actions], tie=0.01, tasks=True):
    for a, b in itertools.combinations(played, 2):
        same_task = a.id == b.id or not tasks
        if same_task and abs(a.reward - b.reward) <= tie and like(a, parse) != like(b, parse):
            return a, b


def pushed_wrong(winner, loser, shared):
    return winner[shared:].count(False) + loser[shared:].count(True)


def named(**changed):
    """An answer to "name the faults", with some letters changed."""
    return lambda: checks.revealed() | changed


LUCK = random.Random(0)
RIGHT = {
    "name_faults": named(),
    "bits_per_weight": bits_per_weight,
    "episodes_that_fit": episodes_that_fit,
    "training_flops": training_flops,
    "tasks_needed": tasks_needed,
    "group_advantages": group_advantages,
    "budget": spent,
    "stop_round": stop_round,
    "expected_best": expected_best,
    "best_setting": best_setting,
    "one_sided": one_sided,
    "break_even": break_even,
    "smoothed": smoothed,
    "balanced": balanced,
    "replay": play,
    "agent_mask": mask,
    "skipped": skipped,
    "observation_share": share,
    "episodes_needed": episodes_needed,
    "unrankable": two_alike,
    "pushed_wrong": pushed_wrong,
    "samples_needed": needed,
    "push": push,
    "wilson": wilson,
    "two_labs": two_labs,
    "seeds_needed": seeds_needed,
    "action_only": action_only,
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_stub_is_not_attempted(name, capsys):
    assert getattr(checks, name)(stub) is None
    assert capsys.readouterr().out == "not attempted yet\n"


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_passes(name, capsys):
    assert getattr(checks, name)(RIGHT[name]) is None
    assert capsys.readouterr().out.startswith("right: ")


@pytest.mark.parametrize("name", RIGHT)
def test_a_forgotten_return_is_told(name):
    with pytest.raises(WrongAnswer, match="`return` missing"):
        getattr(checks, name)(lambda *unused: None)


def searching_mask(turns):
    tokens, found, agent = [], [], False
    for role, header, content in turns:
        tokens += [header, *content] + [END] * (role == "assistant")
    for token in tokens:
        found.append(int(agent and token != "<|assistant|>"))
        agent = (agent or token == "<|assistant|>") and token != END
    return found


def cut_in_place(pair):
    if pair.kind == "step":
        del pair.chosen[1:], pair.rejected[1:]
    return pair


def by_built(table, rollouts, limit):
    best = max((row for row in table if row["wrong"] <= limit), key=lambda row: row["built"])
    return best["n"], best["tau"]


def stop_at_a_fall(dev, patience):
    falls = paid = 0
    for paid in range(1, len(dev)):
        falls = 0 if dev[paid] > dev[paid - 1] else falls + 1
        if falls >= patience:
            break
    return dev.index(max(dev[: paid + 1])), paid


def stop_at_a_total(dev, patience):
    kept = paid = bad = 0
    for paid in range(1, len(dev)):
        if dev[paid] > dev[kept]:
            kept = paid
        else:
            bad += 1
            if bad >= patience:
                break
    return kept, paid


def stop_unless_equal(dev, patience):
    kept = paid = 0
    for paid in range(1, len(dev)):
        if dev[paid] >= dev[kept]:
            kept = paid
        elif paid - kept >= patience:
            break
    return kept, paid


WRONG = [
    ("name_faults", lambda: ["seed", "mask"], 'a dict with the keys "A"'),
    ("name_faults", lambda: {"A": "seed"}, 'a dict with the keys "A"'),
    ("name_faults", named(A="bug"), "A: 'bug' is none of the words sound, mask"),
    ("name_faults", named(A="mask"), "'mask' stands twice"),
    ("name_faults", named(C="mask", E="sound"), "3 of 5 are right. Look at E again: the others' log-prob"),
    ("name_faults", named(C="reference", B="sound"), "Look at B again: follow its margin"),
    ("name_faults", named(C="ties", D="sound"), "Look at D again: it hardly learns to rank"),
    ("name_faults", named(C="seed", A="sound"), "Look at A again: no curve shows it"),
    ("name_faults", named(A="mask", B="seed", C="reference", D="sound", E="ties"), "0 of 5 are right"),
    ("bits_per_weight", lambda block, bits, group: 4 + bits / block, "stores a float32 too"),
    (
        "bits_per_weight",
        lambda block, bits, group: 4 + bits / block + (32 / group if group else 0),
        "shared by all weights",
    ),
    ("bits_per_weight", lambda *case: bits_per_weight(*case) - 4, "the codes themselves"),
    ("bits_per_weight", lambda *case: 4, "add the code"),
    (
        "episodes_that_fit",
        lambda free, layers, heads, head, tokens: free / (4 * layers * heads * head * tokens),
        "rounded down",
    ),
    ("episodes_that_fit", lambda free, *rest: episodes_that_fit(2 * free, *rest), "two numbers of two bytes"),
    ("episodes_that_fit", lambda free, *rest: episodes_that_fit(free, *rest) // 2, "two bytes, not four"),
    ("episodes_that_fit", lambda free, layers, *rest: episodes_that_fit(free, 1, *rest), "every layer has its own"),
    ("episodes_that_fit", lambda *case: -1, "an episode takes"),
    ("training_flops", lambda *case: 1.5 * training_flops(*case), "is for full training"),
    ("training_flops", lambda *case: training_flops(*case) / 2, "the way forward alone"),
    ("training_flops", lambda tokens, labels, *rest: training_flops(tokens, tokens, *rest), "only where a label is"),
    ("training_flops", lambda *case: 1, "multiplies and adds once"),
    ("tasks_needed", lambda *case: tasks_needed(*case, ddof=0), "divide the squares by n - 1"),
    ("tasks_needed", lambda *case: tasks_needed(*case, z=1.96), "in half of the cases"),
    ("tasks_needed", lambda seen, effect: math.ceil(2.8 * np.std(seen, ddof=1) / effect), "square the ratio"),
    ("tasks_needed", lambda seen, effect: (2.8 * np.std(seen, ddof=1) / effect) ** 2, "rounded up"),
    ("tasks_needed", lambda *case: 7, "2.8 sd / sqrt"),
    ("group_advantages", lambda outcomes: group_advantages(outcomes, ddof=0), "divide the squares by n - 1"),
    ("group_advantages", lambda outcomes: [r - np.mean(outcomes) for r in outcomes], "its unit is the group's spread"),
    ("group_advantages", lambda outcomes: [math.nan] * len(outcomes), "where all end alike the spread is 0"),
    ("group_advantages", lambda outcomes: [0.0], "one advantage for each of 4 episodes"),
    ("group_advantages", lambda outcomes: outcomes, "outcome minus the group's mean"),
    ("budget", lambda sft, rounds, r: spent(sft, rounds, r)[::-1], "the two are swapped"),
    ("budget", lambda sft, rounds, r: spent(sft, rounds[max(r - 1, 0) : r], 1), "is round 2 alone"),
    ("budget", lambda sft, rounds, r: spent(sft, rounds, max(r - 1, 0)), "a round is missing"),
    ("budget", lambda sft, rounds, r: spent(sft, rounds, r + 1), "a round too many"),
    ("budget", lambda sft, rounds, r: spent(sft, rounds, 3), "(a round too many|every round)"),
    (
        "budget",
        lambda sft, rounds, r: (sum(o["explore"] for o in rounds[:r]), spent(sft, rounds, r)[1]),
        "scoring takes actions too",
    ),
    (
        "budget",
        lambda sft, rounds, r: (sum(o["score"] for o in rounds[:r]), spent(sft, rounds, r)[1]),
        "exploring takes actions too",
    ),
    ("budget", lambda sft, rounds, r: (7, 7), "add explore and score"),
    ("budget", lambda sft, rounds, r: spent(0, rounds, r), "before the first round"),
    ("budget", lambda sft, rounds, r: spent(sft * r, rounds, r), "trained once, not in every round"),
    ("budget", lambda sft, rounds, r: (spent(sft, rounds, r)[0], sft + rounds[r - 1]["updates"]), "is round 2 alone"),
    ("budget", lambda sft, rounds, r: (spent(sft, rounds, r)[0], 3), "add SFT's and those of all rounds"),
    ("budget", lambda sft, rounds, r: 5, "give two numbers"),
    ("stop_round", lambda dev, patience: (dev.index(max(dev)), len(dev) - 1), "never sees round 4"),
    ("stop_round", lambda dev, patience: (stop_round(dev, patience)[1],) * 2, "the last round trained is not the best"),
    ("stop_round", lambda dev, patience: (stop_round(dev, patience)[0],) * 2, "have to be paid"),
    ("stop_round", lambda dev, patience: stop_round(dev, patience)[::-1], "the two are swapped"),
    ("stop_round", lambda dev, patience: stop_round(dev, 1), "stops too early"),
    ("stop_round", lambda dev, patience: stop_round(dev, patience + 1), "stops too late"),
    ("stop_round", stop_at_a_total, "starts the count anew"),
    ("stop_round", stop_at_a_fall, "not with the round before"),
    ("stop_round", stop_unless_equal, "only equals the best"),
    ("stop_round", lambda dev, patience: (0, stop_round(dev, patience)[1]), "has the highest dev reward"),
    ("stop_round", lambda dev, patience: 1, "give two numbers"),
    ("expected_best", lambda k, sd: LUCK.gauss(0, sd), "take the mean of many"),
    ("expected_best", lambda k, sd: expected_best(k, 1), "multiply by sd"),
    ("expected_best", lambda k, sd: expected_best(k, sd * sd), "taken for a variance"),
    ("expected_best", lambda k, sd: sd * math.sqrt(2 * math.log(k)), "a bound"),
    ("expected_best", lambda k, sd: 0.0, "the maximum of each k first"),
    ("expected_best", lambda k, sd: -expected_best(k, sd), "that is the minimum"),
    ("expected_best", lambda k, sd: expected_best(k, sd) if k > 1 else 0.8 * sd, "an absolute value"),
    ("expected_best", lambda k, sd: 2 * expected_best(k, sd), "draw k normal numbers"),
    ("expected_best", lambda k, sd: [sd], "give one number"),
    ("wilson", wald, "that is Wald's interval"),
    ("wilson", lambda k, n: wilson(k, n, 1.645), "that is the 90 % interval"),
    ("wilson", lambda k, n: wilson(k, n)[::-1], "the ends are swapped"),
    ("wilson", lambda k, n: tuple(100 * end for end in wilson(k, n)), "give shares between 0 and 1"),
    ("wilson", off_centre, "the middle is not"),
    ("wilson", lambda k, n: (wilson(k, n)[0] - 0.1, wilson(k, n)[1] + 0.1), "the width is not"),
    ("wilson", lambda k, n: (0.1, 0.2), "must equal"),
    ("wilson", lambda k, n: k / n, "give two numbers"),
    ("two_labs", lambda gains: two_labs(gains)[::-1], "are the lists swapped"),
    ("two_labs", lambda gains: ([3, 4, 7], [0, 1, 9]), "the mean is on the right side, but the interval is not"),
    ("two_labs", lambda gains: ([0, 1, 9], [0, 1, 8]), "the mean is on the wrong side"),
    ("two_labs", lambda gains: ([3, 4, 7], [0, 1, 8]), "is no seed of this file"),
    ("two_labs", lambda gains: ([4, 4, 4], [0, 1, 8]), "uses a seed twice"),
    ("two_labs", lambda gains: ([3, 4], [0, 1, 8]), "it must have three"),
    ("two_labs", lambda gains: sorted(gains), "give two lists of three seeds"),
    ("seeds_needed", bell_seeds(2.8016**2), "with few seeds t is larger"),
    ("seeds_needed", bell_seeds(2.4865**2), "one-sided"),
    ("seeds_needed", bell_seeds(1.96**2), "in half of the experiments"),
    ("seeds_needed", bell_seeds(2 * 2.8016**2), "ours are paired"),
    ("seeds_needed", lambda gain, spread: 3, "more are needed"),
    ("seeds_needed", lambda gain, spread: 5000, "fewer will do"),
    ("seeds_needed", lambda gain, spread: 12.5, "a whole number"),
    ("best_setting", by_built, "one costs 2n rollouts"),
    ("best_setting", lambda *case: (1, 0.01), "over the limit"),
    ("best_setting", lambda *case: (7, 0.01), "no row of the table"),
    ("best_setting", lambda *case: 5, "give two numbers"),
    ("best_setting", lambda table, *case: table[0], "give two numbers"),
    (
        "best_setting",
        lambda table, rollouts, limit: best_setting(
            [row | {"wrong": 0.0} for row in table if row["wrong"] <= limit], rollouts, 1
        ),
        "another row more",
    ),
    ("best_setting", lambda *case: (5, 0.35), "another row more"),
    ("one_sided", lambda firsts, limit: sorted({r for _, r in firsts}), "is chosen in a pair"),
    (
        "one_sided",
        lambda firsts, limit: sorted({r for _, r in firsts} - {c for c, _ in firsts}),
        "not more than the limit",
    ),
    ("one_sided", lambda firsts, limit: [], "is missing"),
    ("one_sided", lambda firsts, limit: one_sided(firsts, limit)[::-1], "each kind once, sorted"),
    ("one_sided", lambda firsts, limit: 1, "a sorted list"),
    ("break_even", lambda w, beta, m: -break_even(w, beta, m), "a length is positive"),
    ("break_even", lambda w, beta, m: 1 / break_even(w, beta, m), "upside down"),
    ("break_even", lambda w, beta, m: 2 * w / beta, "right at margin 0 only"),
    ("break_even", lambda w, beta, m: break_even(1, beta, m), "the weight of the SFT term"),
    ("break_even", lambda w, beta, m: 7, "set w_sft / tokens"),
    ("smoothed", lambda m, e: smoothed(m, 1 - e), "the wrong way round"),
    ("smoothed", lambda m, e: -(1 - e) * F.logsigmoid(m), "cost something too"),
    ("smoothed", lambda m, e: -F.logsigmoid((1 - 2 * e) * m), "expectation of the loss"),
    ("smoothed", lambda m, e: m, "with probability 1 - e"),
    ("smoothed", lambda m, e: 0.7, "give a tensor"),
    ("balanced", lambda pairs, seed: pairs[::-1], "in the order they came in"),
    (
        "balanced",
        lambda pairs, seed: [flipped(p) if i % 3 else p for i, p in enumerate(pairs)],
        "draw within each kind",
    ),
    ("balanced", lambda pairs, seed: balanced(pairs, 0), "must depend on the seed"),
    ("balanced", lambda pairs, seed: balanced(pairs, random.random()), "not from the global generator"),
    ("balanced", lambda pairs, seed: [replace(p, chosen=p.rejected) for p in pairs], "half turned round"),
    ("replay", lambda seed: [str(random.random())], "two different rollouts"),
    ("replay", lambda seed: ["Action: search[tea]"], "does the seed reach"),
    ("replay", lambda seed: "Action: search[tea]", "a list of texts"),
    ("agent_mask", lambda turns: [1] * len(mask(turns)), "the agent does not write it"),
    ("agent_mask", lambda turns: [0] * len(mask(turns)), "this is the agent's own message"),
    ("agent_mask", lambda turns: mask(turns)[1:], "got a mask of"),
    ("agent_mask", lambda turns: [1 - value for value in mask(turns)], "token 0"),
    ("agent_mask", lambda turns: 1, "must be a list of 0 and 1"),
    ("agent_mask", searching_mask, "the agent only reads them"),
    (
        "agent_mask",
        lambda turns: [v if i < len(mask(turns)) - 1 else 0 for i, v in enumerate(mask(turns))],
        "learn to stop",
    ),
    ("skipped", lambda t: [], "was skipped"),
    ("skipped", lambda t: t.task.setup["goal_options"], "is not skipped"),
    ("skipped", lambda t: [w for w in t.task.setup["goal_options"] if w not in str(t.actions)], "not a search"),
    (
        "skipped",
        lambda t: [w for w in t.task.setup["goal_options"] if f"click[{w}]" not in str(t.actions)],
        "not a thought",
    ),
    ("skipped", lambda t: 1, "give a list of options"),
    ("observation_share", lambda losses, mask: 1 - share(losses, mask), "that is the agent's share"),
    ("observation_share", lambda losses, mask: (mask == 0).float().mean(), "share of the tokens"),
    ("observation_share", lambda losses, mask: losses[mask == 0].sum(), "divide it by the whole"),
    ("observation_share", lambda losses, mask: 0.5, "sum the losses where the mask is 0"),
    (
        "episodes_needed",
        lambda steps, usual, sure: first(lambda n: complete(1, usual, n) >= sure),
        "enough for one step",
    ),
    (
        "episodes_needed",
        lambda steps, usual, sure: first(lambda n: (1 - usual**n) ** steps >= sure),
        "the usual one must",
    ),
    ("episodes_needed", lambda steps, usual, sure: round(1 / (1 - usual)) if steps > 1 else 3, "on average"),
    ("episodes_needed", lambda *case: episodes_needed(*case) - (case[0] > 1), "probability of only"),
    (
        "episodes_needed",
        lambda steps, usual, sure: first(lambda n: complete(steps, usual, n) > sure),
        "more than needed",
    ),
    ("episodes_needed", lambda *case: 2.5, "whole number"),
    ("unrankable", lambda played, parse: two_alike(played, parse, tasks=False), "different tasks"),
    (
        "unrankable",
        lambda played, parse: two_alike(played, parse, like=lambda one, _: one.actions),
        "only their words differ",
    ),
    ("unrankable", lambda played, parse: two_alike(played, parse, tie=1.0), "can be ranked"),
    ("unrankable", lambda played, parse: two_alike(played, parse, tie=0.0), "at most 0.01 count as equal"),
    (
        "unrankable",
        lambda played, parse: next(
            (
                (a, b)
                for a, b in itertools.combinations(played, 2)
                if a.id == b.id
                and abs(a.reward - b.reward) < 0.01
                and any(parse(x) != parse(y) for x, y in zip(a.actions, b.actions))
            ),
            None,
        ),
        "may be the longer one",
    ),
    ("unrankable", lambda played, parse: two_alike(played, parse, tie=0.05), "can be ranked"),
    (
        "unrankable",
        lambda played, parse: two_alike(played, parse, like=lambda one, p: {p(a) for a in one.actions}),
        "in another order",
    ),
    ("unrankable", lambda played, parse: played[0], "give the two trajectories"),
    ("unrankable", lambda played, parse: (0, 4), "not copies or places"),
    ("pushed_wrong", lambda winner, loser, shared: pushed_wrong(winner, loser, 0), "not pushed at all"),
    (
        "pushed_wrong",
        lambda w, lost, shared: w[shared:].count(True) + lost[shared:].count(False),
        "pushed the right way",
    ),
    ("pushed_wrong", lambda winner, loser, shared: loser[shared:].count(True), "counts the loser alone"),
    ("pushed_wrong", lambda winner, loser, shared: winner[shared:].count(False), "counts the winner alone"),
    (
        "pushed_wrong",
        lambda winner, loser, shared: winner.count(False) + loser[shared:].count(True),
        "not pushed at all",
    ),
    ("pushed_wrong", lambda winner, loser, shared: 7, "after the shared beginning"),
    ("pushed_wrong", lambda winner, loser, shared: [True], "a whole number"),
    ("samples_needed", lambda *case: 1, "more are needed"),
    ("samples_needed", lambda *case: 30, "more than needed"),
    ("samples_needed", lambda *case: 2.5, "whole number"),
    ("push", lambda margin, beta: -push(margin, beta), "the sign is not"),
    ("push", lambda margin, beta: push(margin, beta) / beta, "that factor is missing"),
    ("push", lambda margin, beta: push(-margin, beta), "must push less"),
    ("push", lambda margin, beta: -0.3, "differentiate"),
    ("action_only", lambda pair: pair, "only the first action may stay"),
    ("action_only", cut_in_place, "has changed"),
    ("action_only", lambda pair: replace(pair, chosen=pair.chosen[0], rejected=pair.rejected[0]), "is no list"),
    ("action_only", lambda pair: replace(pair, chosen=pair.chosen[:1], rejected=pair.rejected[:1]), "outcome pair"),
    ("action_only", lambda pair: replace(action_only(pair), prompt=pair.prompt[:2]), "must stay as they were"),
    ("action_only", lambda pair: pair.chosen, "give a Pair"),
]


@pytest.mark.parametrize(("name", "answer", "told"), WRONG)
def test_a_wrong_answer_is_told_why(name, answer, told):
    with pytest.raises(WrongAnswer, match=told):
        getattr(checks, name)(answer)


def test_samples_needed_takes_a_simulation():
    import numpy as np

    rng = np.random.default_rng(1)

    def simulated(expert, agent, limit):
        for n in range(1, 50):
            theirs, ours = (rng.choice(side, (20_000, n)).mean(1) for side in (expert, agent))
            if (ours > theirs).sum() < limit * (ours != theirs).sum():
                return n

    checks.samples_needed(simulated)


def test_wrong_rate_by_hand():
    # One draw each from {0, 1} against {0}: never wrong; from {0, 1} against {0, 1, 1}: 1/3 of the
    # draws have the agent ahead (0 against 1), 1/6 the expert (1 against 0).
    assert checks.wrong_rate([0.0, 1.0], [0.0], 1) == 0
    assert checks.wrong_rate([0.0, 1.0], [0.0, 1.0, 1.0], 1) == pytest.approx(2 / 3)


def test_best_of_equals_by_hand():
    from ipr_lite.checks.chapter_08 import best_of_equals

    # The larger of two: sd / sqrt(pi); of three: 3 sd / (2 sqrt(pi)).
    assert best_of_equals(1) == pytest.approx(0, abs=1e-3)
    assert best_of_equals(2, 0.5) == pytest.approx(0.5 / math.sqrt(math.pi), abs=1e-3)
    assert best_of_equals(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-3)


def test_wilson_and_power_are_scipys():
    from scipy import stats

    from ipr_lite.checks.chapter_10 import wilson_interval

    for n in (1, 2, 5, 10, 77, 300):
        for successes in range(n + 1):
            theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
            assert wilson_interval(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    for n in (2, 3, 5, 10, 100, 719):
        for ratio in (0.0, 0.1, 0.5, 1.0, 2.0):
            above = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, ratio * math.sqrt(n))
            assert power(ratio * 0.3, 0.3, n) == pytest.approx(above, abs=1e-5)


def test_seeds_needed_takes_a_simulation():
    import numpy as np
    from scipy import stats

    rng = np.random.default_rng(1)

    def simulated(gain, spread):
        for n in [*range(2, 60), *range(700, 760, 2)]:
            seen = rng.normal(gain, spread, (20_000, n))
            t = seen.mean(1) / (seen.std(1, ddof=1) / math.sqrt(n))
            if (t > stats.t.ppf(0.975, n - 1)).mean() >= 0.8:
                return n

    checks.seeds_needed(simulated)


def test_guess_speaks_with_and_without_a_guess(capsys):
    checks.guess(None, 0.2236)
    checks.guess(0.3, 0.2236, "nats")
    assert capsys.readouterr().out == "no guess; the answer is 0.224\nyour guess 0.3, the answer is 0.224 nats\n"


# --- 09: the learner's own tests --------------------------------------------------------------------

TRAINERS = {letter: types.SimpleNamespace(word=word) for letter, word in checks.revealed().items()}


def catching(*words, error=AssertionError, say=""):
    """A learner's test that raises on trainers with these faults."""

    def test_of_a_trainer(trainer):
        if trainer.word in words:
            raise error(say)

    return test_of_a_trainer


def leaves_a_trace():
    """A test that raises on everybody once it has seen a broken trainer."""
    seen = set()

    def test_with_a_trace(trainer):
        seen.add(trainer.word)
        assert seen == {"sound"}

    return test_with_a_trace


def test_catch_faults_takes_tests_that_catch_two(capsys):
    checks.catch_faults(stub, TRAINERS)
    checks.catch_faults(lambda: [catching("mask"), catching("seed", "ties")], TRAINERS)
    checks.catch_faults(lambda: catching(*checks.FAULTS), TRAINERS)
    assert capsys.readouterr().out == (
        "not attempted yet\n"
        "right: caught mask, ties, seed; reference would go on unnoticed\n"
        "right: caught mask, reference, ties, seed, and the sound trainer is left in peace\n"
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: None, "`return` missing"),
        (lambda: [], "the list is empty"),
        (lambda: [True, False], "a list of your test functions"),
        (
            lambda: [catching("mask"), catching("sound", say="too long")],
            "test_of_a_trainer accuses the sound trainer falsely: too long",
        ),
        (
            lambda: [catching("sound", error=KeyError, say="ids")],
            "stops with KeyError: 'ids'. That is an error of the test",
        ),
        (lambda: [catching("mask", "ties"), catching("seed", error=TypeError)], "stops with TypeError"),
        (lambda: [leaves_a_trace()], "test_with_a_trace accuses the sound trainer after it has run on the others"),
        (lambda: [catching("mask", "ties"), catching()], "passes on all five"),
        (
            lambda: [catching("reference")],
            "caught: reference; one fault is not enough, mask, ties, seed go on unnoticed",
        ),
    ],
)
def test_catch_faults_tells_what_is_wrong_with_tests(answer, told):
    with pytest.raises(WrongAnswer) as error:
        checks.catch_faults(answer, TRAINERS)
    assert told in str(error.value)


# --- 01: the checks that play ------------------------------------------------------------------------


def errand():
    env = envs.make("house")
    task = envs.tasks("house", "dev")[0]
    people = envs.people_of("house")
    done = people.demonstrations([task], env, people.careful, 0)[0]
    return env, task, [env.parse(action) for action in done.actions]


def test_wins_plays_the_commands(capsys):
    env, task, commands = errand()
    checks.wins(stub, env, task)
    checks.wins(lambda: commands, env, task)
    assert capsys.readouterr().out == f"not attempted yet\nright: won with {len(commands)} commands\n"
    for answer, told in [
        (commands[:-1], "the goal does not hold yet"),
        (["dance"], "command 1, 'dance', was answered: 'Observation: Nothing happens.'"),
        (["look"] * 25, "the 20 steps are used up"),
        ("look", "must return a list"),
        ([], "there was none"),
    ]:
        with pytest.raises(checks.WrongAnswer, match=told):
            checks.wins(lambda answer=answer: answer, env, task)


def test_twins_are_two_ways_to_one_page(capsys):
    env = envs.make("shop")
    products = env.catalogue.products
    task = next(t for t in env.tasks if len(products[t.setup["asin"]].options) > 0)
    product = products[task.setup["asin"]]
    way = [f"search[{' '.join(product.title.split()[:6]).lower()}]", f"click[{product.asin.lower()}]"]
    option = f"click[{next(iter(product.options.values()))[0].lower()}]"
    checks.same_page_other_state(stub, env, task)
    assert capsys.readouterr().out == "not attempted yet\n"
    checks.same_page_other_state(lambda: (way, [*way, option]), env, task)
    assert capsys.readouterr().out.startswith("right: equal pages, and the shop knows a difference: chosen")
    for ways, told in (
        ((way, way), "and so are the states"),
        ((way[:1], way), "the pages differ"),
        ((way, [*way, "click[nowhere]"]), "second way, action 3: the shop does not accept"),
        (([*way, "click[buy now]"], way), "first way is over after action 3"),
        ((way,), "two lists of actions are wanted, not 1"),
    ):
        with pytest.raises(WrongAnswer, match=told):
            checks.same_page_other_state(lambda ways=ways: ways, env, task)


def test_negative_wants_the_right_rows_turned_around(capsys):
    env = envs.make("sql")
    task = next(t for t in envs.tasks("sql", "dev") if "ordered by" in t.instruction and "DESC" in t.setup["gold"])
    gold = task.setup["gold"]
    checks.negative(stub, env, task)
    checks.negative(lambda: gold.replace("DESC", "ASC"), env, task)
    assert "not attempted yet\nright: a reward of -0." in capsys.readouterr().out
    part = gold.replace("DESC", "ASC") + " LIMIT 2"
    for answer, told in [
        (gold, "turn the order around"), (part, "but not with the right rows"), ("SELECT 1", "not the right rows"),
        ("SELECT x", "Unknown column"),
    ]:  # fmt: skip
        with pytest.raises(checks.WrongAnswer, match=told):
            checks.negative(lambda answer=answer: answer, env, task)
