"""Episodes of several errands: each errand is the shop's own episode, the outcome their mean at the end."""

import random

import pytest
from gymnasium.utils.env_checker import check_env

from ipr_lite import envs
from ipr_lite.envs.shop.errands import errands_of


@pytest.fixture(scope="module", params=["shop-2", "shop-3"])
def world(request):
    return envs.make(request.param)


def test_gymnasiums_checker(world):
    check_env(world.clone(), skip_render_check=True)


def test_an_episode_is_its_errands_one_after_the_other(world):
    """People play the errands alone and in one episode: the same actions, and the mean of the rewards."""
    shop, experts = envs.make("shop"), envs.people_of("shop")
    for task in envs.tasks(world.name, "dev")[:20]:
        env, rewards = world.clone(), []
        page, _ = env.reset(options={"task": task})
        for number, errand in enumerate(errands_of(task)):
            trajectory = experts.demonstrate(errand, shop, experts.habitual, random.Random(number))
            rewards.append(trajectory.reward)
            assert page == (("Observation:\n" if number else "") + trajectory.messages[1]["content"])
            for action, step in zip(trajectory.actions, trajectory.as_steps()):
                page, reward, terminated, truncated, info = env.step(action)
                assert page == step.observation or not step.observation
        assert terminated or truncated
        assert reward == pytest.approx(sum(rewards) / world.errands)
        assert info["success"] == all(r == 1 for r in rewards)


def test_no_reward_before_the_end_and_each_errand_has_its_own_cap(world):
    env = world.clone()
    task = envs.tasks(world.name, "dev")[0]
    env.reset(options={"task": task})
    for number in range(world.max_steps):
        page, reward, terminated, truncated, _ = env.step("Thought: hm\nAction: click[nothing]")
        assert reward == 0 and (terminated or truncated) == (number == world.max_steps - 1)
    assert world.max_steps == 10 * world.errands and truncated


def test_a_clone_goes_its_own_way(world):
    env = world.clone()
    trajectory = envs.people_of(world.name).demonstrations(
        envs.tasks(world.name, "dev")[:1], world, envs.people_of(world.name).careful, 0
    )[0]
    env.reset(options={"task": trajectory.task})
    for action in trajectory.actions[: trajectory.steps // 2]:
        env.step(action)
    other = env.clone()
    for _ in range(world.max_steps):
        if any(other.step("Action: click[nothing]")[2:4]):
            break
    for action in trajectory.actions[trajectory.steps // 2 :]:
        _, reward, terminated, *_ = env.step(action)
    assert terminated and reward == trajectory.reward


def test_every_task_of_the_shop_is_an_errand_of_as_many_tasks():
    made = envs.tasks("shop-3", "test")
    singles = [task.id for task in envs.tasks("shop", "test")]
    parts = [errand.id for task in made for errand in errands_of(task)]
    assert sorted(parts) == sorted(singles * 3) and len(made) == len(singles)
    assert all(len({e.id for e in errands_of(task)}) == 3 for task in made)


def test_people_of_one_habit():
    """`skips-size` people leave out sizes and nothing else; `takes-first` people choose all options."""
    shop, experts = envs.make("shop"), envs.people_of("shop")
    tasks = envs.tasks("shop", "train")
    mean = {}
    for name, habits in experts.sorts.items():
        trajectories = experts.demonstrations(tasks, shop, habits, 0, keep=-1)
        mean[name] = sum(t.reward for t in trajectories) / len(trajectories)
    assert mean["habitual"] < mean["takes-first"] < mean["careful"]
    assert mean["habitual"] < mean["skips-size"] < mean["careful"]
