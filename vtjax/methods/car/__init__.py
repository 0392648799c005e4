"""Chronologically Accurate Retrieval (ECCV 2024) on TMR (ICCV 2023): text and human motion in one space."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtjax.methods.method import Method


def method() -> Method:
    """Gives CAR to the registry."""
    from vtjax.methods.car import config, embed, evaluate, export, page, pipeline, predict
    from vtjax.methods.method import Method, Stage
    from vtjax.nn.stack import CHEAPEST_FIRST

    return Method(
        name="car",
        about="text <-> motion retrieval that respects the order of events",
        config=config.CarConfig,
        stages={"train": Stage(pipeline.build, pipeline.abstract)},
        open=embed.CarModel,
        evaluate=evaluate.evaluate,
        predict=predict.predict,
        answer=predict.answer,
        page=page.page,
        check=config.check,
        layouts=export.LAYOUTS,
        published=export.published,
        levers={"method.model.remat": CHEAPEST_FIRST},  # not micro-batches: negatives come from the item's own
    )
