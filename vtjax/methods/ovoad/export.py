"""The released layout of this method's parameters."""

from __future__ import annotations

from typing import Any

from vtjax.weights.layout import lazy

LAYOUTS = (
    lazy(
        "vtjax.methods.ovoad.released",
        "ovoad",
        "OV-OAD: the released grammar, encoder with one cross attention (config.method.model.dntr=encoder_xattn)",
    ),
)


def published(run: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(layout, config as its `save` takes it, parameters) of a run."""
    from vtjax.config import to_dict
    from vtjax.methods.ovoad.encoder import encoder_sizes

    method = run.experiment.method
    config = {"method": to_dict(method), "sizes": to_dict(encoder_sizes(method)), "prefix": ""}
    return "ovoad", config, run.params
