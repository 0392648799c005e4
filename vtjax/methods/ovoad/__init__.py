"""OV-OAD: open-vocabulary online action detection trained from text (Zhao et al., NeurIPS 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtjax.methods.method import Method


def method() -> Method:
    """Gives OV-OAD to the registry."""
    from vtjax.methods.method import Method, Stage
    from vtjax.methods.ovoad import config, embed, encoder, evaluate, export, page, pipeline, predict, stream

    return Method(
        name="ovoad",
        about="per-frame open-vocabulary action scores on a stream",
        config=config.OvoadConfig,
        stages={
            encoder.PRETRAIN: Stage(
                pipeline.build_pretrain,
                pipeline.abstract_pretrain,
                wanted=lambda experiment: encoder.has_stage(experiment.method),
            ),
            "train": Stage(pipeline.build, pipeline.abstract, takes=(encoder.PRETRAIN,)),
        },
        stages_config=config.OvoadStages,
        open=embed.Opened,
        evaluate=evaluate.evaluate,
        predict=predict.predict,
        answer=predict.answer,
        page=page.page,
        check=pipeline.check,
        stream=stream.open_stream,
        watch=predict.watch,
        layouts=export.LAYOUTS,
        published=export.published,
    )
