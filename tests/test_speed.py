"""How fast the worlds step: printed, with bounds that only a blunder breaks on a busy machine."""

import time

import pytest

from ipr_lite import envs

# Steps a second on one core, at least. The originals, as others measured them: 18 (TextWorld, 57 ms a step),
# about 140 (WebShop's Flask pages, 7 ms), and whatever MySQL in Docker allows.
AT_LEAST = {"shop": 1_000, "sql": 100, "house": 2_000}


@pytest.mark.parametrize("world", AT_LEAST)
def test_steps_a_second(world):
    env, people = envs.make(world), envs.people_of(world)
    tasks = envs.tasks(world, "dev")
    played = people.demonstrations(tasks, env, people.habitual, 0, keep=-1)
    messages = [[m["content"] for m in t.messages if m["role"] == "assistant"] for t in played]
    start = time.process_time()
    for task, acts in zip(tasks, messages):
        env.reset(options={"task": task})
        for act in acts:
            env.step(act)
    seconds = time.process_time() - start
    steps = sum(map(len, messages))
    print(
        f"{world}: {steps / seconds:,.0f} steps a second ({1000 * seconds / steps:.2f} ms a step, n = {steps}, resets included)"
    )
    assert steps / seconds > AT_LEAST[world]
