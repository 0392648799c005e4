"""Settings of fine-tuning LLaMA on texts."""

import dataclasses

from vtjax.config import Stages, check_choices, check_positive
from vtjax.errors import VtjaxError


@dataclasses.dataclass
class LlamaModelConfig:
    """The decoder, and what of it learns."""

    pretrained: str = ""  # folder or hub id of published weights: their sizes too; "" is random weights of `preset`
    preset: str = "tiny"  # tiny | 7b | 13b
    learns: str = "adapter"  # adapter: LoRA, the rest is frozen; all: every weight, without LoRA
    rank: int = 64  # of LoRA
    alpha: float = 128.0
    dropout: float = 0.05  # of the adapter's input
    targets: str = r"layers/(attention|ffn)/\w+/kernel"  # regular expression of the kernels that are adapted
    frozen_dtype: str = "bfloat16"  # of the weights below an adapter; what learns is float32
    remat: str = "none"  # none | full | dots | dots_no_batch: what a layer keeps for the backward pass (nn/stack.py)


@dataclasses.dataclass
class LlamaTextConfig:
    """Texts to token ids. The vocabulary is that of `model.pretrained`, or, for random weights, the training words."""

    vocabulary: str = ""  # folder or hub id of a LLaMA tokenizer, for random weights of a published size
    max_tokens: int = 2048  # a longer text loses its end, which is counted
    chunk: int = 256  # positions whose logits are formed at once


@dataclasses.dataclass
class LlamaDataConfig:
    """Lines of JSON with "prompt" and "answer" (the answer is learnt), or with "text" (all of it is)."""

    source: str = "world"  # a .jsonl file, or world: questions about the embedded motion world's captions
    test: float = 0.1  # share of the lines, chosen by their prompt, that is tested and never learnt
    world_seed: int = 0
    world_size: int = 4000


@dataclasses.dataclass
class LlamaConfig:
    """Everything the method depends on besides optimizer and loop."""

    model: LlamaModelConfig = dataclasses.field(default_factory=LlamaModelConfig)
    text: LlamaTextConfig = dataclasses.field(default_factory=LlamaTextConfig)
    data: LlamaDataConfig = dataclasses.field(default_factory=LlamaDataConfig)


CONFIG = LlamaConfig
STAGES = Stages


def check(config: LlamaConfig) -> None:
    """Refuses settings that cannot work, before anything is built.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    check_choices(config, {
        "model.preset": ("tiny", "7b", "13b"),
        "model.learns": ("adapter", "all"),
        "model.frozen_dtype": ("float32", "bfloat16"),
        "model.remat": ("none", "full", "dots", "dots_no_batch"),
    })  # fmt: skip
    check_positive(config, {"model": ("rank",), "text": ("max_tokens", "chunk"), "data": ("world_size",)})
    if not 0 < config.data.test < 1:
        raise VtjaxError(f"config.method.data.test={config.data.test}: lies between 0 and 1")
