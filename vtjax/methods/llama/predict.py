"""Answers to prompts."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.methods.llama import task
from vtjax.methods.llama.text import open_tokenizer, sizes_of
from vtjax.nn.generate import Sampling, generate
from vtjax.report.html import Page
from vtjax.text.llama_tokenizer import pad_rows
from vtjax.training.precision import compute_dtype


def predict(
    run: Any, prompts: Sequence[str], max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0
) -> list[str]:
    """One answer for each prompt; temperature 0 takes the likeliest token each time.

    Raises:
      VtjaxError: no prompt, or one that leaves no room for an answer.
    """
    if not prompts or not all(p.strip() for p in prompts):
        raise VtjaxError("give prompts, none of them empty")
    config = run.experiment.method
    sizes = sizes_of(config)
    tokenizer = open_tokenizer(config, sizes, run.work / "assets")
    model = task.build(config, sizes, compute_dtype(run.experiment))
    rows = [tokenizer.ids(prompt) for prompt in prompts]
    length = max(map(len, rows))
    if length + max_new_tokens > sizes.positions:
        both = f"{length} tokens of a prompt and {max_new_tokens} new ones"
        raise VtjaxError(f"{both}; the model takes {sizes.positions}")
    ids, valid = pad_rows(rows, length, tokenizer.pad_id, left=True)
    made = generate(
        model, run.params["base"], Sampling(max_new_tokens, temperature, stop_ids=(tokenizer.eos_id,)),
        ids=ids, valid=valid, lora=task.adapters_of(run.params), rng=jax.random.key(seed),
    )  # fmt: skip
    kept = [row[: n - bool(stopped)] for row, n, stopped in zip(made.tokens, made.lengths, made.stopped, strict=True)]
    return [tokenizer.decode(np.asarray(row).tolist()) for row in kept]


def define_flags() -> None:
    """Flags of `python -m vtjax.predict` for this method."""
    from absl import flags

    flags.DEFINE_multi_string("prompt", [], "What to answer; may be given several times.")
    flags.DEFINE_integer("max_new_tokens", 64, "Longest answer in tokens.", lower_bound=1)
    flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token each time.", lower_bound=0.0)


def command(run: Any, flags: Any, output: pathlib.Path) -> int:
    """Prints the answers, writes OUTPUT.json and OUTPUT.html."""
    answers = predict(run, flags.prompt, flags.max_new_tokens, flags.temperature)
    page = Page("Answers", str(run.work))
    for prompt, answer in zip(flags.prompt, answers, strict=True):
        print(f"{prompt}\n  {answer}")
        page.section(prompt).text(answer)
    record = [{"prompt": p, "answer": a} for p, a in zip(flags.prompt, answers, strict=True)]
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output.with_suffix(".json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    page.save(output.with_suffix(".html"))
    return 0
