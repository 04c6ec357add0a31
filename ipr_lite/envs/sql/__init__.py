"""InterCodeSQL: questions about a database that speaks MySQL."""

from ipr_lite.envs.sql.generated import make, tasks
from ipr_lite.envs.sql.people import PEOPLE
from ipr_lite.envs.world import World

WORLD = World(
    "sql",
    make,
    tasks,
    PEOPLE,
    columns={"sql": ("test", "InterCodeSQL")},
    corpus=(0.18, 340),
    scored=0.15,
    seconds=(0.6, 3.9, 0.08, 0.14, 0.12),
)
