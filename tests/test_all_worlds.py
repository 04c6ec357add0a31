"""Three worlds behind one door: the same episodes as in each world alone."""

import pytest
from gymnasium.utils.env_checker import check_env

from ipr_lite import envs
from ipr_lite.records import Task

NAMES = ("shop", "sql", "house")


@pytest.fixture(scope="module")
def world():
    return envs.make("all")


def test_gymnasiums_checker(world):
    check_env(world.clone(), skip_render_check=True)


def test_tasks_take_turns():
    for split in ("train", "dev", "test"):
        tasks = envs.tasks("all", split)
        assert [t.env for t in tasks[:6]] == [*NAMES, *NAMES]
        assert sorted(t.id for t in tasks) == sorted(t.id for name in NAMES for t in envs.tasks(name, split))


@pytest.mark.parametrize("habits", ["careful", "habitual"])
def test_people_do_what_they_do_alone(world, habits):
    together = envs.people_of("all").demonstrations(envs.tasks("all", "dev")[:30], world, habits, 3)
    alone = []
    for name in NAMES:
        people = envs.people_of(name)
        alone += people.demonstrations(envs.tasks(name, "dev")[:10], envs.make(name), people.sorts[habits], 3)
    assert sorted(together, key=lambda t: t.id) == sorted(alone, key=lambda t: t.id)
    assert [t.task.env for t in together[:3]] == list(NAMES)


def test_an_episode_is_its_worlds(world):
    for task in envs.tasks("all", "dev")[:9]:
        people, alone = envs.people_of(task.env), envs.make(task.env)
        trajectory = people.demonstrations([task], alone, people.careful, 0, keep=-1)[0]
        copy = world.clone()
        page, _ = copy.reset(options={"task": task})
        assert copy.messages(page, task) == trajectory.messages[:2]
        last = None
        for message in trajectory.messages[2:]:
            if message["role"] == "assistant":
                assert copy.parse(message["content"]) == alone.parse(message["content"])
                other = copy.clone()
                last = copy.step(message["content"])
                assert other.step(message["content"]) == last
            else:
                assert last[0] == message["content"]
        assert last[1] == trajectory.reward


def test_an_unknown_world_is_named(world):
    with pytest.raises(ValueError, match="'moon'; here are shop, sql, house"):
        world.clone().reset(options={"task": Task("t", "moon", "dev", "?")})
    with pytest.raises(ValueError, match="no world 'moon'; the worlds are shop, sql, house, all"):
        envs.make("moon")
    with pytest.raises(RuntimeError, match="reset"):
        envs.make("all").step("Action: look")


def test_transcripts_of_every_world():
    found = list(envs.people_of("all").transcripts(9, seed=1))
    assert [t.task.env for t in found] == list(NAMES) * 3
