"""Generated households: many, different, solvable, and no freer than the originals."""

import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from ipr_lite.envs.house import generated as house_world
from ipr_lite.envs.house.env import House
from ipr_lite.envs.house.game import read_problem, write_problem
from ipr_lite.envs.house.generated import _ERRANDS, _THINGS, LAYOUTS, OPENABLE, ROOMS, SIZES, games, layouts
from ipr_lite.envs.house.people import CAREFUL, HABITUAL, Errand, demonstrate


@pytest.fixture(scope="module")
def homes():
    """Every shipped game, in one house."""
    home = house_world.make()
    home.tasks = tuple(task for split in SIZES for task in house_world.tasks(split))
    return home


def test_rooms_are_many_and_the_unseen_ones_are_others(homes):
    seen, unseen = layouts("seen"), layouts("unseen")
    assert len(seen) + len(unseen) == sum(LAYOUTS.values()) >= 100
    assert not set(seen) & set(unseen)
    for rooms in (seen, unseen):
        assert set(Counter(room.room for room in rooms)) == set(ROOMS)

    def furniture(split):
        return {homes.games[t.setup["game"]].receptacles for t in homes.tasks if t.split == split}

    allowed = {tuple(name for name, _ in room.places) for room in unseen}
    assert furniture("test_unseen") <= allowed
    assert furniture("test_seen") <= {tuple(name for name, _ in room.places) for room in seen}


def test_every_split_has_every_kind_of_task_and_is_drawn_the_same_again(homes):
    for split, size in SIZES.items():
        tasks = [t for t in homes.tasks if t.split == split]
        kinds = Counter(t.setup["type"] for t in tasks)
        assert len(tasks) == size and set(kinds) == set(_ERRANDS) and min(kinds.values()) > 0.15 * size
    found, tasks = games("dev")
    assert found == {t.setup["game"]: homes.games[t.setup["game"]] for t in tasks}
    assert len({(g.receptacles, g.fluent, g.instruction) for g in homes.games.values()}) == len(homes.games)
    assert len(house_world.tasks("test")) == SIZES["test_seen"] + SIZES["test_unseen"]
    with pytest.raises(ValueError, match="no split 'tests'; the splits are train"):
        games("tests")


@pytest.mark.parametrize(
    ("people", "within"), [(CAREFUL, (0.93, 1.0)), (HABITUAL, (0.5, 0.7))], ids=["careful", "habitual"]
)
def test_no_goal_holds_at_the_start_and_people_reach_each(homes, people, within):
    """Within the 20 steps nearly always, or, with habits, often not: that is what a habit costs."""
    homes.max_steps, steps = 100, []
    for task in homes.tasks:
        homes.reset(options={"task": task})
        assert not homes.won(), task
        trajectory = demonstrate(task, homes, people, random.Random(task.id))
        assert trajectory.reward == 1, task
        steps.append(trajectory.steps)
    share = sum(n <= 20 for n in steps) / len(steps)
    print(f"{len(steps)} games, {share:.1%} within 20 steps, {sum(steps) / len(steps):.1f} on average")
    assert within[0] <= share <= within[1]


def test_a_game_written_as_pddl_is_read_back_and_plays_the_same(homes):
    for task in homes.tasks[::7]:
        game = homes.games[task.setup["game"]]
        again = read_problem(write_problem(game), game.instruction)
        assert (again.receptacles, again.objects, again.locations) == (game.receptacles, game.objects, game.locations)
        assert (again.static, again.fluent) == (game.static, game.fluent)
        trajectory = demonstrate(task, homes, CAREFUL, random.Random(0))
        there = House({task.setup["game"]: again}, [task])
        there.max_steps = homes.max_steps
        there.reset(options={"task": task})
        played = [there.step(action)[:2] for action in trajectory.actions]
        assert [o for o, _ in played[:-1]] == [s.observation for s in trajectory.as_steps()[:-1]] and played[-1][
            1
        ] == trajectory.reward


def test_an_errand_is_what_the_instruction_says(homes):
    for task in homes.tasks:
        errand = Errand.of(homes.games[task.setup["game"]])
        assert errand.thing in task.instruction and (errand.target or errand.lamp) in task.instruction
        assert (errand.count == 2) == ("two" in task.instruction)
        words = {"clean": "clean", "heat": ("hot", "heat"), "cool": "cool", None: ""}[errand.treatment]
        assert any(word in task.instruction for word in ([words] if isinstance(words, str) else words))


def test_parity_things_may_be_and_be_done_to_as_in_the_originals():
    root = os.environ.get("IPR_LITE_REAL_DATA")
    if not root:
        pytest.skip("IPR_LITE_REAL_DATA is unset: no released ALFWorld games to compare with")
    facts = set()
    for path in (Path(root) / "alfworld").glob("games_*.jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                one = json.loads(line)
                facts |= read_problem(one["pddl_problem"], one["task"], one["game"]).static
    real = {}
    for predicate, name, *rest in facts:
        if not rest:
            real.setdefault(name.rpartition(" ")[0], set()).add(predicate)
    for thing, (able, furniture) in _THINGS.items():
        wanted = {"toggleable"} if able is None else {"pickupable", *able.split()}
        assert wanted <= real[thing], thing
        if able is not None:
            assert {("cancontain", f"{f}type", f"{thing}type") for f in furniture.split()} <= facts, thing
    assert OPENABLE == {name for name, words in real.items() if "openable" in words}
