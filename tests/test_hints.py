"""Hints after any walk: who follows them from there reaches what a careful person reaches, where steps are left for it."""

import random

import pytest
from test_house import WINS, house

from ipr_lite import envs
from ipr_lite.envs.house.people import guide
from ipr_lite.envs.play import play

ADVICE = "a careful person would now: "
NONSENSE = ("", "dance", "go to mars", "click[nothing]", "search[<a>]", "take me from here", "DESC nothing", "SELECT")


def stray_shop(env, rng):
    """Anything that the page allows but a purchase, another's search, or what the shop does not take."""
    shop = getattr(env, "shop", env)
    clicks = [f"click[{text}]" for text in shop.clickables() if text != "buy now"]
    words = rng.choice(envs.tasks("shop", "train")).instruction.split()
    search = f"search[{' '.join(rng.sample(words, 3))}]"
    return rng.choice([*clicks, *clicks, search, rng.choice(NONSENSE)])


def stray_sql(env, rng):
    """Looks and queries of all sorts; the gold query too, and what the database does not take."""
    database = env.databases[env._task.setup["db"]]
    table = rng.choice(database.query("SHOW TABLES"))[0]
    return rng.choice([
        "SHOW TABLES", "show tables;", f"DESC {table}", f"describe `{table}`", f"SELECT * FROM {table} LIMIT 2",
        f"SELECT nothing FROM {table}", f"DESC {table}s", env._task.setup["gold"], rng.choice(NONSENSE),
    ])  # fmt: skip


def stray_house(env, rng):
    """Mostly what does something: take, put, open and treat anything anywhere."""
    possible = env.admissible()
    moved = [command for command in possible if command.split()[0] not in ("go", "look", "inventory", "examine")]
    return rng.choice([rng.choice(possible), rng.choice(moved or possible), rng.choice(NONSENSE)])


STRAY = {"shop": stray_shop, "shop-2": stray_shop, "sql": stray_sql, "house": stray_house}


def after_a_walk(env, task, length, rng, stray):
    """The reward, the steps that followed the walk and the texts: a hint is asked for before every action."""
    told, done = [], []

    def answer(prompt):
        if not told[-1].startswith(ADVICE):
            assert not told[-1].startswith("no hint here"), (task.id, done, told[-1])
            return "hint"
        line = stray(env, rng) or "nothing" if len(done) < length else told[-1].removeprefix(ADVICE)
        if not (len(done) < length and line in ("hint", "help", "quit")):
            done.append(line)
        return line

    reward = play(env, task, envs.people_of(env.name).guide, answer, told.append)
    return reward, len(done) - length, done


@pytest.mark.parametrize("world", ["shop", "shop-2", "sql"])
def test_hints_after_any_walk_reach_what_a_careful_person_reaches(world):
    """Here one can begin anew from anywhere, so that as many steps as a careful person takes are enough."""
    env, people = envs.make(world), envs.people_of(world)
    tried = 0
    for number, task in enumerate(envs.tasks(world, "dev")[:40]):
        rng = random.Random(number)
        (careful,) = people.demonstrations([task], env, people.careful, 0, keep=-1)
        free = min(env.max_steps, 10) - (careful.steps if world != "shop-2" else 7)
        if free < 1:
            continue
        reward, _, done = after_a_walk(env, task, rng.randint(1, free), rng, STRAY[world])
        tried += 1
        assert reward >= careful.reward, (task.id, done)
    assert tried >= 30


def test_hints_after_any_walk_through_a_house_reach_its_goal():
    """Always, and soon: an action astray costs at most two more, so that within the cap hints win wherever these are left."""
    env, people = envs.make("house"), envs.people_of("house")
    env.max_steps = 200
    for number, task in enumerate(envs.tasks("house", "dev")[::3]):
        rng = random.Random(number)
        (careful,) = people.demonstrations([task], env, people.careful, 0)
        length = rng.randint(1, 8)
        reward, steps, done = after_a_walk(env, task, length, rng, stray_house)
        assert reward == 1, (task.id, done)
        assert steps <= careful.steps + 2 * length, (task.id, done)


def test_a_guide_reads_what_the_player_does_not():
    """Doors beside where one stands, what was taken or put down astray, places that are not there."""
    world = house("put some knife in cabinet.")
    (task,) = world.tasks
    walk = [
        ("go to mars", "go to countertop 1"),
        ("go to countertop 1", "take knife 1 from countertop 1"),
        ("fridge 1", "take knife 1 from countertop 1"),  # no command: nobody goes there
        ("open cabinet 2", "take knife 1 from countertop 1"),  # at the same place as the countertop
        ("take mug 2 from cabinet 2", "put mug 2 in/on countertop 1"),
        ("go to cabinet 1", "open cabinet 1"),  # a mug may stand there too
        ("go to countertop 1", "put mug 2 in/on countertop 1"),
        ("put mug 2 in/on cabinet 2", "take knife 1 from countertop 1"),
        ("take knife 1 from countertop 1", "go to cabinet 2"),
        ("go to sinkbasin 1", "go to cabinet 2"),
    ]
    lines = [line for action, _ in walk for line in (action, "hint")]
    told, advice = [], []

    def answer(prompt):
        if told[-1].startswith("a careful"):
            advice.append(told[-1].removeprefix(ADVICE))
        return lines.pop(0) if lines else "quit"

    play(world, task, guide, answer, told.append)
    assert advice == [hint for _, hint in walk]


def test_a_hint_that_fails_is_said_and_the_game_goes_on():
    world = house("put some knife in cabinet.")

    def nobody(task, env):
        raise KeyError("nobody knows")

    lines, told = ["hint", *WINS["put some knife in cabinet."].split("|")], []
    assert play(world, world.tasks[0], nobody, lambda prompt: lines.pop(0), told.append) == 1
    assert "no hint here: KeyError: 'nobody knows'" in told
