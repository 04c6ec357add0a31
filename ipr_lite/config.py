"""What a run depends on: one dataclass. Where its defaults leave the paper, README says so."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ipr_lite.losses import SFT_ON, SFT_PER, check_choice


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    env: str = "shop"
    data: str | None = None
    """A folder with the original benchmark's data; None: the generated world."""
    experts: str | None = None
    """A file of the authors' expert trajectories, played again in the world; None: our own people demonstrate."""
    scale: str = "tiny"
    model: str | None = None
    precision: str = "nf4"
    seed: int = 0
    demonstrations: int = 160
    """Expert trajectories to draw (fewer where the world has fewer tasks)."""
    keep: float | None = None
    """A demonstration is kept if its outcome reward is at least this; None: the world's own (shop .5, SQL and
    household 0: failures stay; the paper: WebShop .7, SQL 1)."""
    habits: str = "habitual"
    sft_epochs: float = 3.0
    sft_learning_rate: float | None = None
    """Of cloning; None: the scale's."""
    iterations: int = 2
    samples: int = 5
    """N, Monte Carlo rollouts for one step reward."""
    step_reward: str = "mc"
    """Monte Carlo, "model" (the learned step reward model of this run), or the folder of another run whose model
    judges, with `{seed}` for the run's seed."""
    scorer: str = "sft"
    """Who finishes episodes to score a step: the frozen SFT policy, or "current", the iterate of the round."""
    explore_temperature: float = 0.0
    """Of the exploring policy; 0 is greedy, as in the paper."""
    tau_step: float = 0.01
    tau_outcome: float = 0.01
    both_directions: bool = True
    action_only: bool = False
    shorter_wins: bool = False
    """A step pair is also won by the shorter of two suffixes that both succeed (the released code's rule for ALFWorld,
    which forgets to ask for success)."""
    step_pairs_from: int = 2
    """The first step that may give a step pair; 1 lets t = 1 give one beside its outcome pair."""
    updates: int = 20
    """Of preference training, in one iteration."""
    batch_size: int = 8
    learning_rate: float | None = None
    """Of preference training and PPO; None: the scale's, or the baseline's own."""
    reference: str = "sft"
    """IPR's: the SFT policy in every round, or "current", the iterate that the round begins with (ETO's rule)."""
    beta: float = 0.1
    w_outcome: float = 1.0
    w_step: float = 1.0
    w_sft: float = 2.0
    sft_on: str = "outcome_winners"
    sft_per: str = "token"
    eto_reference: str = "current"
    eto_once: bool = False
    """ETO explores each task once, greedily, as in its paper; else until it has taken as many actions as IPR."""
    ppo_samples: int = 1
    """Rollouts for one step reward of Step-PPO: it meets many actions, so noise averages out."""
    best_of: int = 10
    """Episodes that Best-of-N chooses from."""
    showcase: int = 8
    """Demonstrations of which every step is scored, for the report."""
    dev: int = 100
    """Tasks of the dev split to evaluate on."""
    test: int = 300
    micro_batch: int | None = None
    """Examples or pairs trained on at once, a divisor of `batch_size`; None, as in the next three: the scale's."""
    gradient_checkpointing: bool | None = None
    rollout_batch: int | None = None
    """Episodes in play at once."""
    max_length: int | None = None
    """Tokens of an episode; longer ones end with reward 0 in rollouts and are left out of training."""
    without: str = ""
    """Savings to do without, such as `share,stop`; see SAVINGS. The pairs are the same, the time is not."""

    backend: str = "local"
    """Who plays the episodes: this process, or "openai", a server that speaks OpenAI's API (`book/serving.md`)."""
    url: str = "http://localhost:8000/v1"
    """Of the server."""
    served: str | None = None
    """What the server calls a policy, with `{policy}` for base, sft, ipr-1, ...; None: adapters are loaded there by name,
    from the run's folder (vLLM)."""
    requests: int | None = None
    """To the server, at once; None: as many as the scale has episodes in play."""

    def check(self) -> None:
        """Raises ValueError for an unknown word in an option."""
        if self.served and "{policy}" not in self.served:
            raise ValueError(f"--served {self.served}: write {{policy}} where base, sft, ipr-1, ... shall stand")
        for name, allowed in _WORDS.items():
            check_choice(name, getattr(self, name), allowed)
        self.saves("")

    def saves(self, name: str) -> bool:
        """Whether a run makes this saving. Raises ValueError for unknown names in `without`."""
        off = [part.strip() for part in self.without.split(",") if part.strip()]
        unknown = set(off) - set(SAVINGS)
        if unknown:
            raise ValueError(f"unknown saving {', '.join(sorted(unknown))} in without; choose of {', '.join(SAVINGS)}")
        return name not in off

    @property
    def setting(self) -> str:
        """What differs from the defaults, as `option=value` joined by blanks; `default` where nothing does.

        What has a column of its own in results files (env, seed, ...) or changes no policy is left out.
        """
        plain = Config()
        changed = [
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(self)
            if f.name not in _APART and getattr(self, f.name) != getattr(plain, f.name)
        ]
        return " ".join(changed) or "default"

    def with_setting(self, text: str) -> Config:
        """This config with `option=value ...` changed; `default` changes nothing.

        Raises ValueError for an unknown option or a value of the wrong kind.
        """
        kinds = {f.name: f.type.removesuffix(" | None") for f in fields(self) if f.name not in _APART}
        changes = {}
        for part in [] if text == "default" else text.split():
            name, _, value = part.partition("=")
            if name not in kinds:
                raise ValueError(f"setting {text!r}: no option {name!r}; choose of {', '.join(kinds)}")
            try:
                changes[name] = _READ[kinds[name]](value)
            except (ValueError, KeyError):
                raise ValueError(f"setting {text!r}: {value!r} is no {kinds[name]}") from None
        return replace(self, **changes)


_WORDS = {
    "scorer": ("sft", "current"), "reference": ("sft", "current"),
    "eto_reference": ("sft", "current"), "sft_on": SFT_ON, "sft_per": SFT_PER, "backend": ("local", "openai"),
}  # fmt: skip
MEMORY = ("micro_batch", "gradient_checkpointing", "rollout_batch", "max_length")
"""What turns memory down. A run may go on with other values; the first three change no result but its last bits."""
WHERE = ("backend", "url", "served", "requests")
"""Options that say where episodes are played: a run may go on with others."""
_APART = (
    "env", "data", "scale", "model", "precision", "seed", "showcase", "dev", "test", "without", *MEMORY[:3], *WHERE,
)  # fmt: skip
_READ = {"int": int, "float": float, "str": str, "bool": {"True": True, "False": False}.__getitem__}

SAVINGS = {
    "share": "one history is computed once: one trunk, one row, one rest of an episode",
    "guess": "several tokens are read in one pass where they can be guessed",
    "stop": "an exploration ends at its first action where that is the expert's own",
    "skip": "steps that can give no pair (equal outcome, equal action) are not scored",
    "reuse": "what an earlier iteration has scored is not scored again",
}
"""What spares work in rollouts and scoring; each can be switched off with `--without`."""


QUICK = {"demonstrations": 40, "iterations": 1, "samples": 2, "updates": 10, "dev": 20, "test": 40}
"""What `--quick` changes: a minute's run that shows every stage, and no effect to speak of."""
