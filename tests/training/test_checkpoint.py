"""Checkpoints: every leaf that does not fit is named, and nothing damaged or half-written is ever restored."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from vtjax.config import Mesh
from vtjax.errors import VtjaxError
from vtjax.sharding.mesh import make_mesh
from vtjax.sharding.partition import flatten
from vtjax.training.checkpoint import Checkpoints, compare, load_params
from vtjax.training.initial import from_checkpoint
from vtjax.training.step import Trainer, params_of


def trainer_on(*shape, **options):
    devices = jax.devices()[: int(np.prod(shape))]
    return Trainer(toy.make_task(**options), make_mesh(Mesh(*shape), devices), seed=3)


@pytest.fixture(scope="module")
def one():
    return trainer_on(1, 1, 1, trainable="^head/")


@pytest.fixture(scope="module")
def state(one):
    return one.init_state()


def at(state, step):
    """A state that differs at each step."""
    trainable = jax.tree.map(lambda x: x + step, state["trainable"])
    return {**state, "step": jnp.asarray(step, jnp.int32), "trainable": trainable}


def plain(state):
    return {k: np.asarray(jax.random.key_data(v) if k == "rng" else v) for k, v in flatten(state).items()}


def same(a, b):
    a, b = plain(a), plain(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def written(folder, state, steps, keep=None):
    store = Checkpoints(folder, keep)
    for step in steps:
        store.save(at(state, step), {"data": {"step": step}})
    store.close()
    return folder


def test_what_the_caller_does_next_is_not_in_the_checkpoint(state, tmp_path):
    store = Checkpoints(tmp_path / "c")
    for step in range(1, 9):
        meta = {"averages": {"loss": [float(step), 1.0]}}
        store.save(at(state, step), meta)
        meta["averages"]["loss"][0] = -1.0
        meta["averages"]["more"] = [0.0, 0.0]
        store.wait()
        assert store.meta(step)["averages"] == {"loss": [float(step), 1.0]}
    store.close()


def test_what_is_saved_comes_back(tmp_path, one, state):
    written(tmp_path / "c", state, [2, 5])
    store = Checkpoints(tmp_path / "c")
    assert store.steps() == [2, 5] and store.meta(2)["data"] == {"step": 2}
    for step, wanted in ((None, 5), (2, 2)):
        restored, meta = store.restore(one.abstract_state, step)
        same(restored, at(state, wanted))
        assert meta["data"] == {"step": wanted} and meta["format"] == 1
        assert jax.tree.structure(restored) == jax.tree.structure(state)
    parameters = load_params(tmp_path / "c", 2)
    assert all(type(x) is np.ndarray for x in flatten(parameters).values())
    same(parameters, params_of(at(state, 2)))
    same(load_params(tmp_path / "c"), params_of(at(state, 5)))
    with pytest.raises(VtjaxError, match=r"no checkpoint of step 3; there are \[2, 5\]"):
        store.restore(one.abstract_state, 3)
    with pytest.raises(VtjaxError, match=r"no checkpoint of step 3; there are \[2, 5\]"):
        load_params(tmp_path / "c", 3)


def test_a_saved_state_is_not_changed_by_what_the_next_step_does_to_its_buffers(tmp_path):
    trainer = trainer_on(1, 1, 1, noise=0.1)
    batch = {k: np.ones(s.shape, s.dtype) for k, s in trainer.abstract_batch.items()}
    state, compiled = trainer.init_state(), trainer.lower().compile()
    store = Checkpoints(tmp_path / "c", keep=None)
    copies = {}
    for _ in range(4):
        state, _ = compiled(state, jax.device_put(batch, trainer.batch_sharding))
        copies[int(state["step"])] = jax.tree.map(np.array, plain(state))
        store.save(state, {})
    store.close()
    for step, copy in copies.items():
        restored, _ = store.restore(trainer.abstract_state, step)
        for name, value in plain(restored).items():
            np.testing.assert_array_equal(value, copy[name], err_msg=f"{step} {name}")


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_another_mesh_restores_it(tmp_path, one, state, shape):
    many = trainer_on(*shape, trainable="^head/")
    written(tmp_path / "one", state, [1])
    on_many, _ = Checkpoints(tmp_path / "one").restore(many.abstract_state)
    same(on_many, at(state, 1))
    expected = many.state_shardings["trainable"]["head"]["kernel"]
    assert on_many["trainable"]["head"]["kernel"].sharding.is_equivalent_to(expected, 1)
    frozen = on_many["frozen"]["body"]["kernel"]
    assert frozen.sharding.is_equivalent_to(many.state_shardings["frozen"]["body"]["kernel"], 2)
    store = Checkpoints(tmp_path / "many")
    store.save(on_many, {})
    store.close()
    same(Checkpoints(tmp_path / "many").restore(one.abstract_state)[0], at(state, 1))
    same(load_params(tmp_path / "many"), params_of(at(state, 1)))


def test_frozen_parameters_are_stored_once(tmp_path, one, state):
    written(tmp_path / "c", state, [1, 2, 3])
    assert (tmp_path / "c_frozen").is_dir()
    names = {n for p in (tmp_path / "c").rglob("_METADATA") for n in ("body", "head") if f"'{n}'" in p.read_text() or f'"{n}"' in p.read_text()}
    assert names == {"head"}
    shutil.rmtree(tmp_path / "c_frozen")
    with pytest.raises(VtjaxError, match="c_frozen: the frozen parameters cannot be read"):
        Checkpoints(tmp_path / "c").restore(one.abstract_state)


def test_differences_are_named():
    spec = jax.ShapeDtypeStruct
    stored = {"a": spec((2,), jnp.float32), "b": spec((2, 3), jnp.float32), "c": spec((), jnp.float32), "e": spec((1,), jnp.int32)}
    wanted = {"a": spec((2,), jnp.float32), "b": spec((3, 3), jnp.float32), "c": spec((), jnp.bfloat16), "d": spec((4,), jnp.int32)}
    assert compare(stored, stored) == []
    assert compare(stored, wanted) == [
        "missing in the checkpoint: d (4,)",
        "unexpected in the checkpoint: e (1,)",
        "other shape: b is (2, 3) in the checkpoint, (3, 3) in the model",
        "other dtype: c is float32 in the checkpoint, bfloat16 in the model",
    ]


def test_a_checkpoint_that_does_not_fit_is_refused_with_every_leaf(tmp_path, one, state):
    written(tmp_path / "c", state, [1])
    abstract = jax.tree.map(lambda x: x, one.abstract_state)
    head = abstract["trainable"]["head"]
    whole = head["bias"].sharding
    head["kernel"] = jax.ShapeDtypeStruct((9,), jnp.float32, sharding=whole)
    head["gain"] = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    head["bias"] = jax.ShapeDtypeStruct((), jnp.bfloat16, sharding=whole)
    with pytest.raises(VtjaxError) as error:
        Checkpoints(tmp_path / "c").restore(abstract)
    for line in (
        "c/1 does not fit this configuration",
        "missing in the checkpoint: trainable/head/gain ()",
        "other shape: trainable/head/kernel is (8,) in the checkpoint, (9,) in the model",
        "other dtype: trainable/head/bias is float32 in the checkpoint, bfloat16 in the model",
    ):
        assert line in str(error.value)
    abstract = {**one.abstract_state, "frozen": {"body": {"kernel": jax.ShapeDtypeStruct((4, 9), jnp.float32, sharding=whole)}}}
    with pytest.raises(VtjaxError, match=r"c_frozen does not fit(.|\n)*other shape: body/kernel is \(4, 8\)"):
        Checkpoints(tmp_path / "c").restore(abstract)


def truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file() and "/d/" in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(folder):
    for path in folder.rglob("*"):
        if path.is_file() and "/d/" in str(path):
            data = bytearray(path.read_bytes())
            data[len(data) // 3 :: 7] = bytes(len(data[len(data) // 3 :: 7]))
            path.write_bytes(bytes(data))


DAMAGE = {
    "truncated data": truncate,
    "garbled data": garble,
    "no metadata": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "broken metadata": lambda folder: (folder / "state" / "_METADATA").write_text("{"),
    "no meta": lambda folder: shutil.rmtree(folder / "meta"),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "nothing": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_latest_is_told_and_the_one_before_it_is_used(tmp_path, one, state, kind, caplog):
    DAMAGE[kind](written(tmp_path / "c", state, [2, 4]) / "4")
    store = Checkpoints(tmp_path / "c")
    with caplog.at_level("WARNING", logger="absl"):
        restored, meta = store.restore(one.abstract_state)
    same(restored, at(state, 2))
    assert meta["data"] == {"step": 2}
    assert any("c/4 cannot be read" in r.getMessage() and "trying the one before it" in r.getMessage() for r in caplog.records)
    with pytest.raises(VtjaxError, match="c/4: cannot be read"):
        Checkpoints(tmp_path / "c").restore(one.abstract_state, 4)
    if kind != "no meta":  # the parameters alone need no meta
        same(load_params(tmp_path / "c"), params_of(at(state, 2)))
        with pytest.raises(VtjaxError, match="c/4: cannot be read"):
            load_params(tmp_path / "c", 4)
    # The run goes on from step 2: what it saves at 3 and 4 replaces what is damaged.
    for step in (3, 4):
        store.save(at(state, step), {"data": {"step": step}})
        store.wait()
        same(load_params(tmp_path / "c"), params_of(at(state, step)))
    same(Checkpoints(tmp_path / "c").restore(one.abstract_state)[0], at(state, 4))


def test_the_damaged_one_is_replaced_also_without_a_save_in_between(tmp_path, one, state):
    truncate(written(tmp_path / "c", state, [2, 4]) / "4")
    store = Checkpoints(tmp_path / "c")
    store.restore(one.abstract_state)
    store.save(at(state, 4), {"data": {"step": 4}})
    store.close()
    same(Checkpoints(tmp_path / "c").restore(one.abstract_state)[0], at(state, 4))


def test_every_checkpoint_damaged_is_an_error(tmp_path, one, state):
    folder = written(tmp_path / "c", state, [2, 4])
    for step in (2, 4):
        truncate(folder / str(step))
    with pytest.raises(VtjaxError, match=r"none of the checkpoints \[2, 4\] can be read"):
        Checkpoints(folder).restore(one.abstract_state)
    with pytest.raises(VtjaxError, match=r"none of the checkpoints \[2, 4\] can be read"):
        load_params(folder)


def test_half_written_folders_are_never_restored(tmp_path, one, state):
    folder = written(tmp_path / "c", state, [2, 4])
    for name in ("6.orbax-checkpoint-tmp", "6.orbax-checkpoint-tmp-17"):
        shutil.copytree(folder / "4", folder / name)
    same(load_params(folder), params_of(at(state, 4)))
    store = Checkpoints(folder)
    assert store.steps() == [2, 4]
    same(store.restore(one.abstract_state)[0], at(state, 4))
    store.save(at(state, 6), {})
    store.close()
    same(load_params(folder), params_of(at(state, 6)))


def test_a_complete_checkpoint_is_not_written_twice(tmp_path, one, state):
    folder = written(tmp_path / "c", state, [2])
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    store = Checkpoints(folder)
    store.save(at(state, 2), {})
    store.close()
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_nothing_there(tmp_path, one):
    with pytest.raises(VtjaxError, match="there is no complete checkpoint"):
        Checkpoints(tmp_path / "c").restore(one.abstract_state)
    for folder in ("c", "absent"):
        with pytest.raises(VtjaxError, match=rf"{folder}: no complete checkpoint; there are \[\]"):
            load_params(tmp_path / folder)


def test_parameters_of_another_run_to_start_from(tmp_path, state):
    written(tmp_path / "run" / "a" / "checkpoints", state, [1])
    written(tmp_path / "run" / "b" / "checkpoints", state, [2])
    params = params_of(state)
    for path in ("run", "run/b", "run/b/checkpoints"):
        same(from_checkpoint(str(tmp_path / path), params), params_of(at(state, 2)))
    same(from_checkpoint(str(tmp_path / "run/a"), params), params_of(at(state, 1)))
    with pytest.raises(VtjaxError, match="config.train.initial='.*absent': no checkpoint there"):
        from_checkpoint(str(tmp_path / "absent"), params)
    other = {**params, "head": {**params["head"], "kernel": np.zeros(9, np.float32)}}
    with pytest.raises(VtjaxError, match=r"does not fit this model(.|\n)*head/kernel is \(8,\) in the checkpoint, \(9,\) in the model"):
        from_checkpoint(str(tmp_path / "run"), other)


def test_a_folder_that_cannot_be_written_is_an_error_of_the_user(tmp_path, state, monkeypatch):
    store = Checkpoints(tmp_path / "c")
    store.save(at(state, 1), {})
    store.wait()

    def fail(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store._manager, "save", fail)
    with pytest.raises(VtjaxError) as error:
        store.save(at(state, 2), {})
    for words in ("step 2 could not be written", "Permission denied", "the last complete one is step 1", "MiB are free"):
        assert words in str(error.value)
    assert pathlib.Path(tmp_path / "c" / "1").is_dir()
