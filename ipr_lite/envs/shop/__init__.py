"""WebShop in text: search, choose options, buy."""

from ipr_lite.envs.shop.generated import hindsight, make, tasks
from ipr_lite.envs.shop.people import PEOPLE
from ipr_lite.envs.world import World

WORLD = World(
    "shop",
    make,
    tasks,
    PEOPLE,
    columns={"shop": ("test", "WebShop")},
    instruction=r"Instruction: \[SEP\] (.*?) \[SEP\]",
    corpus=(0.22, 890),
    scored=0.1,
    hindsight=hindsight,
    seconds=(0.9, 3.4, 0.05, 0.06, 0.15),
)
