"""Pickles that pickle itself wrote, of every protocol; files that ask for more; damage."""

import collections
import os
import pickle

import numpy as np
import pytest

from vtjax.data.readers.array_pickle import read_arrays, read_oadtr, read_predictions, write_predictions
from vtjax.errors import VtjaxError


@pytest.mark.parametrize("version", range(6))
def test_arrays_of_every_protocol(tmp_path, version):
    rng = np.random.default_rng(0)
    tree = {
        "v1": {"anno": np.eye(22)[[0, 5, 21]], "feature_length": 3},
        "v2": {"rgb": rng.normal(size=(4, 6)).astype(np.float16), "n": np.int64(7), "x": np.float32(0.5)},
        "f": np.asfortranarray(rng.normal(size=(3, 2))),
        "big": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 2)),
        "cut": rng.normal(size=(6, 4))[::2, 1:],
        "words": [("a", 1), {"b": None}],
        "ordered": collections.OrderedDict(k=np.ones(2, bool)),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(tree, protocol=version))
    found = read_arrays(tmp_path / "x.pkl")
    assert found["words"] == tree["words"] and found["v1"]["feature_length"] == 3
    for a, b in [
        (found["v1"]["anno"], tree["v1"]["anno"]), (found["v2"]["rgb"], tree["v2"]["rgb"]), (found["f"], tree["f"]),
        (found["big"], tree["big"]), (found["empty"], tree["empty"]), (found["cut"], tree["cut"]),
        (found["ordered"]["k"], tree["ordered"]["k"]), (found["v2"]["n"], tree["v2"]["n"]),
        (found["v2"]["x"], tree["v2"]["x"]),
    ]:  # fmt: skip
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("thing", [Command(), collections.Counter("ab"), np.array([{}], object)])
def test_anything_else_is_refused(tmp_path, thing, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"v": thing}))
    with pytest.raises(VtjaxError, match="refused|array of objects|array of type"):
        read_arrays(tmp_path / "x.pkl")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pkl"]


def test_damage_is_told(tmp_path):
    content = pickle.dumps({"v": np.arange(9.0)})
    for at in range(2, len(content) - 1, 3):
        (tmp_path / "x.pkl").write_bytes(content[:at])
        with pytest.raises(VtjaxError, match="x.pkl"):
            read_arrays(tmp_path / "x.pkl")
    with pytest.raises(VtjaxError, match="no such file"):
        read_arrays(tmp_path / "y.pkl")


class CfgNode(dict):
    """Stands in for LSTR's configuration."""


CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"


def test_predictions_round_trip_and_lstrs_own(tmp_path, monkeypatch):
    scores = {"a": np.random.default_rng(0).random((5, 3)).astype(np.float32)}
    targets = {"a": np.eye(3)[[0, 1, 1, 2, 0]]}
    path = write_predictions(tmp_path / "p.pkl", scores, targets)
    with path.open("rb") as file:
        own = pickle.load(file)  # as LSTR's tools do
    np.testing.assert_array_equal(own["perframe_pred_scores"]["a"], scores["a"])
    found, truth = read_predictions(path)
    np.testing.assert_array_equal(found["a"], scores["a"])
    np.testing.assert_array_equal(truth["a"], targets["a"])
    import sys
    import types

    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", types.SimpleNamespace(CfgNode=CfgNode))
    tree = {"cfg": CfgNode(A=1), "perframe_pred_scores": scores, "perframe_gt_targets": targets}
    (tmp_path / "lstr.pkl").write_bytes(pickle.dumps(tree))
    np.testing.assert_array_equal(read_predictions(tmp_path / "lstr.pkl")[0]["a"], scores["a"])
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"scores": 1}))
    with pytest.raises(VtjaxError, match="perframe_pred_scores"):
        read_predictions(tmp_path / "bad.pkl")


def test_oadtrs_annotations(tmp_path):
    good = {"anno": np.eye(3)[[0, 1, 2]], "feature_length": 3}
    tree = {"good": good, "gap": {**good, "feature_length": 5}, "bad": {"anno": np.full((2, 3), 0.5)}, "none": 3}
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(tree))
    found, coverage = read_oadtr(tmp_path / "x.pickle", ("bg", "a", "ambiguous"), 2)
    assert sorted(found) == ["gap", "good"] and found["good"].ambiguous == 2 and found["good"].fps is None
    assert coverage.problems.counts() == {"no 'anno' of zeros and ones [L, 3]": 2}
    assert coverage.notes.counts() == {"rows and feature_length differ": 1}
    (tmp_path / "x.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(VtjaxError, match="found a list"):
        read_oadtr(tmp_path / "x.pickle", ("bg", "a"))
