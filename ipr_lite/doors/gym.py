"""Gymnasium: importing this file registers the worlds, as `gymnasium.make` finds them.

Nothing is wrapped but by Gymnasium itself: `env.unwrapped` is the world, with its `clone()` and its `messages()`.
"""

from __future__ import annotations

from gymnasium.envs.registration import register

IDS = {"shop": "ipr-lite/Shop-v0", "sql": "ipr-lite/Sql-v0", "house": "ipr-lite/House-v0"}
"""What Gymnasium calls each world. `make(id, data=PATH)` opens it on the original's own files."""

for world, name in IDS.items():
    register(id=name, entry_point="ipr_lite.envs:make", kwargs={"name": world})
