import re
import xml.etree.ElementTree

import numpy as np
import pytest

from vtjax.data.motion.features import joints_to_features
from vtjax.data.motion.skeleton import LEFT, RIGHT
from vtjax.errors import VtjaxError
from vtjax.methods.car import scene, skeleton
from vtjax.report.style import colour


def test_projection_keeps_the_vertical_and_centres_each_pose(walker):
    joints = walker()
    screen, depth = skeleton.project(joints)
    np.testing.assert_allclose(screen[:, 0, 0], 0, atol=1e-6)
    tilt = np.cos(np.deg2rad(9))
    np.testing.assert_allclose(screen[:, 0, 1], joints[:, 0, 1] * tilt, atol=1e-6)
    # the projection is a rotation: with depth, distances come out right
    whole = np.concatenate([screen, depth[..., None] * tilt], axis=-1)
    whole[..., 2] += joints[..., 1] * np.sin(np.deg2rad(9))
    np.testing.assert_allclose(
        np.linalg.norm(whole[0, 20] - whole[0, 8], axis=-1), np.linalg.norm(joints[0, 20] - joints[0, 8]), rtol=1e-5
    )


def test_camera_follows_the_first_frame_and_then_stands_still(walker):
    joints = walker(speed=0)
    turn = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], float)  # a quarter about Y
    np.testing.assert_allclose(skeleton.project(joints @ turn.T)[0], skeleton.project(joints)[0], atol=1e-6)
    half = joints.copy()
    half[20:] = half[20:] @ turn.T
    screen, _ = skeleton.project(half)
    assert np.abs(screen[20] - screen[0]).max() > 0.1


def test_forward_is_to_the_right_and_left_limbs_are_far(walker):
    screen, depth = skeleton.project(walker(speed=0))
    feet, ankles = screen[0, [10, 11], 0], screen[0, [7, 8], 0]
    assert (feet > ankles).all()  # toes point forward
    assert depth[0, list(RIGHT)].mean() > depth[0, list(LEFT)].mean()


def test_svg_poses_lie_along_time(walker):
    svg = skeleton.filmstrip_svg(walker(81), poses=5, bounds=((0, 40), (40, 81)), labels=("<walks>", "stops & stands"))
    tree = xml.etree.ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    heads = [float(e.get("cx")) for e in tree.iter(f"{space}ellipse") if e.get("fill") == colour("body")]
    assert len(heads) == 5
    np.testing.assert_allclose(np.diff(heads), np.diff(heads)[0], atol=1.5)
    boxes = [e for e in tree.iter(f"{space}rect")]
    assert [box.find(f"{space}title").text for box in boxes] == ["<walks>", "stops & stands"]
    middle = float(boxes[1].get("x"))
    assert heads[2] - 12 < middle < heads[2] + 12  # the second event starts at the middle pose
    words = ["".join(e.itertext()) for e in tree.iter(f"{space}text")]
    assert "0 s" in words and "4 s" in words and "from above, 4.0 m" in words


def test_path_is_drawn_only_for_a_body_that_travels(walker):
    assert "from above" in skeleton.filmstrip_svg(walker(41, speed=1))
    assert "from above" not in skeleton.filmstrip_svg(walker(41, speed=0.1))


def test_forward_path_runs_to_the_right(walker):
    lines = [s for s in skeleton._path(walker(), (), 0, 0, 80) if isinstance(s, scene.Line)]
    start, end = lines[0].points[0], lines[0].points[-1]
    assert end[0] - start[0] > 40 and abs(end[1] - start[1]) < 1e-6


def test_long_labels_are_cut_but_kept_as_titles(walker):
    label = "a very long description of one short event that cannot fit"
    svg = skeleton.filmstrip_svg(walker(100), bounds=((0, 20), (20, 100)), labels=(label, "rest"))
    assert f"<title>{label}</title>" in svg and svg.count(label) == 1
    assert "a very" in re.sub("<title>.*?</title>", "", svg)


def test_animation(walker):
    tree = xml.etree.ElementTree.fromstring(skeleton.animation_svg(walker(61), keyframes=9))
    space = "{http://www.w3.org/2000/svg}"
    moves = list(tree.iter(f"{space}animate"))
    assert len(moves) == 7  # five chains and the head's two coordinates
    assert all(len(move.get("values").split(";")) == 9 and move.get("dur") == "3.05s" for move in moves)
    assert all(len(pose.split()) == 5 for pose in moves[0].get("values").split(";"))
    assert "<animate" not in skeleton.animation_svg(walker(1))


def test_features_and_joints_give_the_same_picture(walker):
    motion = walker(30, speed=0.5)
    joints = skeleton.as_joints(joints_to_features(motion))
    assert joints.shape == (29, 22, 3)
    rigid = [joint for joint in range(22) if joint != 20]  # the moving wrist changes its bone's length, features do not
    drawn, expected = skeleton.project(joints)[0], skeleton.project(motion[:29])[0]
    np.testing.assert_allclose(drawn[:, rigid], expected[:, rigid], atol=2e-3)


def test_degenerate_motions_are_drawn():
    assert skeleton.filmstrip_svg(np.zeros((1, 22, 3))).startswith("<svg")
    assert skeleton.filmstrip_svg(np.zeros((3, 22, 3))).startswith("<svg")


def test_wrong_inputs(walker):
    motion = walker(20)
    for match, call in [
        (r"got \[20, 21, 3\]", lambda: skeleton.filmstrip_svg(motion[:, :21])),
        (r"got \[0, 22, 3\]", lambda: skeleton.filmstrip_svg(motion[:0])),
        ("NaN", lambda: skeleton.animation_svg(motion * np.nan)),
        ("frames 10 to 25, but the motion has 20", lambda: skeleton.filmstrip_svg(motion, bounds=((10, 25),))),
    ]:
        with pytest.raises(VtjaxError, match=match):
            call()
