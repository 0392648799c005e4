"""CLIP on videos: contrastive video-text pretraining (CLIP, arXiv 2103.00020; CLIP4Clip, arXiv 2104.08860)."""

from __future__ import annotations

from typing import Any


class _Written:
    """For the time being: pages and answers by the method's own functions, until they are made of the shared pieces."""

    lines = ()

    def __init__(self, write: Any):
        self.write = self.save = write


def method() -> Any:
    """Gives the method to the registry."""
    import types

    from vtjax.methods.clip import config, evaluate, export, pipeline, predict, report
    from vtjax.methods.method import Method, Stage

    def answer(run, given, answers):
        given = {"live": False, **given}
        return _Written(lambda output: [predict.command(run, types.SimpleNamespace(**given), output)])

    return Method(
        name="clip",
        about="text <-> video search and zero-shot classes",
        config=config.CONFIG,
        stages={"train": Stage(pipeline.build, pipeline.abstract)},
        open=lambda experiment, work: None,
        evaluate=evaluate.evaluate,
        predict=predict.predict,
        answer=answer,
        page=lambda run, results: _Written(lambda path: report.training_report(run, results)),
        check=pipeline.settings.check,
        layouts=export.LAYOUTS,
        published=export.published,
        levers=pipeline.LEVERS if hasattr(pipeline, "LEVERS") else {},
    )
