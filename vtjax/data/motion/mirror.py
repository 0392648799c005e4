"""Left/right mirrored features and captions, as HumanML3D's M-files (Guo et al., CVPR 2022)."""

from __future__ import annotations

import re

import numpy as np

from vtjax.data.motion import skeleton
from vtjax.data.motion.features import FEATURE_BLOCKS
from vtjax.data.motion.validate import as_features

_MIRROR = list(skeleton.MIRROR)
_MIRROR_CHILDREN = [joint - 1 for joint in skeleton.MIRROR[1:]]  # joints 1..21, counted from 0
_FLIP_X = np.array([-1, 1, 1], np.float32)
# Mirroring conjugates a rotation matrix by diag(-1, 1, 1): signs of its first two columns, one after the other.
_FLIP_COLUMNS = np.array([1, -1, -1, -1, 1, 1], np.float32)


def mirror_features(features: np.ndarray) -> np.ndarray:
    """Features (not normalised) of the mirrored motion: float32 [T, 263] -> [T, 263], an involution.

    Equals the features (uniform_skeleton=False) of joints reflected in the plane x = 0 with left and right joints
    exchanged, up to rounding. With retargeting it cannot: the target skeleton's left and right bones differ by up to
    9 mm, so mirrored and then retargeted joints, as HumanML3D's M-files are, have other bone lengths than the mirror
    image of retargeted joints (on 61 CMU clips joint positions differ by 5 mm on average).
    """
    rows = as_features(features).astype(np.float32)
    blocks = {name: rows[:, where] for name, where in FEATURE_BLOCKS.items()}
    count = len(rows)

    def exchanged(name: str, order: list[int], signs: np.ndarray) -> np.ndarray:
        return (blocks[name].reshape(count, len(order), -1)[:, order] * signs).reshape(count, -1)

    return np.concatenate(
        [
            -blocks["root_yaw_velocity"],
            blocks["root_velocity"] * np.array([-1, 1], np.float32),
            blocks["root_height"],
            exchanged("joint_positions", _MIRROR_CHILDREN, _FLIP_X),
            exchanged("joint_rotations", _MIRROR_CHILDREN, _FLIP_COLUMNS),
            exchanged("joint_velocities", _MIRROR, _FLIP_X),
            blocks["foot_contacts"][:, [2, 3, 0, 1]],
        ],
        axis=1,
    )


_SIDE_ENDINGS = "s|y|ies|ward|wards|most|hand|handed|hander|handers|foot|footed|side|arm|leg"
_TURN_PREFIX = r"(?:counter|anti)(?:\s*-\s*|\s+)?"
_SIDED = re.compile(
    rf"(?<![a-z])(?:(?P<idiom>right\s+(?:away|now|angles?|angled)|all\s+right)(?![a-z])"
    rf"|(?P<side>left|right)(?=(?:{_SIDE_ENDINGS})?(?![a-z]))"
    rf"|(?P<counter>{_TURN_PREFIX})?(?P<turn>clockwise)(?![a-z]))",
    re.IGNORECASE,
)


def _like(word: str, model: str) -> str:
    """`word` in the case of `model`: all capitals, capitalised, or lower."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def _exchange(match: re.Match[str]) -> str:
    if match["idiom"]:
        return match[0]
    if match["side"]:
        return _like("right" if match["side"].lower() == "left" else "left", match["side"])
    return _like("clockwise" if match["counter"] else "counterclockwise", match[0])


def mirror_text(text: str) -> str:
    """A caption with left and right exchanged, case kept, so that it tells of the mirrored motion.

    Exchanges left/right as words, before a hyphen and in compounds (leftward, right-handed, leftmost), and clockwise
    with counterclockwise (also counter-clockwise, anti clockwise, anticlockwise, which all become clockwise). Kept:
    "upright" and other words that merely contain one, and the idioms right away, right now, right angle, all right.
    "Left" as a past tense of "leave" cannot be told from the side by a rule and is exchanged, as in HumanML3D.
    """
    return _SIDED.sub(_exchange, text)
