"""What the user allows and asks for, and what a kind of checkpoint gives back."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from vtjax.errors import VtjaxError
from vtjax.weights.report import MatchReport


@dataclasses.dataclass(frozen=True)
class Allow:
    """Regular expressions over whole tensor names, as the report prints them.

    missing: parameters without a published tensor keep random initial values. unused: tensors that are left out.

    Raises:
      VtjaxError: not a regular expression.
    """

    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*self.missing, *self.unused):
            try:
                re.compile(pattern)
            except re.error as error:
                raise VtjaxError(f"{pattern!r} is not a regular expression ({error})") from error


@dataclasses.dataclass(frozen=True)
class Options:
    """allow: misfits that were named. dtype: of parameters; "" is the kind's own. base: peft only, folder or hub id of
    the model. activation: clip only, for files that do not say it. scan_layers: clip only, stack a tower's layers."""

    allow: Allow = Allow()
    dtype: str = ""
    base: str = ""
    activation: str = ""
    scan_layers: bool = False


@dataclasses.dataclass(frozen=True)
class Loaded:
    """params: nested dict. config: what `save` needs, as JSON. report: of the tensors. published_dtype: theirs, or ""
    where it does not matter. notes: lines for the user."""

    params: Mapping[str, Any]
    config: dict[str, Any]
    report: MatchReport
    published_dtype: str = ""
    notes: tuple[str, ...] = ()
