"""How much memory a stage will take, from a model's configuration alone.

The model is built without weights (on torch's device "meta"), and one update, or one pass, is run on it: shapes are
worked out, numbers are not. `Meter` adds up what the operations allocate; what is stored for good is counted.
"""

from __future__ import annotations

import math
import warnings
import weakref
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, Qwen2Config

from ipr_lite.batches import parts_of
from ipr_lite.config import Scale
from ipr_lite.engine.cache import SHORTEST, capacity_for
from ipr_lite.engine.lookup import longest_draft
from ipr_lite.engine.merge import MERGED_BELOW
from ipr_lite.engine.rollouts import TOKENS_A_PASS
from ipr_lite.model import add_adapters

STAGES = ("sft", "rollouts", "train")
"""Exploring, scoring and evaluating are `rollouts`; `train` is the training on pairs."""

ADAPTERS = {"sft": ("default",), "rollouts": ("default", "explorer"), "train": ("default", "sft", "explorer", "ref")}
"""Adapters in the model at each stage, the copy of TRL's reference among them."""

CONFIGS = {
    "Qwen/Qwen2.5-0.5B-Instruct": {
        "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-7B-Instruct": {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""The published shapes of the scales' own models, so that a plan needs no network."""

AGENT_SHARE = 0.25
"""Of an episode's tokens, how many the agent writes, about."""

HEAD_ROWS, HEAD_COLUMNS = 4096, 32768
"""TRL's fused head works off its (agent tokens, vocabulary) logits in tiles of this size."""


class Meter(TorchDispatchMode):
    """Bytes of the tensors that operations have made within this context, beside a model's own: those that live
    `now`, and the `peak`."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.now = self.peak = 0
        # What an operation returns may be a view of a weight.
        self._alive = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._saw, made)
        return made

    def _saw(self, tensor: torch.Tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int):
        self._alive.discard(key)
        self.now -= size


class _Attention(torch.autograd.Function):
    """What a fused attention keeps: its inputs, its output and a number a row, never a square of the length."""

    @staticmethod
    def forward(context, query, key, value):
        found = torch.empty_like(query)
        context.save_for_backward(query, key, value, found, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return found

    @staticmethod
    def backward(context, gradient):
        return tuple(torch.empty_like(x) for x in context.saved_tensors[:3])


class _Head(torch.autograd.Function):
    """What TRL's fused head allocates for the hidden states (tokens, width) of the agent's tokens."""

    @staticmethod
    def forward(context, hidden, columns):
        context.save_for_backward(hidden)
        context.columns = columns
        hidden.new_empty(min(len(hidden), HEAD_ROWS), columns)
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def backward(context, gradient):
        (hidden,) = context.saved_tensors
        gradients = torch.empty_like(hidden, dtype=torch.float32)
        hidden.new_empty(min(len(hidden), HEAD_ROWS), context.columns)
        return gradients.to(hidden.dtype), None


AttentionInterface.register(
    "counted",
    lambda module, query, key, value, mask, **unused: (
        _Attention.apply(query, key, value).transpose(1, 2).contiguous(),
        None,
    ),
)


@dataclass(frozen=True)
class Shape:
    """What of a configuration counts: numbers of parameters."""

    linear: int
    """In the linear layers but the head: those that are stored in 4 bits."""
    widest: int
    """In the largest of them, which is unpacked for each use."""
    rest: int
    """Embeddings, head, norms."""
    lora: int
    """In one adapter."""


def config_of(model: str) -> PreTrainedConfig:
    """The configuration of a scale's own model, of a folder's, or of one on the hub.

    Raises FileNotFoundError where there is none, or the hub cannot be reached.
    """
    if model in CONFIGS:
        return Qwen2Config(**CONFIGS[model])
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    except OSError as error:
        raise FileNotFoundError(
            f"no configuration of {model!r}: neither a folder with a config.json nor, from here, a model on the hub; "
            "give --model a folder (its config.json alone is enough for a plan) or go online once"
        ) from error


def without_weights(config: PreTrainedConfig, scale: Scale, dtype: torch.dtype):
    """The model with one adapter on the device "meta"."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="counted", dtype=dtype)
        return add_adapters(model.requires_grad_(False), scale, seed=0)


def shape(model) -> Shape:
    """Count the parameters of a model of `without_weights`."""
    layers = [m.base_layer for m in model.modules() if hasattr(m, "lora_A")]
    linear = [layer.in_features * layer.out_features for layer in layers]
    lora = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Shape(sum(linear), max(linear), sum(p.numel() for p in model.parameters()) - sum(linear) - lora, lora)


def expected(
    config: PreTrainedConfig,
    scale: Scale,
    precision: str = "nf4",
    dtype: torch.dtype = torch.bfloat16,
    batch_size: int = 8,
    device: str = "cuda",
    stages: tuple[str, ...] = STAGES,
) -> dict[str, dict[str, int]]:
    """The peak of each stage in bytes, by part: weights, adapters, optimizer, cache, activations.

    It is that of episodes as long as they may be (`scale.max_length`), as many at once as there may be. What CUDA itself
    takes (0.5 to 1 GiB) comes on top.
    """
    model = without_weights(config, scale, dtype)
    count, size, text = shape(model), dtype.itemsize, config.get_text_config()
    # Where there is no Triton, the head works on copies of what it uses of its tile.
    columns = HEAD_COLUMNS + (0 if device == "cuda" else math.ceil(7.25 * min(text.vocab_size, HEAD_COLUMNS)))
    # NF4: half a byte a weight; of every 64 a scale of a byte, of every 256 scales four bytes more.
    packed = count.linear * (0.5 + 1 / 64 + 4 / (64 * 256)) if precision == "nf4" else count.linear * size
    unpacked = count.widest * size if precision == "nf4" else 0
    found = {}
    for stage in stages:
        parts = {"weights": packed + count.rest * size, "adapters": 4 * count.lora * len(ADAPTERS[stage])}
        if stage == "rollouts":
            total = count.linear + count.rest
            parts["weights"] += 4 * total if total < MERGED_BELOW else 0  # the merged float copy that they run on
            parts["cache"] = _cache(text, scale, size)
            parts["activations"] = _pass(model, text, scale) + unpacked
        else:
            # A gradient and AdamW's two moments; the trainer keeps the old weights in case it is interrupted.
            parts["optimizer"] = 4 * count.lora * 4
            rows = parts_of(batch_size, scale.micro_batch) * (2 if stage == "train" else 1)  # a pair is two rows
            parts["activations"] = _update(model, scale, rows, columns) + unpacked
        found[stage] = {part: round(amount) for part, amount in parts.items()}
    return found


def _update(model, scale: Scale, rows: int, columns: int) -> int:
    """The peak of one forward and backward pass of rows of full length."""
    causal, length = model.get_base_model(), scale.max_length
    model.train()
    if scale.gradient_checkpointing:
        causal.activation_checkpointing_enable({"use_reentrant": False})
        causal.enable_input_require_grads()
    with Meter(model) as meter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = torch.zeros(rows, length, dtype=torch.int64, device="meta")
        places = torch.arange(length, device="meta").expand(rows, length)
        hidden = causal.base_model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state
        said = hidden[:, : math.ceil(AGENT_SHARE * length)].reshape(-1, hidden.shape[-1])
        _Head.apply(said, columns).sum().backward()
        kept = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
    model.zero_grad()
    return meter.peak - kept  # gradients are counted with the optimizer


@torch.no_grad()
def _pass(model, text, scale: Scale) -> int:
    """The peak of a pass of rollouts: prompts are read together, or every row chooses its next tokens."""
    causal = model.get_base_model()
    model.eval()
    tokens = max(scale.max_length, min(TOKENS_A_PASS, scale.rollout_batch * scale.max_length))
    with Meter(model) as meter:
        ids = torch.zeros(1, tokens, dtype=torch.int64, device="meta")
        causal.base_model(input_ids=ids, position_ids=torch.arange(tokens, device="meta")[None], use_cache=False)
    places = scale.rollout_batch * (1 + longest_draft(scale.rollout_batch))  # draft tokens have logits, too
    # Logits in the model's numbers and in float32, probabilities, their sums in float64.
    return max(meter.peak, places * text.vocab_size * (model.dtype.itemsize + 4 + 4 + 8))


def _cache(text, scale: Scale, size: int) -> int:
    """Keys and values of all episodes in play, in places whose length is doubled as they grow.

    While they move to the longest places, those half as long are still there.
    """
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    places = capacity_for(scale.max_length)
    places += places // 2 if places > SHORTEST else 0
    return 2 * text.num_hidden_layers * heads * head * size * places * scale.rollout_batch
