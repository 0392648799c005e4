"""BVH: positions computed by hand, scipy's rotations on a real file, and malformed files named by line."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vtjax.data.readers.bvh import parse_bvh, read_bvh
from vtjax.errors import Problems, VtjaxError

TINY = """HIERARCHY
ROOT Base
{
  OFFSET 9 9 9
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Arm
  {
    OFFSET 1 0 0
    CHANNELS 3 Zrotation Yrotation Xrotation
    End Site
    {
      OFFSET 0 2 0
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.033333
0 0 0 0 0 0 0 0 0
5 6 7 90 0 0 0 0 0
0 0 0 90 0 90 0 0 90
"""


def written(tmp_path, text):
    path = tmp_path / "tiny.bvh"
    path.write_text(text)
    return path


def test_positions_by_hand(tmp_path):
    bvh = parse_bvh(written(tmp_path, TINY))
    assert bvh.names == ("Base", "Arm", "Arm_end") and bvh.parents == (-1, 0, 1) and bvh.fps == 30.0
    expected = [
        [[0, 0, 0], [1, 0, 0], [1, 2, 0]],
        # The root turned by 90 degrees about z: x becomes y, y becomes -x.
        [[5, 6, 7], [5, 7, 7], [3, 7, 7]],
        # Root Rz(90) Ry(90): x -> -z -> -z; the arm's Rx(90) takes y to z, which Ry takes to x and Rz to y.
        [[0, 0, 0], [0, 0, -1], [0, 2, -1]],
    ]
    np.testing.assert_allclose(bvh.joints(), expected, atol=1e-12)


def reference_fk(path):
    """Forward kinematics by scipy on a line-by-line reading that shares nothing with the package."""
    tokens = path.read_text().split()
    position, stack, joints, order = 0, [], [], []
    while tokens[position] != "MOTION":
        word = tokens[position]
        if word in ("ROOT", "JOINT", "End"):
            joints.append({"name": tokens[position + 1], "parent": stack[-1] if stack else -1, "channels": []})
            position += 1
        elif word == "{":
            stack.append(len(joints) - 1)
        elif word == "}":
            stack.pop()
        elif word == "OFFSET":
            joints[-1]["offset"] = np.array(tokens[position + 1 : position + 4], float)
            position += 3
        elif word == "CHANNELS":
            count = int(tokens[position + 1])
            joints[-1]["channels"] = tokens[position + 2 : position + 2 + count]
            order += [(len(joints) - 1, c) for c in joints[-1]["channels"]]
            position += 1 + count
        position += 1
    rows = np.array(tokens[tokens.index("Time:") + 2 :], float).reshape(-1, len(order))
    positions = np.zeros((len(rows), len(joints), 3))
    turns = [None] * len(joints)
    for index, joint in enumerate(joints):
        column = [i for i, (j, _) in enumerate(order) if j == index]
        rotated = [i for i in column if order[i][1].endswith("rotation")]
        axes = "".join(order[i][1][0] for i in rotated)
        turn = Rotation.from_euler(axes, rows[:, rotated], degrees=True) if axes else None
        if joint["parent"] < 0:
            positions[:, index] = rows[:, [i for i in column if order[i][1].endswith("position")]]
            turns[index] = turn
        else:
            above = turns[joint["parent"]]
            positions[:, index] = positions[:, joint["parent"]] + above.apply(joint["offset"])
            turns[index] = above * turn if turn is not None else above
    return positions


def test_real_file_agrees_with_scipy(shared_data):
    path = shared_data / "motion/cmu_12_01_walk.bvh"
    bvh = parse_bvh(path)
    assert bvh.fps == 120.0 and len(bvh.values) == 524 and "LeftToeBase_end" in bvh.names
    np.testing.assert_allclose(bvh.joints(), reference_fk(path), atol=1e-9)


@pytest.mark.parametrize(
    "old, new, line, words",
    [
        ("HIERARCHY", "HIERACHY", 1, "'HIERARCHY' is expected"),
        ("OFFSET 1 0 0", "OFFSET 1 0", 8, "3 numbers are expected, found 2"),
        ("OFFSET 1 0 0", "OFFSET 1 zero 0", 8, "not a number"),
        ("CHANNELS 3 Z", "CHANNELS 4 Z", 9, "a count and that many names"),
        ("Zrotation Yrotation Xrotation", "Zrotation Yrotation Wrotation", 9, "unknown channel 'Wrotation'"),
        ("JOINT Arm", "JOINT Base", 6, "used twice"),
        ("JOINT Arm", "JONT Arm", 6, "found 'JONT Arm'"),
        ("Frames: 3", "Frames: three", 17, "positive number of frames"),
        ("Frame Time: 0.033333", "Frame Time: 0", 18, "must be positive"),
        ("5 6 7 90 0 0 0 0 0", "5 6 7 90 0 0 0 0", 20, "9 channels, this row has 8"),
        ("5 6 7 90 0 0 0 0 0", "5 6 7 90 0 x 0 0 0", 20, "not a number"),
        ("0 0 0 90 0 90 0 0 90\n", "", 18, "3 frames are declared, 2 rows follow"),
        ("  }\n}\nMOTION", "  }\nMOTION", 15, "'Base' is not closed"),
        ("}\nMOTION", "}\n}\nMOTION", 16, "closes nothing"),
    ],
)
def test_malformed_files_name_the_line(tmp_path, old, new, line, words):
    assert TINY.count(old) >= 1
    with pytest.raises(VtjaxError) as error:
        parse_bvh(written(tmp_path, TINY.replace(old, new, 1)))
    assert f"tiny.bvh:{line}: " in str(error.value)
    assert words in str(error.value)


def test_cut_anywhere_in_the_hierarchy_is_an_error(tmp_path):
    lines = TINY.splitlines(keepends=True)
    for count in range(len(lines)):
        with pytest.raises(VtjaxError, match="tiny.bvh"):
            parse_bvh(written(tmp_path, "".join(lines[:count])))


def test_folder_with_captions_and_a_bad_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bvh").write_text(TINY)
    (tmp_path / "sub/b.BVH").write_text(TINY)
    (tmp_path / "sub/c.bvh").write_text(TINY[:200])
    (tmp_path / "a.txt").write_text("A man waves.\nHe waves.#he/PRON waves/VERB#0.0#0.0\n")
    problems = Problems()
    motions = list(read_bvh(tmp_path, problems=problems))
    assert [m.key for m in motions] == ["a", "sub/b"]
    assert motions[0].captions == ("A man waves.", "He waves.") and motions[1].captions == ()
    assert problems.counts() == {"malformed BVH file": 1}
    with pytest.raises(VtjaxError, match="c.bvh"):
        list(read_bvh(tmp_path))
