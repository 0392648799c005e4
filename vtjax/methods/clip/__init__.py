"""CLIP on videos: contrastive video-text pretraining (CLIP, arXiv 2103.00020; CLIP4Clip, arXiv 2104.08860)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtjax.methods.method import Method


def method() -> Method:
    """Gives contrastive video-text pretraining to the registry."""
    from vtjax.encoders.clip_config import ClipConfig, check
    from vtjax.encoders.sizes import STAGE
    from vtjax.methods.clip import embed, evaluate, export, page, pipeline, predict
    from vtjax.methods.method import Method, Stage
    from vtjax.nn.stack import CHEAPEST_FIRST

    return Method(
        name="clip",
        about="text <-> video search and zero-shot classes",
        config=ClipConfig,
        stages={STAGE: Stage(pipeline.build, pipeline.abstract)},
        open=embed.ClipModel,
        evaluate=evaluate.evaluate,
        predict=predict.predict,
        answer=predict.answer,
        page=page.page,
        check=check,
        layouts=export.LAYOUTS,
        published=export.published,
        # Not micro-batches: the negatives are those of the whole batch, which `parts` keeps.
        levers={"method.model.remat": CHEAPEST_FIRST, "method.model.parts": (1, 4, 16, 64)},
    )
