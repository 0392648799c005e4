"""Settings of fine-tuning LLaMA on texts."""

import dataclasses

from vtjax.config import choice, number, positive


@dataclasses.dataclass
class LlamaModelConfig:
    """The decoder, and what of it learns."""

    pretrained: str = ""  # folder or hub id of published weights: their sizes too; "" is random weights of `preset`
    preset: str = choice("tiny", "7b", "13b")  # tiny | 7b | 13b
    learns: str = choice("adapter", "all")  # adapter: LoRA, the rest is frozen; all: every weight, without LoRA
    rank: int = positive(64)  # of LoRA
    alpha: float = 128.0  # of LoRA: the update is scaled by alpha / rank
    dropout: float = 0.05  # of the adapter's input
    targets: str = r"layers/(attention|ffn)/\w+/kernel"  # regular expression of the kernels that are adapted
    # Of the weights below an adapter; what learns is float32.
    frozen_dtype: str = choice("bfloat16", "float32")
    # What a layer keeps for the backward pass (nn/stack.py).
    remat: str = choice("none", "full", "dots", "dots_no_batch")


@dataclasses.dataclass
class LlamaTextConfig:
    """Texts to token ids. The vocabulary is that of `model.pretrained`, or, for random weights, the training words."""

    vocabulary: str = ""  # folder or hub id of a LLaMA tokenizer, for random weights of a published size
    max_tokens: int = positive(2048)  # a longer text loses its end, which is counted
    chunk: int = positive(256)  # positions whose logits are formed at once


@dataclasses.dataclass
class LlamaDataConfig:
    """Lines of JSON with "prompt" and "answer" (the answer is learnt), or with "text" (all of it is)."""

    source: str = "world"  # a .jsonl file, or world: questions about the embedded motion world's captions
    # Share of the lines, chosen by their prompt, that is tested and never learnt.
    test: float = number(0.1, above=0, below=1)
    world_seed: int = 0  # of the motion world
    world_size: int = positive(4000)  # questions


@dataclasses.dataclass
class LlamaConfig:
    """Everything the method depends on besides optimizer and loop."""

    model: LlamaModelConfig = dataclasses.field(default_factory=LlamaModelConfig)
    text: LlamaTextConfig = dataclasses.field(default_factory=LlamaTextConfig)
    data: LlamaDataConfig = dataclasses.field(default_factory=LlamaDataConfig)

