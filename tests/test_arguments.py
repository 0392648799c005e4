"""Signatures as Python, help and the command line see them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pytest
from absl import flags

from vtjax import arguments
from vtjax.arguments import LinesOf, PictureSize, Repeated
from vtjax.errors import ArgumentError, VtjaxError


def search(
    run: Any,
    prompts: Annotated[Sequence[str], Repeated("prompt")],
    *,
    text: str = "",
    top: int = 10,
    fps: float | None = None,
    deep: bool = False,
    dtype: Literal["", "float32"] = "",
    names: Annotated[Sequence[str], LinesOf("name", distinct=True)] = (),
    size: Annotated[tuple[int, int] | None, PictureSize()] = None,
    each: Callable[[str], None] | None = None,
) -> tuple:
    """Searches.

    Args:
      prompts: What to look for.
      text: A sentence that
        goes on.
      top: Answers.

    Returns:
      All of it.
    """
    return run, prompts, text, top, fps, deep, dtype, names, size, each


def test_arguments_are_read_off_the_signature():
    listed = {a.name: a for a in arguments.arguments(search)}
    assert list(listed) == ["prompts", "text", "top", "fps", "deep", "dtype", "names", "size"], "a callable is no flag"
    assert listed["prompts"].flag == "prompt" and listed["prompts"].default is arguments.MISSING
    assert [listed[n].kind for n in ("text", "top", "fps", "deep")] == [str, int, float, bool]
    assert listed["dtype"].choices == ("", "float32") and listed["text"].about == "A sentence that goes on."
    assert listed["names"].about == ""


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda run, *names: None, "arguments must be named one by one"),
        (lambda run, name="": None, "argument 'name' has no type"),
    ],
)
def test_signatures_that_cannot_be_flags(function, message):
    with pytest.raises(VtjaxError, match=message):
        arguments.arguments(function)

    def missing(run, each: Callable): ...

    with pytest.raises(VtjaxError, match="argument 'each' is no flag and needs a default"):
        arguments.arguments(missing)


def test_a_bound_function_has_its_signature_and_names_the_nearest_argument():
    call = arguments.bound(search, "the run")
    assert list(inspect.signature(call).parameters)[:2] == ["prompts", "text"] and "Searches." in call.__doc__
    assert call(["a"], top=3)[:4] == ("the run", ["a"], "", 3)
    with pytest.raises(TypeError, match=r"search\(txt=...\): no such argument; did you mean 'text'\?"):
        call(["a"], txt="b")
    with pytest.raises(ArgumentError, match="search: missing a required argument: 'prompts'"):
        call()


def test_values_come_from_flags(tmp_path):
    values = flags.FlagValues()
    (tmp_path / "names.txt").write_text("pour\nstir\n\n", encoding="utf-8-sig")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "FLAGS", values)
        for kind in ("string", "integer", "float", "bool", "enum", "multi_string"):
            define = getattr(flags, f"DEFINE_{kind}")
            patch.setattr(flags, f"DEFINE_{kind}", lambda *a, define=define, **k: define(*a, flag_values=values, **k))
        arguments.define_flags(search)
    values(["x", "--prompt=a", "--prompt=b", "--fps=2.5", f"--names={tmp_path / 'names.txt'}", "--size=640x360"])
    given = arguments.from_flags(search, values)
    assert given == {
        "prompts": ["a", "b"], "text": "", "top": 10, "fps": 2.5, "deep": False, "dtype": "", "names": ["pour", "stir"],
        "size": (360, 640),
    }  # fmt: skip
    values(["x"])
    values.unparse_flags()
    values(["x", "--names=", "--size="])
    values["prompt"].value = []
    with pytest.raises(VtjaxError, match="--prompt is needed: What to look for."):
        arguments.from_flags(search, values)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "--names=.*: no such file; one name a line is expected"),
        (b"", "the list is empty; one name a line is expected"),
        (b"a\n\nb\n", "lines.txt:2: empty line"),
        (b"a\nb\nA\n", "lines.txt:3: 'A' is listed twice, first in line 1"),
        (b"a\n\xff\n", r"not a text file in UTF-8 \(invalid start byte at byte 2\)"),
    ],
)
def test_files_of_lines(tmp_path, content, message):
    path = tmp_path / "lines.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VtjaxError, match=message):
        arguments.read_lines(str(path), "names", LinesOf("name", distinct=True))


@pytest.mark.parametrize("text", ["640", "0x4", "axb", "640x-1"])
def test_sizes(text):
    with pytest.raises(VtjaxError, match="WIDTHxHEIGHT is expected"):
        arguments.picture_size(text, "size")
