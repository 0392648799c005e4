"""Rules of the house that a reader cannot see being kept: what may import what, and what no file may hold."""

import ast
import graphlib
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


# From the top floor down; a room imports rooms of lower floors alone, and of its own floor in one direction.
FLOORS = (
    ("train", "evaluate", "predict", "prepare", "convert", "plan", "bench", "study"),
    ("runs", "planning", "studies"),
    ("methods",),
    ("worlds", "data"),
    ("encoders",),
    ("text",),
    ("weights",),
    ("training", "report", "evals", "losses", "nn"),
    ("sharding", "command_line", "arguments"),
    ("hosts", "config"),
    ("remote", "files", "errors", "trees", "arrays", ""),
)
SHARED = ("worlds", "data", "encoders", "text", "weights", "training", "report", "evals", "losses", "nn", "sharding", "hosts")


def module_of(path):
    parts = path.relative_to(commands.ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def graph():
    """Module -> modules of the package that it imports anywhere, but for those that only a type checker sees."""
    edges = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        typed = {id(n) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                 for n in ast.walk(node)}  # fmt: skip
        named = set()
        for node in ast.walk(tree):
            if id(node) in typed:
                continue
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named |= {full if (full := f"{node.module}.{a.name}") in MODULES else node.module for a in node.names}
        edges[module] = {name for name in named if name in MODULES} - {module}
    return edges


EDGES = graph()


def room(module):
    return (module.split(".") + [""])[1]


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} == {name for floor in FLOORS for name in floor}


def test_imports_run_down():
    level = {name: -number for number, floor in enumerate(FLOORS) for name in floor}
    upward = [f"{a} -> {b}" for a, names in EDGES.items() for b in names if level[room(b)] > level[room(a)]]
    assert not upward


def circles(edges):
    try:
        list(graphlib.TopologicalSorter(edges).static_order())
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_circle_of_files_and_none_of_rooms():
    assert not circles(EDGES)
    rooms = {}
    for module, names in EDGES.items():
        rooms.setdefault(room(module), set()).update(room(name) for name in names)
    assert not circles({name: below - {name} for name, below in rooms.items()})


def method_of(module):
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[1] == "methods" and (PACKAGE / "methods" / parts[2]).is_dir() else ""


def test_no_method_imports_another():
    across = [f"{a} -> {b}" for a, names in EDGES.items() for b in names if method_of(a) and method_of(b) not in ("", method_of(a))]
    assert not across


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_room_has_two_users(name):
    """What one method alone needs lies in its folder: each other room serves two methods at least, directly or not."""
    served = set()
    for method in (p.name for p in (PACKAGE / "methods").iterdir() if (p / "__init__.py").is_file()):
        reached, queue = set(), [m for m in MODULES if method_of(m) == method]
        while queue:
            module = queue.pop()
            for below in EDGES[module] - reached:
                if method_of(below) in ("", method):
                    reached.add(below)
                    queue.append(below)
        served |= {method} if name in map(room, reached) else set()
    assert len(served) > 1


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
