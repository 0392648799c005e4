"""Released layouts of this method's parameters, and which of them a run goes back to."""

from __future__ import annotations

from typing import Any

from vtjax.weights.layout import lazy

_RELEASED = "vtjax.methods.car.released"
LAYOUTS = (
    lazy(
        _RELEASED,
        "tmr",
        "TMR: motion_encoder.pt, text_encoder.pt and motion_decoder.pt, or one file with all three",
        "_tmr",
    ),
    lazy(_RELEASED, "car", "Chronologically Accurate Retrieval: one state dict with its language model", "_car"),
)


def published(run: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(layout, config as its `save` takes it, parameters) of a run: CAR's where the language model is trained too."""
    from vtjax.config import to_dict
    from vtjax.methods.car.text import language_model_config

    method = run.experiment.method
    if "language_model" not in run.params:
        return "tmr", to_dict(method), run.params
    language_model = to_dict(language_model_config(method.text))
    return "car", {"method": to_dict(method), "language_model": language_model}, run.params
