"""Biovision hierarchy files: the skeleton, the channels, and the joints' positions by forward kinematics.

Channels are applied in the order they are listed (R = R_first R_second R_third, degrees). Position channels replace
the joint's offset, as in the files of CMU, LAFAN1 and Bandai-Namco and in Blender's importer.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from vtjax.data.readers import RawMotion
from vtjax.data.readers.captions import Captions
from vtjax.data.readers.rows import text_lines
from vtjax.errors import Problems, VtjaxError

_CHANNELS = [axis + kind for axis in "XYZ" for kind in ("position", "rotation")]


@dataclasses.dataclass(frozen=True)
class Bvh:
    """names, parents (-1 for the root) and offsets [J, 3] of every joint, end sites included as '<parent>_end';
    channels[j]: its channel names; values float64 [T, C]; fps."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray
    channels: tuple[tuple[str, ...], ...]
    values: np.ndarray
    fps: float

    def joints(self) -> np.ndarray:
        """Global positions float64 [T, J, 3] in the file's unit."""
        frames, column = len(self.values), 0
        positions = np.zeros((frames, len(self.names), 3))
        rotations: list[Rotation] = []
        for joint, (parent, channels) in enumerate(zip(self.parents, self.channels, strict=True)):
            local, turn = np.tile(self.offsets[joint], (frames, 1)), Rotation.identity(frames)
            for channel in channels:
                axis = channel[0]
                if channel.endswith("position"):
                    local[:, "XYZ".index(axis)] = self.values[:, column]
                else:
                    turn = turn * Rotation.from_euler(axis, self.values[:, [column]], degrees=True)
                column += 1
            if parent >= 0:
                local, turn = positions[:, parent] + rotations[parent].apply(local), rotations[parent] * turn
            positions[:, joint] = local
            rotations.append(turn)
        return positions


class _Lines:
    """The non-blank lines of a file with their places."""

    def __init__(self, path: str | os.PathLike):
        self.lines, self.empty, self.at = list(text_lines(path)), f"{path}:0", 0

    def error(self, message: str, where: str = "") -> VtjaxError:
        """An error at `where`, by default at the line that was read last."""
        if not where:
            where = self.lines[min(self.at, len(self.lines)) - 1][0] if self.lines else self.empty
        return VtjaxError(f"{where}: {message}")

    def next(self, expected: str) -> str:
        if self.at >= len(self.lines):
            raise self.error(f"the file ends where {expected} is expected (truncated?)")
        self.at += 1
        return self.lines[self.at - 1][1]

    def keyword(self, word: str) -> str:
        """The rest of the next line, which must start with `word`."""
        line = self.next(repr(word))
        if not line.upper().startswith(word.upper()):
            raise self.error(f"{word!r} is expected, found {line[:40]!r}")
        return line[len(word) :].strip()

    def numbers(self, text: str, count: int, what: str) -> list[float]:
        try:
            values = [float(v) for v in text.split()]
        except ValueError:
            raise self.error(f"{what}: not a number in {text[:40]!r}") from None
        if len(values) != count:
            raise self.error(f"{what}: {count} numbers are expected, found {len(values)}")
        return values


def parse_bvh(path: str | os.PathLike) -> Bvh:
    """Reads one BVH file. Raises VtjaxError naming file and line on anything malformed."""
    lines = _Lines(path)
    lines.keyword("HIERARCHY")
    names, parents, offsets, channels = _hierarchy(lines)
    width = sum(map(len, channels))
    declared = lines.keyword("Frames:")
    if not declared.isdigit() or int(declared) < 1:
        raise lines.error(f"a positive number of frames is expected, found {declared!r}")
    seconds = lines.numbers(lines.keyword("Frame Time:"), 1, "frame time")[0]
    if not seconds > 0:
        raise lines.error(f"the frame time must be positive, found {seconds:g}")
    rows = lines.lines[lines.at :]
    if len(rows) != int(declared):
        problem = "truncated?" if len(rows) < int(declared) else "more rows than declared"
        raise lines.error(f"{declared} frames are declared, {len(rows)} rows follow ({problem})")
    values = np.empty((len(rows), width))
    for index, (where, line) in enumerate(rows):
        try:
            row = np.array(line.split(), np.float64)
        except ValueError:
            raise lines.error("a motion row holds something that is not a number", where) from None
        if len(row) != width:
            raise lines.error(f"the skeleton has {width} channels, this row has {len(row)} numbers", where)
        values[index] = row
    fps = 1 / seconds
    # Frame times are printed with few digits: 0.0083333 means 120.
    fps = float(round(fps)) if abs(fps - round(fps)) < 2e-4 * fps else fps
    return Bvh(tuple(names), tuple(parents), np.array(offsets), tuple(channels), values, fps)


def _hierarchy(lines: _Lines) -> tuple[list[str], list[int], list[list[float]], list[tuple[str, ...]]]:
    """Reads from ROOT to the line MOTION."""
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[tuple[str, ...]] = []
    open_joints: list[int] = []
    while True:
        line = lines.next("a joint, '}' or 'MOTION'")
        word = line.split()[0].upper()
        if word == "}":
            if not open_joints:
                raise lines.error("'}' closes nothing")
            open_joints.pop()
            continue
        if word == "MOTION":
            if open_joints:
                raise lines.error(f"joint {names[open_joints[-1]]!r} is not closed by '}}' before MOTION")
            if not names:
                raise lines.error("no ROOT before MOTION")
            return names, parents, offsets, channels
        if word not in ("ROOT", "JOINT", "END"):
            raise lines.error(f"ROOT, JOINT, End Site, '}}' or MOTION is expected, found {line[:40]!r}")
        if (word == "ROOT") != (not names):
            raise lines.error("exactly one ROOT, and it first, is expected")
        if word != "ROOT" and not open_joints:
            raise lines.error(f"{line[:40]!r} stands outside the root")
        name = line.split(None, 1)[1].split("{")[0].strip() if len(line.split(None, 1)) > 1 else ""
        if word == "END":
            name = f"{names[open_joints[-1]]}_end"
        if not name or (name in names and word != "END"):
            raise lines.error(f"joint name {name!r} is used twice" if name else "a joint name is expected")
        if not line.endswith("{"):
            lines.keyword("{")
        parents.append(open_joints[-1] if open_joints else -1)
        open_joints.append(len(names))
        names.append(name)
        offsets.append(lines.numbers(lines.keyword("OFFSET"), 3, f"offset of {name!r}"))
        channels.append(() if word == "END" else _channel_names(lines, name))


def _channel_names(lines: _Lines, joint: str) -> tuple[str, ...]:
    words = lines.keyword("CHANNELS").split()
    names = tuple(words[1:])
    if not words or not words[0].isdigit() or int(words[0]) != len(names):
        raise lines.error(f"channels of {joint!r}: a count and that many names are expected, found {' '.join(words)!r}")
    for name in names:
        if name not in _CHANNELS:
            raise lines.error(f"channels of {joint!r}: unknown channel {name!r}, known: {', '.join(_CHANNELS)}")
    return names


def bvh_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The file itself, or every .bvh file below a folder in order of path."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() == ".bvh")


def read_bvh(
    path: str | os.PathLike, *, captions: str | None = None, problems: Problems | None = None
) -> Iterator[RawMotion]:
    """Yields every motion of a BVH file or folder, key = path without suffix. Malformed files are counted or raised."""
    root = pathlib.Path(path)
    table = Captions.find(root, captions, problems)
    for file in bvh_files(root):
        key = file.stem if root.is_file() else file.relative_to(root).with_suffix("").as_posix()
        try:
            bvh = parse_bvh(file)
        except VtjaxError as error:
            if problems is None:
                raise
            problems.add(error, "malformed BVH file")
            continue
        yield RawMotion(key, bvh.joints(), bvh.fps, str(file), bvh.names, **table.of(key, file))
