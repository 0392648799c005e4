"""Published weights to a vtjax checkpoint, and back to safetensors.

    python -m vtjax.convert --from=openai/clip-vit-base-patch32 --to=weights/clip-b32
    python -m vtjax.convert --from=ViT-B-32.pt --to=weights/clip-b32
    python -m vtjax.convert --from=weights/clip-b32 --to=exported --reverse

--from is a folder, a file (.safetensors, .pt, .pth, .bin) or a hub id. The folder written is what a run starts from,
--config.train.initial=weights/clip-b32, or what vtjax.weights.store.read gives to Python. Every tensor must fit: what
is missing, unused or of another shape is an error unless --allow_missing or --allow_unused names it. Nothing that is
read is run.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from vtjax import command_line, methods
from vtjax.errors import VtjaxError, nearest
from vtjax.weights import layout
from vtjax.weights.layout import Layout, Options

DTYPES = ("float32", "bfloat16", "float16")


def layouts() -> dict[str, Layout]:
    """Gives every layout by name, in the order in which they are tried.

    First those that files and settings tell, then those of the methods' parameters, then what tensors' names tell.
    """
    of_methods = [one for one in methods.layouts() if one.name not in layout.FAMILIES]
    return {one.name: one for one in (*layout.BY_SETTINGS, *of_methods, *layout.BY_NAMES)}


__doc__ += "\nKinds of checkpoint, recognised by files, settings and names unless --kind says it:\n\n" + "\n".join(
    f"  {one.name:9}{one.about}" for one in layouts().values()
) + "\n"


def define_flags() -> None:
    """Defines the flags of this main, once."""
    from absl import flags

    if "from" in flags.FLAGS:
        return
    flags.DEFINE_string("from", None, "Folder, file or hub id to read.", required=True)
    flags.DEFINE_string("to", None, "Folder to write.", required=True)
    flags.DEFINE_enum("kind", "auto", ["auto", *layouts()], "What it is, see above; auto looks.")
    flags.DEFINE_bool("reverse", False, "From a vtjax checkpoint or a run of vtjax.train to the published layout.")
    flags.DEFINE_multi_string("allow_missing", [], "Regular expression of tensors that may be missing: random then.")
    flags.DEFINE_multi_string("allow_unused", [], "Regular expression of published tensors that may be left out.")
    flags.DEFINE_multi_string("inert", [], "Class in a torch file, by its full name, that is read as nothing; not run.")
    flags.DEFINE_enum("dtype", None, DTYPES, "Of the parameters; default float32, for llama bfloat16.")
    flags.DEFINE_string("base", "", "peft: folder or hub id of the model that the adapter is for.")
    flags.DEFINE_string("activation", "", "clip: gelu or quick_gelu, for a file that does not say it.")
    flags.DEFINE_bool("scan_layers", False, "clip: stack the layers of each tower, for a model that scans over them.")


def convert(rest: Sequence[str]) -> int:
    """Does what the flags ask for."""
    from absl import flags

    if len(rest) > 1:
        raise VtjaxError(f"unexpected argument {rest[1]!r}: every option is a flag, --name=value; see --help")
    command_line.quiet_libraries()
    value = flags.FLAGS
    target = pathlib.Path(value["to"].value).expanduser()
    if value.reverse:
        return backward(value["from"].value, target, value.kind)
    options = Options(
        layout.Allow(tuple(value.allow_missing), tuple(value.allow_unused)),
        value.dtype or "",
        value.base,
        value.activation,
        value.scan_layers,
    )
    return forward(value["from"].value, target, value.kind, options, tuple(value.inert))


def forward(name: str, target: pathlib.Path, kind: str, options: Options, inert: Sequence[str] = ()) -> int:
    """Reads a published checkpoint, prints the report, and writes `target`.

    Raises:
      VtjaxError: of no known kind, damaged, not safe, a tensor that does not fit, or `target` exists.
    """
    from vtjax.trees import flatten
    from vtjax.weights import store
    from vtjax.weights.source import Source

    chosen = kind

    def fill(folder: pathlib.Path) -> None:
        nonlocal chosen
        source = Source(name, inert)
        chosen = detect(source) if kind == "auto" else kind
        loaded = _layout(chosen).load(source, options)
        print(f"{chosen} from {source.path}: {loaded.report.summary()}")
        leaves = flatten(loaded.params)
        notes = [*loaded.notes, *_rounding(loaded.published_dtype, leaves)]
        if source.beside:
            print(f"  left out, beside the weights: {', '.join(source.beside)}")
        print(f"{len(leaves)} parameters, {sum(x.size for x in leaves.values()):,} numbers", *notes, sep="\n")
        store.write(folder, chosen, loaded.config, loaded.params, source)

    store.whole_or_nothing(target, fill)
    use = f"a run starts from it with --config.train.initial={target}"
    if chosen not in [one.name for one in methods.layouts()]:
        use = f"in Python: kind, config, params = vtjax.weights.store.read({str(target)!r})"
    print(f"wrote {target}; {use}")
    return 0


def backward(name: str, target: pathlib.Path, kind: str) -> int:
    """Writes the published layout of a vtjax checkpoint, or of a run.

    Raises:
      VtjaxError: nothing there to read, of another kind than asked for, or `target` exists.
    """
    from vtjax.trees import flatten
    from vtjax.weights import store

    source = pathlib.Path(name).expanduser()

    def fill(folder: pathlib.Path) -> None:
        stored, config, params = _of_run(source) if store.is_run(source) else store.read(source)
        if kind not in ("auto", stored):
            raise VtjaxError(f"--kind={kind}: {source} is of kind {stored!r}")
        _layout(stored).save(folder, config, params)
        store.copy_carried(store.carried(source), folder)
        print(f"{stored} from {source}: {len(flatten(params))} parameters")

    store.whole_or_nothing(target, fill)
    print(f"wrote {target}: {', '.join(sorted(f.name for f in target.iterdir()))}")
    return 0


def detect(source: Any) -> str:
    """Name of the first layout that a `Source` has.

    Raises:
      VtjaxError: none; what was looked at is named.
    """
    known = layouts()
    for name, one in known.items():
        if one.detect(source):
            return name
    what = "no settings and no single file of weights"
    if "model_type" in source.settings:
        what = f"model_type {source.settings['model_type']!r} in its config.json"
    elif source.names:
        what = f"tensors {', '.join(source.names[:4])}, ..."
    raise VtjaxError(f"{source.path}: of no known kind ({what}); give --kind, one of {', '.join(known)}")


def _layout(kind: str) -> Layout:
    known = layouts()
    if kind not in known:
        raise VtjaxError(f"kind {kind!r}: {nearest(kind, known)}")
    return known[kind]


def _of_run(folder: pathlib.Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(kind, config, parameters) of a finished run.

    Raises:
      VtjaxError: a method without a published layout, or as `vtjax.load`.
    """
    from vtjax.runs import Run

    run = Run(folder)
    if run.method.published is None:
        raise VtjaxError(f"{folder}: a run of {run.experiment.name!r}, which has no published layout to go back to")
    return run.method.published(run)


def _rounding(published: str, leaves: dict[str, Any]) -> list[str]:
    """A line where the published numbers cannot all be kept in the parameters' type."""
    wider = {"float32": ("float16", "bfloat16")}
    kept = sorted({str(x.dtype) for x in leaves.values()})
    rounded = [k for k in kept if published not in ("", k, *wider.get(k, ()))]
    return [f"published as {published}, rounded to {', '.join(rounded)}; see --dtype"] if rounded else []


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script and of `python -m vtjax.convert`."""
    define_flags()
    command_line.run(convert, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
    main()
