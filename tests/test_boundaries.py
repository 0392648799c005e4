"""Rules of the house that a reader cannot see being kept: what may import what, and what no file may hold."""

import ast
import re
import subprocess

import commands
import pytest

PACKAGE = commands.ROOT / "vtjax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(p.relative_to(commands.ROOT)) for p in SOURCES]


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=commands.ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [commands.ROOT / name for name in listed.stdout.splitlines() if (commands.ROOT / name).is_file()]


def imported(path):
    """Full names of the modules that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(path):
    return {name.split(".")[0] for name in imported(path)}


def test_there_is_something_to_check():
    assert len(SOURCES) > 80 and "vtjax/training/loop.py" in NAMES
    assert "flax" in roots(PACKAGE / "nn" / "transformer.py"), "the reader of imports works"
    assert "grain" in roots(PACKAGE / "training" / "pipeline.py")


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_imports(path):
    name, found = str(path.relative_to(PACKAGE)), roots(path)
    assert not found & {"torch", "tensorflow", "torchvision"}, "no other framework at run time"
    assert "tensorflow_datasets" not in found or re.fullmatch(r"data/.*tfds_\w+\.py", name)
    if not (name.startswith("nn/") or re.fullmatch(r"methods/\w+/model\.py", name)):
        assert "flax" not in found, "flax stays under vtjax/nn and methods/*/model.py"
    assert not [m for m in imported(path) if m.startswith("jax.experimental.pjit") or m in ("jax.pmap", "jax.experimental.maps")]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_calls(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("pmap", "pjit"), f"line {node.lineno}"
        if isinstance(node, ast.With):
            for item in node.items:
                named = ast.unparse(item.context_expr)
                assert not re.fullmatch(r"(self\.|\w+\.)*mesh", named), f"line {node.lineno}: with {named}"
    assert len(text.splitlines()) <= 500
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text)


def test_no_machine_path_or_registry_address_is_committed():
    machine = re.compile(r"(?<![\w.\-/~$}{:])/(work|home|root|Users|mnt|tmp)/[\w.]", re.ASCII)
    registry = re.compile(r"https?://[\w.\-]*(pypi|pythonhosted|artifactory|nexus|npmjs|index-url)[\w.\-/]*|--(extra-)?index-url", re.I)
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if (machine.search(line) or registry.search(line)) and path.name != "test_boundaries.py":
                found.append(f"{path.relative_to(commands.ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
import importlib, pkgutil
import vtjax.losses, vtjax.nn
names = [m.name for p in (vtjax.losses, vtjax.nn) for m in pkgutil.iter_modules(p.__path__, p.__name__ + ".")]
names += ["vtjax.training.step", "vtjax.training.task", "vtjax.sharding.partition", "vtjax.methods.car.task", *{more!r}]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_models_losses_and_the_step_need_no_data_library():
    blocked = ["grain", "tensorflow_datasets", "tensorflow", "torch", "orbax", "av", "PIL", "tqdm", "ml_collections"]
    result = commands.run("-c", BLOCKED.format(blocked=blocked, more=["vtjax.methods.car.model", "vtjax.evals.retrieval"]))
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 15


def test_the_package_alone_and_its_configuration_import_no_jax():
    """So that --help and a wrong flag are answered at once."""
    code = "import sys, vtjax, vtjax.config, vtjax.command_line, vtjax.methods; print('jax' in sys.modules or 'numpy' in sys.modules)"
    assert commands.run("-c", code).stdout.strip() == "False"


def test_what_the_package_names_lazily_is_there():
    code = "import vtjax; print(sorted(vtjax._LAZY)); [getattr(vtjax, n) for n in vtjax._LAZY]; vtjax.nothing"
    result = commands.run("-c", code)
    assert result.stdout.startswith("['") and "module 'vtjax' has no attribute 'nothing'" in result.stderr
