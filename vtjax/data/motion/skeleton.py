"""The 22-joint SMPL skeleton of HumanML3D: names, tree, rest pose, left/right pairs.

Axes: Y up, and in the rest pose the body faces +Z with its left side towards +X. Lengths in metres.
"""

from __future__ import annotations

import itertools

import numpy as np

JOINTS = 22
JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip

# Kinematic chains, each from its start outwards; together they visit every joint but the pelvis once as a child.
CHAINS = (
    (0, 2, 5, 8, 11),
    (0, 1, 4, 7, 10),
    (0, 3, 6, 9, 12, 15),
    (9, 14, 17, 19, 21),
    (9, 13, 16, 18, 20),
)

_links = {child: parent for chain in CHAINS for parent, child in itertools.pairwise(chain)}
PARENTS = (-1, *(_links[joint] for joint in range(1, JOINTS)))
EDGES = tuple((PARENTS[joint], joint) for joint in range(1, JOINTS))  # (parent, child), for drawing

# The joint whose rotation a joint's local rotation is relative to. Arms start from the root's, not from spine3's.
ROTATION_PARENTS = (-1, *(0 if joint in (13, 14) else PARENTS[joint] for joint in range(1, JOINTS)))

LEFT = (1, 4, 7, 10, 13, 16, 18, 20)
RIGHT = (2, 5, 8, 11, 14, 17, 19, 21)
# joints[:, MIRROR] exchanges left and right; an involution.
MIRROR = tuple(dict(zip(LEFT + RIGHT, RIGHT + LEFT, strict=True)).get(joint, joint) for joint in range(JOINTS))

LEFT_HIP, RIGHT_HIP, LEFT_SHOULDER, RIGHT_SHOULDER = 1, 2, 16, 17
RIGHT_KNEE, RIGHT_ANKLE = 5, 8  # the leg that sets the scale to the target skeleton
LEFT_FEET, RIGHT_FEET = (7, 10), (8, 11)  # ankle, foot: the order of the contact features


def _rest_directions() -> np.ndarray:
    x, y, z = np.eye(3, dtype=np.float32)
    by_joint = {1: x, 2: -x, 3: y, 4: -y, 5: -y, 6: y, 7: -y, 8: -y, 9: y, 10: z, 11: z, 12: y, 13: x, 14: -x, 15: z}
    return np.stack([np.zeros(3, np.float32), *(by_joint.get(joint, -y) for joint in range(1, JOINTS))])


# float32 [22, 3]: unit vector from parent to joint in the rest pose; zeros for the pelvis.
REST_DIRECTIONS = _rest_directions()

# float32 [22]: distance to the parent in the target skeleton (first frame of HumanML3D 000021); 0 for the pelvis.
TARGET_BONE_LENGTHS = np.array(
    [0, .103074, .109883, .131568, .393623, .390188, .143190, .432433, .425643, .057365, .143382, .149419,
     .219360, .137487, .143383, .103039, .131614, .122984, .256840, .263092, .266012, .269876], np.float32,
)  # fmt: skip


def _ancestors() -> np.ndarray:
    paths = np.zeros((JOINTS, JOINTS), np.float32)
    for joint in range(1, JOINTS):
        paths[joint] = paths[PARENTS[joint]]
        paths[joint, joint] = 1
    return paths


# float32 [22, 22]: row j is 1 at the joints on the way from the pelvis (left out) to j, so that
# positions = root + BONE_PATHS @ bones when bones[j] is the vector from j's parent to j.
BONE_PATHS = _ancestors()


def bones_of(joints: np.ndarray) -> np.ndarray:
    """Vectors from each joint's parent to it: float [..., 22, 3] -> same shape; the pelvis has zeros."""
    bones = joints - joints[..., np.maximum(PARENTS, 0), :]
    return bones


def joints_from(root: np.ndarray, bones: np.ndarray) -> np.ndarray:
    """Positions [..., 22, 3] from the root's [..., 3] and the bone vectors [..., 22, 3] of `bones_of`."""
    return root[..., None, :] + BONE_PATHS.astype(bones.dtype) @ bones
