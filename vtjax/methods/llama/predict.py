"""Answers to prompts."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np

from vtjax.arguments import Repeated
from vtjax.config import Experiment
from vtjax.errors import VtjaxError
from vtjax.methods.llama import task
from vtjax.methods.llama.evaluate import Scorer
from vtjax.methods.llama.pipeline import objective_of
from vtjax.methods.llama.text import open_tokenizer, sizes_of
from vtjax.nn.generate import Sampling, generate
from vtjax.report.answer import Answer
from vtjax.report.page import Page
from vtjax.text.tokenizer import pad_rows


class LlamaModel:
    """What a run keeps open: the decoder's sizes and functions, and the tokenizer."""

    def __init__(self, experiment: Experiment, work: pathlib.Path):
        self.objective, self.sizes = objective_of(experiment), sizes_of(experiment.method)
        self.tokenizer = open_tokenizer(experiment.method, self.sizes, work / "assets")
        self.scorer = Scorer(self.objective, self.tokenizer)


def predict(
    run: Any,
    prompts: Annotated[Sequence[str], Repeated("prompt")],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Gives one answer for each prompt.

    Args:
      prompts: What to answer.
      max_new_tokens: Longest answer in tokens.
      temperature: 0 takes the likeliest token each time.
      seed: Of the draws, with a temperature above 0.

    Raises:
      VtjaxError: no prompt, or one that leaves no room for an answer.
    """
    if not prompts or not all(p.strip() for p in prompts):
        raise VtjaxError("give prompts, none of them empty")
    model, tokenizer = run.model, run.model.tokenizer
    rows = [tokenizer.ids(prompt) for prompt in prompts]
    length = max(map(len, rows))
    if length + max_new_tokens > model.sizes.positions:
        both = f"{length} tokens of a prompt and {max_new_tokens} new ones"
        raise VtjaxError(f"{both}; the model takes {model.sizes.positions}")
    ids, valid = pad_rows(rows, length, tokenizer.pad_id, left=True)
    made = generate(
        model.objective.model, run.params["base"],
        Sampling(max_new_tokens, temperature, stop_ids=(tokenizer.eos_id,)),
        ids=ids, valid=valid, lora=task.adapters_of(run.params), rng=jax.random.key(seed),
    )  # fmt: skip
    kept = [row[: n - bool(stopped)] for row, n, stopped in zip(made.tokens, made.lengths, made.stopped, strict=True)]
    return [tokenizer.decode(np.asarray(row).tolist()) for row in kept]


def answer(run: Any, given: Mapping[str, Any], answers: Sequence[str]) -> Answer:
    """The answers for a terminal, JSON, CSV and a page."""
    page, pairs = Page("Answers", str(run.work)), list(zip(given["prompts"], answers, strict=True))
    for prompt, text in pairs:
        page.section(prompt).text(text)
    record = [{"prompt": prompt, "answer": text} for prompt, text in pairs]
    return Answer([f"{prompt}\n  {text}" for prompt, text in pairs], record, ("prompt", "answer"), pairs, page)
