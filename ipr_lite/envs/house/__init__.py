"""ALFWorld in text: find things, treat them, put them away."""

from ipr_lite.envs.house.generated import hindsight, make, tasks
from ipr_lite.envs.house.people import PEOPLE
from ipr_lite.envs.world import World

WORLD = World(
    "house",
    make,
    tasks,
    PEOPLE,
    columns={
        "house, seen rooms": ("test_seen", "ALFWorld seen"),
        "house, unseen rooms": ("test_unseen", "ALFWorld unseen"),
    },
    instruction=r"Your task is to: (.*)",
    corpus=(0.60, 690),
    scored=0.02,
    hindsight=hindsight,
    seconds=(1.4, 5.4, 0.06, 0.5, 0.3),
)
