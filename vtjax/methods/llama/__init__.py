"""LLaMA fine-tuned on texts with LoRA: the language tower of PiTe alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtjax.methods.method import Method


def method() -> Method:
    """Gives LLaMA to the registry."""
    from vtjax.methods.llama import config, evaluate, page, pipeline, predict
    from vtjax.methods.method import Method, Stage
    from vtjax.nn.stack import CHEAPEST_FIRST

    return Method(
        name="llama",
        about="a language model fine-tuned on texts with LoRA",
        config=config.LlamaConfig,
        stages={"train": Stage(pipeline.build, pipeline.abstract)},
        open=predict.LlamaModel,
        evaluate=evaluate.evaluate,
        predict=predict.predict,
        answer=predict.answer,
        page=page.page,
        levers={"method.model.remat": CHEAPEST_FIRST, "train.accumulate": (1, 2, 4, 8)},
    )
