"""Who needs no training here: the pretrained base, and the careful person, who is the ceiling."""

from ipr_lite.methods.method import Method

BASE = Method("base", "the pretrained model as it is", lambda run: ["base"], "#c4c4c4", "X", from_base=True)
CAREFUL = Method(
    "careful", "a person without habits: the ceiling", lambda run: ["careful"], "#000000", "*", from_base=True
)
