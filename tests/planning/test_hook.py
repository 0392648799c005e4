"""What every method offers to plans: its task without data, and settings that change memory and speed alone."""

import operator

import commands
import jax
import pytest

from vtjax import methods
from vtjax.config import load_config_file
from vtjax.planning.search import with_settings

NAMES = [name for name in methods.names() if (commands.ROOT / "configs" / f"{name}.py").is_file()]


def smoke(name):
    experiment = load_config_file(f"{commands.ROOT}/configs/{name}.py:smoke")
    experiment.compute_dtype = "float32"
    return experiment


@pytest.mark.parametrize("name", NAMES)
def test_a_task_without_data(name):
    task = methods.get(name).abstract(smoke(name))
    batch = task.batch_spec()
    params = jax.eval_shape(task.init, jax.random.key(0), batch)
    metrics = jax.eval_shape(lambda p, b: task.loss(p, b, jax.random.key(0), True), params, batch)
    assert metrics["loss"][0].shape == () and task.rules and not len(task.source)


@pytest.mark.parametrize("name", NAMES)
def test_levers_change_neither_parameters_nor_data(name):
    method, experiment = methods.get(name), smoke(name)

    def shapes(experiment):
        task = method.abstract(experiment)
        params = jax.eval_shape(task.init, jax.random.key(0), task.batch_spec())
        return jax.tree.map(lambda x: (x.shape, x.dtype), params)

    expected = shapes(experiment)
    for field, values in method.levers.items():
        assert len(set(values)) == len(values) > 1
        operator.attrgetter(field)(experiment)  # there is such a field
        changed = with_settings(experiment, {field: values[-1]})
        assert shapes(changed) == expected
        assert method.abstract(changed).example_spec == method.abstract(experiment).example_spec
