"""Checks of motions before anything is computed from them, with messages that say what would be right.

A defect either raises `VtjaxError` or, where a `Problems` is given, is counted there and the motion left out.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from vtjax.data.motion import skeleton
from vtjax.data.motion.clip import FEATURES, FPS, Caption
from vtjax.errors import Problems, VtjaxError

# Hip to knee to ankle. Adults measure 0.7 to 0.9 m; the margin takes children and odd skeletons, and the ranges of
# the units below do not meet.
LEG_METRES = (0.55, 1.15)
REFERENCE_LEG_METRES = float(skeleton.TARGET_BONE_LENGTHS[[skeleton.RIGHT_KNEE, skeleton.RIGHT_ANKLE]].sum())
UNITS = {
    "metres": 1.0,
    "centimetres": 0.01,
    "millimetres": 0.001,
    "inches": 0.0254,
    "CMU BVH units (0.45 to the inch)": 0.0254 / 0.45,
}


@dataclasses.dataclass(frozen=True)
class Defect:
    """`reason` is the same for every item of its kind (it groups reports); `detail` is about this one."""

    reason: str
    detail: str


def joints_defect(
    joints: np.ndarray,
    fps: float = FPS,
    *,
    joint_count: int | None = skeleton.JOINTS,
    min_frames: int = 2,
    max_frames: int | None = None,
) -> Defect | None:
    """First defect of joints [T, J, 3] at `fps` frames per second, or None.

    joint_count None admits any number of joints (the source skeleton of a joint map).
    """
    joints = np.asarray(joints)
    if joints.dtype.kind not in "fiu":
        return Defect("joints must be real numbers", f"dtype {joints.dtype}")
    if joints.ndim != 3 or joints.shape[-1] != 3:
        return Defect("joints must have the shape [frames, joints, 3]", f"shape {list(joints.shape)}")
    if joint_count is not None and joints.shape[1] != joint_count:
        return Defect(
            f"wrong joint count: {joint_count} joints are expected; name a joint map for another skeleton",
            f"shape {list(joints.shape)}: {joints.shape[1]} joints",
        )
    if (defect := _frames_defect(len(joints), min_frames, max_frames)) is not None:
        return defect
    if not np.isfinite(fps) or not 1 <= fps <= 1000:
        return Defect("the frame rate must lie between 1 and 1000 frames per second", f"{fps:g}")
    names = skeleton.JOINT_NAMES if joint_count == skeleton.JOINTS else range(joints.shape[1])
    if (defect := _finite_defect(np.isfinite(joints).all(axis=-1), "joint", names)) is not None:
        return defect
    if joint_count == skeleton.JOINTS and leg_length(joints) < 1e-6:
        return Defect("bones of no length: hip, knee and ankle are one point", "leg length 0")
    return None


def features_defect(
    features: np.ndarray, *, min_frames: int = 1, max_frames: int | None = None, width: int = FEATURES
) -> Defect | None:
    """First defect of features [T, 263], or None."""
    features = np.asarray(features)
    if features.dtype.kind != "f":
        return Defect("features must be floating point", f"dtype {features.dtype}")
    if features.ndim != 2 or features.shape[1] != width:
        hint = " (251 is KIT's 21-joint layout, which is not read)" if features.shape[-1:] == (251,) else ""
        return Defect(f"features must have the shape [frames, {width}]", f"shape {list(features.shape)}{hint}")
    if (defect := _frames_defect(len(features), min_frames, max_frames)) is not None:
        return defect
    return _finite_defect(np.isfinite(features), "feature", range(width))


def _finite_defect(finite: np.ndarray, column: str, names: Sequence) -> Defect | None:
    """Of finite [frames, columns]: how many frames are not, and where the first one is."""
    if finite.all():
        return None
    frame, place = np.argwhere(~finite)[0]
    count = int((~finite.all(axis=1)).sum())
    first = f"the first is {frame}, {column} {names[place]}"
    return Defect("NaN or infinite values", f"{count} of {len(finite)} frames, {first}")


def _frames_defect(frames: int, min_frames: int, max_frames: int | None) -> Defect | None:
    if frames == 0:
        return Defect("no frames", "0 frames")
    if frames == 1 and min_frames > 1:
        return Defect("1-frame clip: a motion needs at least 2 frames", "1 frame")
    if frames < min_frames:
        return Defect(f"too short: at least {min_frames} frames are needed", f"{frames} frames")
    if max_frames is not None and frames > max_frames:
        return Defect(f"too long: at most {max_frames} frames are allowed", f"{frames} frames")
    return None


def admit(defect: Defect | None, where: str, problems: Problems | None = None) -> bool:
    """True where there is no defect; else counts it in `problems` and returns False, or raises VtjaxError."""
    if defect is None:
        return True
    if problems is None:
        raise VtjaxError(f"{where}: {defect.reason} ({defect.detail})")
    problems.add(f"{where}: {defect.detail}", defect.reason)
    return False


def check_joints(joints: np.ndarray, where: str, *, problems: Problems | None = None, **limits) -> bool:
    """`joints_defect` (same keywords), counted or raised."""
    return admit(joints_defect(joints, **limits), where, problems)


def check_features(features: np.ndarray, where: str, *, problems: Problems | None = None, **limits) -> bool:
    """`features_defect` (same keywords), counted or raised."""
    return admit(features_defect(features, **limits), where, problems)


def as_joints(joints: np.ndarray, where: str = "joints", *, min_frames: int = 2) -> np.ndarray:
    """`joints` as a floating array [T, 22, 3] without a defect, else VtjaxError naming `where`."""
    check_joints(joints, where, min_frames=min_frames)
    joints = np.asarray(joints)
    return joints if joints.dtype.kind == "f" else joints.astype(np.float32)


def as_features(features: np.ndarray, where: str = "features") -> np.ndarray:
    """`features` as a floating array [T, 263], T >= 1, without a defect, else VtjaxError naming `where`."""
    check_features(features, where)
    return np.asarray(features)


def leg_length(joints: np.ndarray) -> float:
    """Median over frames of hip to knee to ankle of joints [T, 22, 3], the mean of both sides, in their own unit."""
    joints = np.asarray(joints, np.float64)
    thigh = np.linalg.norm(joints[:, [4, 5]] - joints[:, [1, 2]], axis=-1)
    shin = np.linalg.norm(joints[:, [7, 8]] - joints[:, [4, 5]], axis=-1)
    return float(np.median((thigh + shin).mean(-1)))


def guess_unit(joints: np.ndarray) -> tuple[str, float]:
    """The unit in which legs of joints [T, 22, 3] have a human length: (its name, metres per unit).

    Where no known unit fits, the scale that gives the reference skeleton's legs, named as such.
    """
    leg = leg_length(joints)
    for name, metres in UNITS.items():
        if LEG_METRES[0] <= leg * metres <= LEG_METRES[1]:
            return name, metres
    return "an unknown unit (legs scaled to 0.82 m)", REFERENCE_LEG_METRES / leg


def scale_warning(joints: np.ndarray) -> str:
    """What is implausible about joints [T, 22, 3] taken as metres with Y up; empty when nothing is."""
    name, metres = guess_unit(joints)
    if metres != 1.0:
        return f"legs measure {leg_length(joints):.3g}: the joints look like {name}, not metres"
    upright = np.asarray(joints, np.float64)[:, 15] - np.asarray(joints, np.float64)[:, [7, 8]].mean(1)
    x, y, z = np.abs(upright.mean(0))
    if max(x, z) > 3 * y:
        return "the head is not above the feet: is Y up, or does the person lie down throughout?"
    return ""


def caption_rows(caption: Caption, frames: int) -> tuple[int, int]:
    """Rows [begin, end) of features that a caption describes, as TMR counts them: int(20 start), int(20 end)."""
    begin = 0 if caption.start is None else int(caption.start * FPS)
    end = frames if caption.end is None else int(caption.end * FPS)
    return min(begin, frames), min(end, frames)


def load_array(path: str | os.PathLike) -> np.ndarray:
    """Reads one .npy file. Raises VtjaxError where it is missing, truncated, not numpy's, or would need pickle."""
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            shape, dtype, offset = _npy_header(file, path)
            have, need = path.stat().st_size, offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if have < need:
                raise VtjaxError(
                    f"{path}: truncated npy: the header promises {need} bytes for {dtype} {list(shape)}, "
                    f"the file has {have}; copy or make it again"
                )
            file.seek(0)
            return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise VtjaxError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise VtjaxError(f"{path}: is a folder, a .npy file is expected") from None


def _npy_header(file, path: pathlib.Path) -> tuple[tuple[int, ...], np.dtype, int]:
    try:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
    except ValueError as error:
        kind = "truncated npy" if path.stat().st_size < 128 else "not a .npy file"
        raise VtjaxError(f"{path}: {kind}: {error}") from None
    if dtype.hasobject:
        raise VtjaxError(f"{path}: holds pickled objects, which are never loaded; save a plain array of numbers")
    return shape, dtype, file.tell()


def load_archive(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads every array of one .npz file. Raises VtjaxError where it is missing, damaged or would need pickle."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise VtjaxError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise VtjaxError(f"{path}: truncated or damaged npz ({error}); copy or make it again") from None
    except (ValueError, AttributeError) as error:
        raise VtjaxError(f"{path}: not an npz archive of plain number arrays ({error})") from None
