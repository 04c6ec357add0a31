"""An adapter added into its base: what rollouts of a small model run on, and what servers load."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from ipr_lite.chat import Chat
from ipr_lite.model import adapter_weights, set_adapter_weights

MERGED_BELOW = 200_000_000
"""Parameters up to which rollouts run on a merged float copy of the model; larger ones are in memory once."""


def merged(policy: PeftModel, weights: dict[str, torch.Tensor] | None):
    """A float32 copy of the base with an adapter's weights added in (None: the base alone).

    Only for small models, where 4-bit layers decode slower than float ones: a second copy of a
    large base would defeat the purpose. A 4-bit layer's weight is read off its own output on the
    identity matrix, so the copy computes what the layer computes.
    """
    base = policy.get_base_model()
    copy = in_floats(base)
    # The caches of rotary embeddings and tied heads are the copy's own; weights come from below.
    target = dict(copy.named_modules())
    with torch.no_grad():
        for name, module in base.named_modules():
            plain = name.replace(".base_layer", "")
            if name.endswith((".lora_A", ".lora_B")) or plain not in target:
                continue
            mine = target[plain]
            if hasattr(module, "base_layer"):
                layer = module.base_layer
                eye = torch.eye(mine.in_features, device=mine.weight.device)
                weight = layer(eye).T.float().clone()
                if mine.bias is not None:
                    weight -= layer.bias.float()[:, None]
                    mine.bias.copy_(layer.bias)
                key = f"base_model.model.{plain}"
                if weights is not None and f"{key}.lora_A.weight" in weights:
                    a, b = weights[f"{key}.lora_A.weight"], weights[f"{key}.lora_B.weight"]
                    weight += module.scaling["default"] * (b.float() @ a.float())
                mine.weight.copy_(weight)
            elif not name.endswith("base_layer"):
                for key, parameter in module.named_parameters(recurse=False):
                    getattr(mine, key).copy_(parameter)
    return copy.eval().requires_grad_(False)


def in_floats(model):
    """A float32 model of the same architecture with weights of its own, and no mark of how `model` was quantized."""
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(model.config).from_dict(settings)
    return AutoModelForCausalLM.from_config(config, attn_implementation=model.config._attn_implementation).float()


def save_merged(policy: PeftModel, weights: dict[str, torch.Tensor] | None, tokenizer, folder: Path) -> None:
    """Write `merged` with its tokenizer, as servers and `from_pretrained` read it. Float32: four bytes a weight.

    Its generation_config.json says what rollouts here do: the plain softmax, a turn ends as in training. Its chat template writes what
    training read, whatever a server tells it of thinking or of the date.
    """
    copy, chat = merged(policy, weights), Chat(tokenizer)
    copy.config.use_cache = True
    copy.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        eos_token_id=chat.end, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    copy.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    (Path(folder) / "chat_template.jinja").write_text(chat.template, encoding="utf-8", newline="\n")


def decoder(policy: PeftModel, weights: dict[str, torch.Tensor] | None):
    """The model that rollouts of this policy run on: a merged copy of a small model, else the
    policy itself with the weights in its adapter "explorer" (None: zeros, which add nothing)."""
    if sum(p.numel() for p in policy.get_base_model().parameters()) < MERGED_BELOW:
        return merged(policy, weights)
    if weights is None:
        weights = {key: torch.zeros_like(value) for key, value in adapter_weights(policy).items()}
    set_adapter_weights(policy, weights, "explorer")
    policy.set_adapter("explorer")
    return policy
