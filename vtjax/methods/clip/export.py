"""CLIP's published layout, which a run starts from and goes back to."""

from __future__ import annotations

from typing import Any

from vtjax.weights.layout import FAMILIES

LAYOUTS = (FAMILIES["clip"],)


def published(run: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(layout, config as its `save` takes it, parameters) of a run.

    CLIP's layout has no place for the temporal transformer, which sees the order of frames; the towers are complete
    without it.
    """
    from vtjax.config import to_dict
    from vtjax.encoders.clip import open_encoder

    encoder = open_encoder(run.work)
    return "clip", to_dict(encoder.sizes), dict(encoder.params)
