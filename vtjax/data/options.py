"""Dataclasses of options whose fields are command-line flags as well, so that no option stands twice."""

from __future__ import annotations

import dataclasses
from typing import Any


def flag(kind: str, value: Any, text: str, /, *, required: bool = False, **more: Any) -> Any:
    """Returns a dataclass field that `define_flags` makes a flag of.

    Args:
      kind: the flag's kind, "x" for absl's DEFINE_x.
      value: the default of the field, and of the flag unless `more` has another `default`; ... for none.
      text: the flag's help.
      required: whether the command line must give the flag.
      more: further arguments of absl's function, such as enum_values or lower_bound.
    """
    arguments = {"default": None if required else value, "help": text, "required": required} | more
    metadata = {"kind": kind, "flag": arguments}
    return dataclasses.field(default=dataclasses.MISSING if value is ... else value, metadata=metadata)


def define_flags(options: type, module: str) -> None:
    """Defines the flags of a dataclass as key flags of `module`, the program's name."""
    from absl import flags

    for field in dataclasses.fields(options):
        if "flag" in field.metadata:
            define = getattr(flags, f"DEFINE_{field.metadata['kind']}")
            define(field.name, module_name=module, **field.metadata["flag"])


def from_flags(options: type, flags: Any, **others: Any) -> Any:
    """Makes the dataclass of the values of its flags; others: fields that the flags do not give as they are."""
    names = (field.name for field in dataclasses.fields(options) if "flag" in field.metadata)
    return options(**{name: getattr(flags, name) for name in names} | others)
