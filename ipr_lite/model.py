"""One frozen base, many LoRA adapters.

IPR needs an SFT policy (which is also the scorer and the reference), an explorer and a learner. All are LoRA adapters over one copy of the base weights, in 4 bits (NF4) or in
full precision; a role is switched by the adapter's name.

    "default"   the policy in training (both trainers train this one)
    "sft"       the SFT policy: scorer and reference
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar

from ipr_lite.config import SMOL, SMOL_HUB, TINY_BASE, Scale


def pick_device() -> tuple[torch.device, torch.dtype, str]:
    """Device, dtype to compute in, and the reason, to be printed."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32, "no CUDA device: CPU, in float32"
    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.device("cuda"), torch.bfloat16, f"{name} computes in bfloat16"
    return torch.device("cuda"), torch.float16, f"{name} has no bfloat16: float16"


def load_tokenizer(model: str):
    """The tokenizer of a model, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(model: str, precision: str = "nf4", attention: str = "sdpa"):
    """The frozen base: `precision` "nf4" (bitsandbytes, double quantization) or "full".

    Raises ValueError for another precision, FileNotFoundError for a folder without a model, NotImplementedError for a
    model whose attention neither rollouts nor torch's own know.
    """
    if precision not in ("nf4", "full"):
        raise ValueError(f"unknown precision {precision!r}; choose nf4 or full")
    folder = Path(model)
    if (folder.is_absolute() or folder.exists()) and not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"no model in {folder}: config.json is missing; give a folder that "
            "`save_pretrained` wrote or a hub name with --model"
        )
    device, dtype, _ = pick_device()
    config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    if getattr(config, "attn_logit_softcapping", None):
        attention = "eager"  # torch's own attention cannot cap scores (Gemma 2)
    options = {"dtype": dtype, "attn_implementation": attention, "trust_remote_code": False}
    if precision == "nf4":
        warnings.filterwarnings("ignore", module="bitsandbytes")
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        options["device_map"] = {"": device}
    if folder.exists():
        disable_progress_bar()  # a local model loads at once; bars would only clutter notebooks
    try:
        base = AutoModelForCausalLM.from_pretrained(model, **options)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        raise unknown_attention(config, "attention that torch's own cannot compute") from error
    if precision == "full":
        base = base.to(device)
    for module in base.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16, bitsandbytes repacks weights that are read without a gradient, computes in
            # bfloat16 from then on and can no longer train; all machines shall compute the same.
            module.support_avx512bf16_for_cpu = False
    base.config.use_cache = False
    return base.requires_grad_(False)


def unknown_attention(config, what: str) -> NotImplementedError:
    """The error that refuses a model."""
    return NotImplementedError(
        f"batched rollouts do not know {what}, which models of type {config.model_type!r} have; take one with full or "
        "sliding-window attention in all layers, such as Llama, Qwen2, Qwen3, Gemma 2, Gemma 3 (text) or Phi-3, "
        "or play one episode after the other with --engine plain"
    )


def add_adapters(base, scale: Scale, seed: int) -> PeftModel:
    """The base with an untrained adapter "default" (LoRA on all linear layers, float32)."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=scale.lora_rank,
        lora_alpha=scale.lora_alpha,
        lora_dropout=0.0,
        target_modules=scale.targets,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers for a property that the pinned version has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(base, config, autocast_adapter_dtype=True)


def adapter_weights(policy: PeftModel, name: str = "default") -> dict[str, torch.Tensor]:
    """A copy of an adapter's weights, with names that do not depend on the adapter's."""
    weights = get_peft_model_state_dict(policy, adapter_name=name)
    return {key: value.detach().clone() for key, value in weights.items()}


def set_adapter_weights(policy: PeftModel, weights: dict[str, torch.Tensor], name: str) -> None:
    """Load weights into adapter `name`, which is made (frozen) where it does not exist yet."""
    if name not in policy.peft_config:
        policy.add_adapter(name, policy.peft_config["default"])
        for key, parameter in policy.named_parameters():
            if f".{name}." in key:
                parameter.requires_grad_(False)
    result = set_peft_model_state_dict(policy, weights, adapter_name=name)
    if result.unexpected_keys:
        raise ValueError(f"these weights do not fit adapter {name!r}: {result.unexpected_keys[:3]}")


def save_adapter(policy: PeftModel, folder: Path, name: str = "default", dtype: str = "float32") -> None:
    """Write an adapter in `dtype` as plain peft reads it: `PeftModel.from_pretrained(base, folder)`."""
    weights = adapter_weights(policy, name)
    current = adapter_weights(policy, "default")
    set_adapter_weights(policy, weights, "default")
    policy.save_pretrained(str(folder), selected_adapters=["default"])
    set_adapter_weights(policy, current, "default")
    path = Path(folder) / "adapter_model.safetensors"
    stored = {key: value.to(getattr(torch, dtype)) for key, value in load_file(path).items()}
    save_file(stored, path, metadata={"format": "pt"})
    # peft writes where the base lies on this machine, and a model card to fill in by hand.
    (Path(folder) / "README.md").unlink(missing_ok=True)
    path = Path(folder) / "adapter_config.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["base_model_name_or_path"] = portable(facts["base_model_name_or_path"])
    facts["target_modules"].sort()  # peft keeps a set, whose order changes from run to run
    path.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def portable(model: str) -> str:
    """The name of a model without the machine's path: `data/tiny-base`, what smol's file was made from, or a folder's
    last name."""
    folder = Path(model)
    if folder == TINY_BASE:
        return "data/tiny-base"
    if folder.name.startswith(Path(SMOL).stem):
        return SMOL_HUB
    return folder.name if folder.is_absolute() else model


def load_adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a saved adapter's folder, in float32. Raises FileNotFoundError naming the folder."""
    path = Path(folder) / "adapter_model.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no adapter in {folder}: {path.name} is missing")
    return {key: value.float() for key, value in load_file(path).items()}
