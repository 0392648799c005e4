"""Settings of fine-tuning LLaMA on texts."""

import dataclasses

from vtjax.config import Stages, check_choices, check_positive
from vtjax.errors import VtjaxError


@dataclasses.dataclass
class LlamaModelConfig:
    """The decoder and its adapter; the adapter learns, the rest is frozen."""

    pretrained: str = ""  # folder or hub id of published weights: their sizes too; "" is random weights of `preset`
    preset: str = "tiny"  # tiny | 7b | 13b
    rank: int = 64  # of LoRA
    alpha: float = 128.0
    dropout: float = 0.05  # of the adapter's input
    targets: str = r"layers/(attention|ffn)/\w+/kernel"  # regular expression of the kernels that are adapted
    frozen_dtype: str = "bfloat16"  # of the frozen weights
    remat: str = "none"  # none | full | dots | dots_no_batch: what a layer keeps for the backward pass (nn/stack.py)


@dataclasses.dataclass
class LlamaTextConfig:
    """Texts to token ids. The vocabulary is that of `model.pretrained`, or single bytes for random weights."""

    max_tokens: int = 2048  # a longer text loses its end, which is counted
    chunk: int = 256  # positions whose logits are formed at once


@dataclasses.dataclass
class LlamaDataConfig:
    """Lines of JSON with "prompt" and "answer" (the answer is learnt), or with "text" (all of it is)."""

    source: str = "world"  # a .jsonl file, or world: questions about the embedded motion world's captions
    test: float = 0.1  # share of the lines, chosen by their text, that is tested and never learnt
    world_size: int = 2000


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
        "model.frozen_dtype": ("float32", "bfloat16"),
        "model.remat": ("none", "full", "dots", "dots_no_batch"),
    })  # fmt: skip
    check_positive(config, {"model": ("rank",), "text": ("max_tokens", "chunk"), "data": ("world_size",)})
    if not 0 < config.data.test < 1:
        raise VtjaxError(f"config.method.data.test={config.data.test}: lies between 0 and 1")
