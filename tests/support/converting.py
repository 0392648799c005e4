"""What the tests of conversion share."""

import json
import zipfile

import numpy as np
import pytest
from absl import flags

from vtjax.convert import define_flags, main
from vtjax.trees import flatten, unflatten

OURS = (
    "from", "to", "kind", "reverse", "allow_missing", "allow_unused", "inert", "dtype", "base", "activation",
    "scan_layers",
)  # fmt: skip


@pytest.fixture
def convert(capsys):
    """Runs the main; returns (exit status, what it printed)."""
    define_flags()

    def run(*arguments):
        for name in OURS:
            flags.FLAGS[name].unparse()
        with pytest.raises(SystemExit) as exit_:
            main(["vtjax.convert", *map(str, arguments)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return exit_.value.code or 0, printed.out + printed.err

    return run


def random_like(shapes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    flat = flatten(shapes)
    return unflatten({n: rng.standard_normal(getattr(s, "shape", s)).astype(dtype) for n, s in flat.items()})


def same(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        x, y = np.asarray(value), np.asarray(b[name])
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes(), name


def torch_file(path, tensors):
    """The zip that torch.save writes, made without torch: float32 tensors, one storage each."""

    class Storage:
        def __init__(self, key, size):
            self.key, self.size = key, size

    storages = {name: Storage(str(i), value.size) for i, (name, value) in enumerate(tensors.items())}
    lines = [b"(d"]
    for name, value in tensors.items():
        numbers = lambda items: b"(" + b"".join(b"I%d\n" % n for n in items) + b"t"
        storage = storages[name]
        persistent = b"(V" b"storage\nctorch\nFloatStorage\nV%s\nVcpu\nI%d\ntQ" % (storage.key.encode(), storage.size)
        strides = [s // 4 for s in value.strides]
        call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"I0\n" + numbers(value.shape) + numbers(strides)
        lines.append(b"V%s\n" % name.encode() + call + b"I00\nccollections\nOrderedDict\n(tRtR" + b"s")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"".join(lines) + b".")
        archive.writestr("archive/version", "3\n")
        for name, value in tensors.items():
            archive.writestr(f"archive/data/{storages[name].key}", value.tobytes())


def downloads(folder):
    """Tiny checkpoints as the README names them: a CLIP, and the first two stages of a PiTe with its Vicuna."""
    import jax

    from vtjax.nn.clip import PRESETS as CLIPS
    from vtjax.nn.llama import PRESETS as LLAMAS
    from vtjax.nn.llama import LanguageModel
    from vtjax.nn.lora import LoraConfig, init_lora
    from vtjax.weights import clip, llama, peft
    from vtjax.weights.safetensors_io import write_safetensors

    tiny, lora = CLIPS["tiny"], LoraConfig(rank=2, alpha=4.0)
    clip.save_clip_hf(folder / "clip-vit-base-patch32", tiny, random_like(clip.expected_shapes(tiny)))
    base = folder / "vicuna-7b-v1.5"
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(llama.config_to_hf(LLAMAS["tiny"])))
    adapter = random_like(init_lora(jax.random.key(0), LanguageModel(LLAMAS["tiny"]).shapes(), lora))
    for stage in ("stage1", "stage2"):
        peft.save_peft(folder / "pite" / stage, lora, adapter, "lmsys/vicuna-7b-v1.5")
    head = {"vision_adapter.weight": np.ones((64, 12), np.float32), "vision_adapter.bias": np.ones(64, np.float32)}
    write_safetensors(folder / "pite" / "stage1" / "vision_adapter.safetensors", head)
