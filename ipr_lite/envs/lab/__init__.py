"""A house of rooms with two doors: K decisions and one outcome, the lab's task in text (`study/lab.py`)."""

from functools import partial

from ipr_lite.envs.lab.env import make, tasks
from ipr_lite.envs.lab.people import PEOPLE
from ipr_lite.envs.world import World

FOUR, TWELVE = (World(f"lab-{k}", partial(make, k), partial(tasks, k), PEOPLE) for k in (4, 12))
