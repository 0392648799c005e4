"""OV-OAD: open-vocabulary online action detection trained from text (Zhao et al., NeurIPS 2024; papers/ovoad.md)."""

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

    from vtjax.methods.method import Method, Stage
    from vtjax.methods.ovoad import config, evaluate, export, pipeline, predict, report, stream

    def answer(run, given, answers):
        given = {"live": False, **given}
        return _Written(lambda output: [predict.command(run, types.SimpleNamespace(**given), output)])

    return Method(
        name="ovoad",
        about="per-frame open-vocabulary action scores on a stream",
        config=config.CONFIG,
        stages={
            pipeline.PRETRAIN: Stage(
                pipeline.build_pretrain, lambda e: pipeline.clip_pipeline.abstract(pipeline.pretrain_experiment(e)),
                wanted=lambda e: pipeline.has_stage(e.method),
            ),
            "train": Stage(pipeline.build, pipeline.abstract, takes=(pipeline.PRETRAIN,)),
        },
        stages_config=config.STAGES,
        stream=stream.open_stream,
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
