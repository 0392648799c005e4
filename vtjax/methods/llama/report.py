"""The report of a run: figures, curves, and what it answers."""

from __future__ import annotations

import pathlib
from typing import Any

from vtjax.evals.protocol import Result
from vtjax.methods.llama import data
from vtjax.methods.llama.predict import predict
from vtjax.report.curves import draw_curves, read_metrics
from vtjax.report.html import Page

_SHOWN = 8


def training_report(run: Any, results: list[Result]) -> pathlib.Path:
    """Writes report.html into the run's work directory and returns its path."""
    config, train = run.experiment.method, run.experiment.train
    items = data.open_items(config.data)
    facts = {
        "data": config.data.source, "fingerprint": items.fingerprint[:16], "to learn": len(items.train),
        "to test": len(items.test), "weights from": config.model.pretrained or "random", "learns": config.model.learns,
        "steps": train.steps, "batch": train.batch_size, "seed": run.experiment.seed,
    }  # fmt: skip
    page = Page("LLaMA on texts", "The next token of answers that were never learnt", facts)
    page.section("Held-out answers").table(results)
    for file in sorted(run.work.rglob("metrics.jsonl")):
        drawing, left_out = draw_curves(read_metrics(file))
        if drawing:
            page.section("Training", "By step; faint as measured, bold as a running mean.")
            page.figure(drawing, f"Not drawn: {', '.join(left_out)}." if left_out else "", "curves by step")
    shown = [item for item in items.test if item.prompt][:_SHOWN]
    if shown:
        answers = predict(run, [item.prompt for item in shown])
        rows = [(item.prompt, answer, item.answer) for item, answer in zip(shown, answers, strict=True)]
        page.section("What it answers").grid(("prompt", "answer", "true answer"), rows)
    return page.save(run.work / "report.html")
