"""What the pages say about the code is true: paths, names, settings and their defaults, links, versions."""

import dataclasses
import importlib
import pathlib
import re

import pytest

import vtjax
from vtjax import config, methods

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
CODE = r"`((?:\w+/)+\w+\.py)(?:: ([\w.]+))?`((?:, `\w+`(?!:))*)"


def settings(method):
    """{"section.field": default} of a method's configuration, and of the optimiser."""
    tree = {**vars(methods.get(method).config()), "optim": config.Optim()}
    return {
        f"{section}.{field}": value
        for section, part in tree.items()
        if dataclasses.is_dataclass(part)
        for field, value in vars(part).items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_that_a_page_names_exists(page):
    for path, name, more in re.findall(CODE, page.read_text()):
        files = [f for f in (ROOT / path, ROOT / "vtjax" / path) if f.is_file()]
        assert files, f"{page.name}: no file {path}"
        for word in [name, *re.findall(r"\w+", more)] if name else []:
            defined = rf"^\s*(def|class) {word}\b|^{word}\b.*=" if word else ""
            assert re.search(defined, files[0].read_text(), re.M), f"{page.name}: {path} has no {word}"


@pytest.mark.parametrize("method", methods.names())
def test_a_methods_page_names_its_settings(method):
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text()
    known, shown = settings(method), re.findall(r"`((?:config\.method\.)?[a-z_]+\.[a-z_]+)(?:=([\w.-]+))?`", text)
    sections = {name.split(".")[0] for name in known}
    for name, _ in shown:
        name = name.removeprefix("config.method.")
        if name.split(".")[0] in sections:
            assert name in known, f"{method}.md: no setting {name}"


@pytest.mark.parametrize("method", methods.names())
def test_switches_are_listed_with_their_default_first(method):
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text()
    known = settings(method)
    for table in re.findall(r"^\|[^\n]*default first.*?\n\n", text, re.M | re.S):
        for name, value in re.findall(r"`([a-z_]+\.[a-z_]+)=([\w.-]+)`", table):
            default = known[name]
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert value == shown, f"{method}.md: {name} is {shown} by default, not {value}"


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if not link.startswith(("http", "mailto")):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_in_the_sites_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in menu


def test_api_pages_name_modules_that_exist():
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for module in re.findall(r"^::: (\S+)$", page.read_text(), re.M):
            assert importlib.util.find_spec(module) is not None, f"{page.name}: {module}"


def test_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_pictures_are_small():
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures and all(p.stat().st_size < 200_000 for p in pictures)


def test_one_version_everywhere():
    assert f"\nversion: {vtjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {vtjax.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_licence_is_the_declared_one():
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    assert 'license="Apache-2.0"' in (ROOT / "setup.py").read_text()
    assert (ROOT / "vtjax" / "py.typed").is_file()
