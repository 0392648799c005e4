"""The report of a run: figures, curves, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtjax.evals.protocol import Result
from vtjax.methods.llama import data
from vtjax.methods.llama.predict import predict
from vtjax.report.page import Page

_SHOWN = 8


def page(run: Any, results: Sequence[Result]) -> Page:
    """The report of a run."""
    config, train = run.experiment.method, run.experiment.train
    items = data.open_items(config.data)
    facts = {
        "data": config.data.source, "fingerprint": items.fingerprint[:16], "to learn": len(items.train),
        "to test": len(items.test), "weights from": config.model.pretrained or "random", "learns": config.model.learns,
        "steps": train.steps, "batch": train.batch_size, "seed": run.experiment.seed,
    }  # fmt: skip
    page = Page("LLaMA on texts", "The next token of answers that were never learnt", facts)
    page.section("Held-out answers").table(results).curves(run.work)
    shown = [item for item in items.test if item.prompt][:_SHOWN]
    if shown:
        answers = predict(run, [item.prompt for item in shown])
        rows = [(item.prompt, text, item.answer) for item, text in zip(shown, answers, strict=True)]
        page.section("What it answers").grid(("prompt", "answer", "true answer"), rows)
    return page
