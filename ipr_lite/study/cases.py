"""Case studies chosen by a rule, not by hand (paper appendix E).

Of the test tasks, where IPR gained most over SFT, where it lost most, and a tie on which the two did not act alike; the
first by task id where several are equal. Every action comes with its step reward by the frozen scorer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ipr_lite.engine.safe_text import markdown, markdown_code
from ipr_lite.records import Trajectory, read_trajectories, write_trajectories
from ipr_lite.rollout import stable_seed
from ipr_lite.run import Run
from ipr_lite.step_reward import monte_carlo, steps_of
from ipr_lite.study.viewer import react

SAMPLES = 50


def cases(run: Run) -> list[Trajectory]:
    """SFT's and IPR's episode on each of the three tasks; `extra` holds `case` and `step_rewards`."""
    sft = {t.id: t for t in run.evaluate("sft", "test")}
    ipr = {t.id: t for t in run.evaluate(run.select(), "test")}
    gain = {i: ipr[i].reward - sft[i].reward for i in sorted(sft)}
    ties = [i for i in gain if gain[i] == 0 and _acts(run, sft[i]) != _acts(run, ipr[i])]
    chosen = {"largest gain": max(gain, key=gain.get), "largest loss": min(gain, key=gain.get)}
    if ties:
        chosen["tie"] = ties[0]
    scorer, found = run.player(run.sft(), 1.0, "scorer"), []
    for case, task in chosen.items():
        for agent, episodes in (("sft", sft), ("ipr", ipr)):
            t = episodes[task]
            rewards = monte_carlo(steps_of(run.env, t, "agent"), scorer, SAMPLES, stable_seed(run.config.seed, "cases"))
            more = {"case": case, "step_rewards": [round(r.reward_mc, 4) for r in rewards], "samples": SAMPLES}
            found.append(replace(t, agent=agent, extra=t.extra | more))
    return found


def write_cases(path: Path, run: Run) -> Path:
    return write_trajectories(path, cases(run))


def cases_markdown(path: Path) -> str:
    """The cases as a list of actions, each with its step reward."""
    lines = []
    episodes = read_trajectories(path)
    for case in dict.fromkeys(t.extra["case"] for t in episodes):
        pair = [t for t in episodes if t.extra["case"] == case]
        lines += [f"**{markdown(case.capitalize())}**: {markdown(pair[0].task.instruction)}", ""]
        for t in pair:
            lines.append(f"- {markdown(t.agent)}, outcome {t.reward:.3f}:")
            for action, reward in zip(t.actions, t.extra["step_rewards"], strict=True):
                lines.append(f"  - {markdown_code(react(action)[1])} {reward:.2f}")
        lines.append("")
    return "\n".join(lines)


def _acts(run: Run, trajectory: Trajectory) -> list[str | None]:
    return [run.env.parse(action) for action in trajectory.actions]
