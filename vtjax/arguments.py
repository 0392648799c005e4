"""Functions whose keyword arguments are also flags: one signature for Python, `help` and the command line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from vtjax.errors import ArgumentError, VtjaxError, nearest


@dataclasses.dataclass(frozen=True)
class LinesOf:
    """Marks a Sequence[str] that the command line reads from a file.

    Attributes:
      what: one entry, for messages: "text", "class name".
      distinct: whether no entry may be given twice, in whatever case.
    """

    what: str = "text"
    distinct: bool = False


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Marks a Sequence[str] whose flag may be given several times. flag: its name."""

    flag: str


@dataclasses.dataclass(frozen=True)
class PictureSize:
    """Marks a (height, width) in pixels that the command line takes as WIDTHxHEIGHT."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a function that is a flag as well.

    Attributes:
      name: in Python. flag: on the command line.
      kind: str, int, float or bool.
      default: its default; MISSING where it must be given.
      about: its meaning, from the docstring.
      choices: allowed values, () for any.
      marker: LinesOf, Repeated, PictureSize or None.
    """

    name: str
    flag: str
    kind: type
    default: Any
    about: str
    choices: tuple[str, ...] = ()
    marker: Any = None


MISSING = inspect.Parameter.empty


def documented(function: Callable) -> dict[str, str]:
    """Reads what the Args section of a docstring says of each argument."""
    section = re.search(r"^Args:\n((?:[ \t]+\S.*\n?|\n)*)", inspect.getdoc(function) or "", re.M)
    meanings: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else ():
        start = re.match(r" {2}(\w+): (.*)", line)
        if start:
            name, meanings[start[1]] = start[1], start[2].strip()
        elif name and line.strip():
            meanings[name] += f" {line.strip()}"
    return meanings


def _kind(hint: Any) -> tuple[type | None, tuple[str, ...], Any]:
    """(type of the flag or None for an argument of Python alone, its choices, its marker)."""
    marker = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, marker = typing.get_args(hint)[:2]
        return str, (), marker
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [a for a in typing.get_args(hint) if a is not type(None)]
        return _kind(kinds[0]) if len(kinds) == 1 else (None, (), None)
    if typing.get_origin(hint) is typing.Literal:
        return str, typing.get_args(hint), None
    return (hint if hint in (str, int, float, bool) else None), (), None


def arguments(function: Callable) -> list[Argument]:
    """Lists the arguments of a method's function that are flags; the first one is the run.

    Raises:
      VtjaxError: an argument without a type, or without a default where it is no flag.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    meanings, listed = documented(function), []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise VtjaxError(f"argument {parameter.name!r}: arguments must be named one by one")
        if parameter.name not in hints:
            raise VtjaxError(f"argument {parameter.name!r} has no type")
        kind, choices, marker = _kind(hints[parameter.name])
        if kind is None:  # of Python alone
            if parameter.default is MISSING:
                raise VtjaxError(f"argument {parameter.name!r} is no flag and needs a default")
            continue
        flag = marker.flag if isinstance(marker, Repeated) else parameter.name
        about = meanings.get(parameter.name, "")
        listed.append(Argument(parameter.name, flag, kind, parameter.default, about, choices, marker))
    return listed


def define_flags(function: Callable) -> None:
    """Defines an absl flag for every argument of a method's function."""
    from absl import flags

    flags.disclaim_key_flags()  # they are flags of the program that calls this, and among its --help
    for a in arguments(function):
        default = None if a.default is MISSING else a.default
        about = a.about if a.default is not MISSING else f"{a.about} (needed)"
        if isinstance(a.marker, Repeated):
            flags.DEFINE_multi_string(a.flag, [], f"{about} May be given several times.")
        elif isinstance(a.marker, LinesOf):
            flags.DEFINE_string(a.flag, "", f"File with one {a.marker.what} a line: {about}")
        elif isinstance(a.marker, PictureSize):
            flags.DEFINE_string(a.flag, "", f"WIDTHxHEIGHT: {about}")
        elif a.choices:
            flags.DEFINE_enum(a.flag, default, list(a.choices), about)
        else:
            define: dict[type, Callable[..., Any]] = {
                str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool
            }  # fmt: skip
            define[a.kind](a.flag, default, about)


def from_flags(function: Callable, values: Any) -> dict[str, Any]:
    """Arguments of a method's function from parsed flags; files of lines are read.

    Raises:
      VtjaxError: an argument that is needed is not given, or a file that cannot be used.
    """
    given: dict[str, Any] = {}
    for a in arguments(function):
        value = getattr(values, a.flag)
        if isinstance(a.marker, LinesOf):
            value = read_lines(value, a.flag, a.marker) if value else a.default
        elif isinstance(a.marker, PictureSize):
            value = picture_size(value, a.flag) if value else a.default
        elif a.default is MISSING and value in (None, [], ""):
            raise VtjaxError(f"--{a.flag} is needed: {a.about}")
        given[a.name] = value
    return given


def read_lines(path: str, flag: str, entries: LinesOf) -> list[str]:
    """Reads a file of one entry a line, in UTF-8; blank lines at its end do not count.

    Raises:
      VtjaxError: no such file, not UTF-8, no entry, an empty line between two, or an entry given twice.
    """
    file, what = pathlib.Path(path), entries.what
    if not file.is_file():
        raise VtjaxError(f"--{flag}={path}: no such file; one {what} a line is expected")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise VtjaxError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise VtjaxError(f"{path}: the list is empty; one {what} a line is expected")
    places: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            raise VtjaxError(f"{path}:{number}: empty line; one {what} a line is expected")
        if entries.distinct and line.lower() in places:
            raise VtjaxError(f"{path}:{number}: {line!r} is listed twice, first in line {places[line.lower()]}")
        places[line.lower()] = number
    return lines


def picture_size(text: str, flag: str) -> tuple[int, int]:
    """Reads "640x360" as (360, 640), (height, width).

    Raises:
      VtjaxError: another form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.lower())
    if not match:
        raise VtjaxError(f"--{flag}={text}: WIDTHxHEIGHT is expected, such as 640x360")
    return int(match[2]), int(match[1])


def bound(function: Callable, run: Any) -> Callable:
    """`function` with its first argument given, under its real signature and docstring.

    A wrong keyword raises ArgumentError, a TypeError, that names the nearest one.
    """
    signature = inspect.signature(function)
    shown = signature.replace(parameters=list(signature.parameters.values())[1:])

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in shown.parameters:
                known = nearest(name, shown.parameters)
                raise ArgumentError(f"{function.__name__}({name}=...): no such argument; {known}")
        try:
            shown.bind(*args, **options)
        except TypeError as error:
            raise ArgumentError(f"{function.__name__}: {error}") from None
        return function(run, *args, **options)

    call.__signature__ = shown  # type: ignore[attr-defined]
    return call


