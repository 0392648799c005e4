"""How well the next token of held-out answers is told."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vtjax.config import Experiment
from vtjax.errors import VtjaxError
from vtjax.evals.embed import in_batches
from vtjax.evals.protocol import Result
from vtjax.evals.statistics import bootstrap_interval
from vtjax.methods.llama import data, task
from vtjax.methods.llama.text import TextTokenizer, open_tokenizer, sizes_of
from vtjax.training.precision import compute_dtype

_BATCH = 16


def evaluate(run: Any, split: str = "") -> list[Result]:
    """Of the test items; split: "test" (default) or "train".

    Raises:
      VtjaxError: another split.
    """
    config = run.experiment.method
    items = data.open_items(config.data)
    sides = {"": items.test, "test": items.test, "train": items.train}
    if split not in sides:
        raise VtjaxError(f"--split={split}: test or train")
    tokenizer = open_tokenizer(config, sizes_of(config), run.work / "assets")
    return score(run.experiment, run.params, sides[split], tokenizer)


def score(experiment: Experiment, params: dict, items: Sequence[data.Item], tokenizer: TextTokenizer) -> list[Result]:
    """Perplexity and accuracy of the answers' tokens; intervals by a bootstrap over items."""
    config = experiment.method
    sizes, dtype, transform = sizes_of(config), compute_dtype(experiment), data.Transform(config, tokenizer)
    run = jax.jit(lambda params, batch: task.scores(config, sizes, params, batch, dtype))

    def batch(part: Sequence[data.Item]) -> dict[str, np.ndarray]:
        rows = [transform(item) for item in part]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    missed, hits, counts = (x.astype(np.float64) for x in in_batches(run, params, items, batch, _BATCH))
    # A ratio of sums over items: a replicate draws whole items.
    values = np.stack([missed, hits, counts], axis=1)
    ratios = lambda v, w: (w @ v)[:, :2] / (w @ v)[:, 2:]  # noqa: E731
    low, high = bootstrap_interval(values, ratios)
    total = values.sum(axis=0)
    # Guessing without reading: the commonest token always; and all tokens alike.
    answers = [token for item in items for token in tokenizer.ids(item.answer, bos=False, eos=True)]
    common = collections.Counter(answers).most_common(1)[0][1] / len(answers)
    result = Result(
        protocol="answers/next token",
        metrics={"accuracy": 100 * total[1] / total[2], "perplexity": float(np.exp(total[0] / total[2]))},
        items=len(items),
        chance={"accuracy": 100 * common, "perplexity": float(tokenizer.vocab_size)},
        interval={"accuracy": (100 * low[1], 100 * high[1]), "perplexity": tuple(np.exp([low[0], high[0]]))},
        notes=(f"{int(total[2])} tokens; perplexity is better where lower",),
    )
    return [result]
