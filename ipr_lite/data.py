"""The shipped data: products, tasks and demonstrations of the generated shop, with a card.

`python -m ipr_lite data` writes the same bytes again; CHECKSUMS tells.
"""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from statistics import fmean

from ipr_lite import envs
from ipr_lite.envs.shop_experts import CAREFUL, HABITUAL, demonstrations
from ipr_lite.jsonl import write_jsonl, write_whole
from ipr_lite.trajectory import write_tasks, write_trajectories

SPLITS = ("train", "dev", "test")
KEEP = 0.5

CARD = """# Data card: the generated shop

A shop of {products} products in {categories} categories, made by `ipr_lite/envs/shop_world.py` from
a fixed seed, in WebShop's text format. Nobody's data is in it: brands, products and people are
invented. Licence: Apache-2.0, as the code. Made by `python -m ipr_lite data`.

| file | what | lines |
|---|---|---:|
{files}

**People.** Demonstrations are scripted (`ipr_lite/envs/shop_experts.py`). *Careful* people read the
instruction and choose every option it names: mean reward {careful:.3f} on the test tasks, the ceiling
in every table. *Habitual* people have habits, drawn once a task; what they are is in that file, and
notebook 02 lets you find them first. A habitual demonstration is kept if its reward is at least
{keep}: {kept} of {train} train tasks, mean reward {habitual:.3f}. These two files are seed 0; a run
draws its own from its seed.

**Splits.** No product is the target of tasks in two splits. The base model's corpus comes from other
generated shops, with other brands, products and ids.
"""


def write_data(folder: Path) -> list[Path]:
    """Write products, tasks, demonstrations, card and checksums under `folder`; their paths."""
    folder = Path(folder) / "shop"
    env = envs.make("shop")
    tasks = {split: envs.tasks("shop", split) for split in SPLITS}
    people = {
        "habitual": demonstrations(tasks["train"], env, HABITUAL, 0, KEEP),
        "careful": demonstrations(tasks["train"], env, CAREFUL, 0, KEEP),
    }
    products = list(env.catalogue.products.values())
    lines: dict[Path, tuple[str, int]] = {}
    path = write_jsonl(folder / "products.jsonl", (asdict(p) for p in products))
    lines[path] = ("the catalogue", len(products))
    for split in SPLITS:
        path = write_tasks(folder / f"tasks_{split}.jsonl", tasks[split])
        lines[path] = (f"{split} tasks", len(tasks[split]))
    for name, found in people.items():
        path = write_trajectories(folder / f"demonstrations_{name}.jsonl", found)
        lines[path] = (f"train tasks as {name} people do them", len(found))
    careful = demonstrations(tasks["test"], env, CAREFUL, 0, keep=-1)
    card = CARD.format(
        products=len(products),
        categories=len({p.query for p in products}),
        files="\n".join(f"| `{p.name}` | {what} | {n} |" for p, (what, n) in lines.items()),
        careful=fmean(t.reward for t in careful),
        habitual=fmean(t.reward for t in people["habitual"]),
        keep=KEEP,
        kept=len(people["habitual"]),
        train=len(tasks["train"]),
    )
    write_whole(folder / "CARD.md", card)
    sums = [f"{sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in lines]
    write_whole(folder / "CHECKSUMS", "\n".join(sums) + "\n")
    return [*lines, folder / "CARD.md", folder / "CHECKSUMS"]
