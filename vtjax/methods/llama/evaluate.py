"""How well the next token of held-out answers is predicted."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vtjax.errors import VtjaxError
from vtjax.evals.embed import in_batches
from vtjax.evals.protocol import Result
from vtjax.evals.statistics import bootstrap_interval
from vtjax.methods.llama import data
from vtjax.methods.llama.task import LlamaObjective
from vtjax.text.tokenizer import RowTokenizer

_BATCH = 16


class Scorer:
    """Scores answers by a model and its tokenizer."""

    def __init__(self, objective: LlamaObjective, tokenizer: RowTokenizer):
        self.tokenizer, self.transform = tokenizer, data.Transform(objective.config, tokenizer)
        self._scores = jax.jit(objective.scores)

    def _batch(self, items: Sequence[data.Item]) -> dict[str, np.ndarray]:
        rows = [self.transform(item) for item in items]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def score(self, items: Sequence[data.Item], params: dict) -> list[Result]:
        """Gives perplexity and accuracy of the answers' tokens; intervals by a bootstrap over items."""
        scores = in_batches(self._scores, params, items, self._batch, _BATCH)
        missed, hits, counts = (x.astype(np.float64) for x in scores)
        # A ratio of sums over items: a replicate draws whole items.
        values = np.stack([missed, hits, counts], axis=1)
        ratios = lambda v, w: (w @ v)[:, :2] / (w @ v)[:, 2:]
        low, high = bootstrap_interval(values, ratios)
        total = values.sum(axis=0)
        # Guessing without reading: the commonest token always; and all tokens alike.
        answers = [token for item in items for token in self.tokenizer.ids(item.answer, bos=False, eos=True)]
        common = collections.Counter(answers).most_common(1)[0][1] / len(answers)
        result = Result(
            protocol="answers/next token",
            metrics={"accuracy": 100 * total[1] / total[2], "perplexity": float(np.exp(total[0] / total[2]))},
            items=len(items),
            chance={"accuracy": 100 * common, "perplexity": float(self.tokenizer.vocab_size)},
            interval={"accuracy": (100 * low[1], 100 * high[1]), "perplexity": tuple(np.exp([low[0], high[0]]))},
            notes=(f"{int(total[2])} tokens; perplexity is better where lower",),
        )
        return [result]


def evaluate(run: Any, *, split: str = "") -> list[Result]:
    """Scores the next token of held-out answers.

    Args:
      split: "test" (default) or "train".

    Raises:
      VtjaxError: another split.
    """
    items = data.open_items(run.experiment.method.data)
    sides = {"": items.test, "test": items.test, "train": items.train}
    if split not in sides:
        raise VtjaxError(f"--split={split}: test or train")
    return run.model.scorer.score(sides[split], run.params)
