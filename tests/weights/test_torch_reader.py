"""The torch reader: what torch.save writes comes back, and nothing in a file is ever run."""

import collections
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile

import commands
import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.weights.pickle_machine import Inert
from vtjax.weights.torch_reader import SETTINGS, beside_state_dict, read_state_dict, read_torch


def zip_with(tmp_path, obj, name="evil.pt"):
    """A torch-style archive around an arbitrary pickle."""
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", obj if isinstance(obj, bytes) else pickle.dumps(obj, 2))
        archive.writestr("archive/version", "3\n")
    return path


class RunsSystem:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class BuildsState:
    def __reduce__(self):
        return collections.Counter, (), {"state": 1}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_refused_by_name_and_not_run(tmp_path, legacy, protocol):
    target = tmp_path / "owned"
    payload = pickle.dumps({"weight": RunsSystem(target)}, protocol)
    if legacy:
        path = tmp_path / "evil.pth"
        path.write_bytes(payload)
    else:
        path = zip_with(tmp_path, payload)
    with pytest.raises(VtjaxError, match=r"(posix|nt)\.system"):
        read_state_dict(path)
    assert not target.exists()
    pickle.loads(payload)  # the payload does work where it is run
    assert target.exists()


@pytest.mark.parametrize(
    "payload, name",
    [
        (b"cbuiltins\neval\n(V1+1\ntR.", "builtins.eval"),
        (b"(Vtouch x\nios\nsystem\n.", "INST"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", "builtins.exec"),
        (b"\x82\x01.", "EXT1"),
        (b"(cposix\nsystem\nVls\no.", "posix.system"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"P1\n.", "PERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"Vls\n(tR.", "not callable"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}V__code__\nNsb.", "state for a Global"),
        (b"ctorch\nFloatStorage\n(tR.", "torch.FloatStorage"),
        (b"ctorch.serialization\nload\n.", "torch.serialization.load"),
    ],
)
def test_every_way_to_call_is_closed(tmp_path, payload, name):
    with pytest.raises(VtjaxError, match=name):
        read_torch(zip_with(tmp_path, payload))


def test_named_class_is_inert(tmp_path):
    path = zip_with(tmp_path, {"hyper": BuildsState(), "step": 3})
    with pytest.raises(VtjaxError, match="collections.Counter"):
        read_torch(path)
    assert read_torch(path, inert=["collections.Counter"]) == {"hyper": Inert("collections.Counter"), "step": 3}


def test_settings_beside_the_weights_are_read_as_nothing(tmp_path):
    """A released file: weights, optimizer, and an object of a settings class that is a dictionary (yacs)."""
    torch = pytest.importorskip("torch")
    module = types.ModuleType("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config", "__qualname__": "CfgNode"})
    sys.modules.update({"yacs": types.ModuleType("yacs"), "yacs.config": module})
    try:
        settings = module.CfgNode(MODEL=module.CfgNode(ARCH="B/16"), TRAIN=[1, 2])
        settings.frozen = True
        held = {"model": {"w": torch.ones(2)}, "optimizer": {"state": {0: {"step": torch.ones(())}}}, "epoch": 3}
        torch.save({**held, "config": settings, "best": np.float64(0.5)}, tmp_path / "c.pth")
    finally:
        del sys.modules["yacs"], sys.modules["yacs.config"]
    with pytest.raises(VtjaxError, match="yacs.config.CfgNode"):
        read_state_dict(tmp_path / "c.pth")
    found = read_torch(tmp_path / "c.pth", inert=SETTINGS)
    assert found["config"] == Inert("yacs.config.CfgNode") and found["epoch"] == 3
    assert list(read_state_dict(tmp_path / "c.pth", inert=SETTINGS)) == ["w"]
    assert beside_state_dict(tmp_path / "c.pth", SETTINGS) == ("optimizer", "epoch", "config", "best")
    torch.save(held["model"], tmp_path / "plain.pth")
    assert beside_state_dict(tmp_path / "plain.pth") == ()


def test_single_tensor_files(shared_data):
    folder = shared_data / "motion" / "tmr_stats"
    for name in ("humanml3d_mean", "humanml3d_std", "kitml_mean", "kitml_std"):
        value = read_torch(folder / f"{name}.pt")
        assert value.shape == (263,) and value.dtype == np.float32
        with zipfile.ZipFile(folder / f"{name}.pt") as archive:
            member = next(n for n in archive.namelist() if n.endswith("data/0"))
            np.testing.assert_array_equal(value, np.frombuffer(archive.read(member), "<f4"))


def test_not_a_torch_file(tmp_path):
    for content in (b"", b"hello", b"PK\x03\x04 and no more", pickle.dumps([1]), b"\x80\x02" + b"(" * 10):
        path = tmp_path / "x.pt"
        path.write_bytes(content)
        with pytest.raises(VtjaxError, match="x.pt"):
            read_torch(path)
    with pytest.raises(VtjaxError, match="no such file"):
        read_torch(tmp_path / "absent.pt")


def test_tensor_outside_its_storage(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.arange(6.0), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    name = next(n for n in members if n.endswith("data.pkl"))
    assert members[name].count(b"K\x06\x85") == 1
    members[name] = members[name].replace(b"K\x06\x85", b"K\x07\x85")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    with pytest.raises(VtjaxError, match="past its storage"):
        read_torch(tmp_path / "b.pt")


def sample(torch):
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()
    tensors = {n: (torch.arange(24).reshape(2, 3, 4) % 5 - 1).to(getattr(torch, n)) for n in names}
    base = torch.randn(6, 5)
    tensors |= {
        "transposed": base.t(),
        "slice": base[1:4, ::2],
        "shared": base[2],
        "expanded": torch.randn(1, 3).expand(4, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }
    return tensors


def as_numpy(torch, tensor):
    tensor = tensor.detach()
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@pytest.mark.parametrize("legacy", [False, True])
def test_parity_with_torch_save(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    tensors = sample(torch)
    path = tmp_path / "weights.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    ours = read_state_dict(path)
    assert list(ours) == list(tensors)
    for name, tensor in tensors.items():
        expected = as_numpy(torch, tensor)
        assert ours[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        got = ours[name].astype(np.float32) if tensor.dtype == torch.bfloat16 else ours[name]
        np.testing.assert_array_equal(got, expected, err_msg=name)
        assert got.shape == expected.shape
    assert np.shares_memory(ours["transposed"], ours["shared"])
    assert not ours["float32"].flags.writeable


def test_newer_dtypes(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {n: torch.arange(5).to(getattr(torch, n)) for n in ("uint16", "uint32", "uint64", "float8_e4m3fn")}
    torch.save(tensors, tmp_path / "new.pt")
    for name, value in read_state_dict(tmp_path / "new.pt").items():
        assert value.dtype.name == name
        np.testing.assert_array_equal(value.astype(np.float32), np.arange(5, dtype=np.float32))


@pytest.mark.parametrize("legacy", [False, True])
def test_module_state_dict_and_nested_keys(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optim = torch.optim.AdamW(net.parameters())
    net(torch.randn(4, 3)).sum().backward()
    optim.step()
    checkpoint = {"epoch": 3, "state_dict": net.state_dict(), "optimizer": optim.state_dict()}
    checkpoint["ema"] = {"net": net.state_dict()}
    torch.save(checkpoint, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    for key in (None, "state_dict", "ema/net"):
        ours = read_state_dict(tmp_path / "c.pt", key=key)
        assert list(ours) == list(net.state_dict())
        for name, value in net.state_dict().items():
            np.testing.assert_array_equal(ours[name], value.numpy())
    with pytest.raises(VtjaxError, match=r"no entry 'model'.*epoch.*state_dict"):
        read_state_dict(tmp_path / "c.pt", key="model")
    torch.save({"a": {"x": torch.ones(2)}, "b": {"x": torch.ones(2)}}, tmp_path / "two.pt")
    with pytest.raises(VtjaxError, match="a .dict, 1 tensors., b"):
        read_state_dict(tmp_path / "two.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_and_damaged(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save({"w": torch.randn(100)}, buffer, _use_new_zipfile_serialization=not legacy)
    whole = buffer.getvalue()
    path = tmp_path / "cut.pt"
    for end in (len(whole) // 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:end])
        with pytest.raises(VtjaxError, match="cut.pt"):
            read_torch(path)
    if not legacy:
        at = whole.index(torch.load(io.BytesIO(whole))["w"].numpy().tobytes())
        path.write_bytes(whole[: at + 7] + bytes([whole[at + 7] ^ 1]) + whole[at + 8 :])
        with pytest.raises(VtjaxError, match="check sum"):
            read_torch(path)
        assert read_torch(path, verify=False)["w"].shape == (100,)


def test_tar_archives_are_told_what_they_are(tmp_path):
    (tmp_path / "tensors").write_bytes(b"\0" * 100)
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        archive.add(tmp_path / "tensors", "tensors")
    with pytest.raises(VtjaxError, match=r"old.pt: a tar archive. Where torch before 0.1.10"):
        read_torch(tmp_path / "old.pt")


def peak_of(code, *arguments):
    """(what a process printed, its peak memory above that of the libraries, in bytes)."""
    before = "from vtjax.weights.torch_reader import *; from vtjax.errors import VtjaxError\n"
    before += "lines = lambda: [x for x in open('/proc/self/status') if x.startswith('VmHWM')]\n"
    before += "peak = lambda: int(lines()[0].split()[1]) * 1024\n"
    done = commands.run("-c", f"import sys\n{before}start = peak()\n{code}\nprint(peak() - start)", *arguments)
    assert done.returncode == 0, done.stderr
    *said, used = done.stdout.strip().splitlines()
    return "\n".join(said), int(used)


READ = """
try:
    read_torch(sys.argv[1])
except VtjaxError as error:
    print(error)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux's /proc")
def test_files_made_to_fill_memory(tmp_path):
    """A zip bomb, a tensor of a trillion numbers in a storage of one, and strings of claimed terabytes."""
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        with archive.open("a/data/0", "w") as entry:
            for _ in range(300):
                entry.write(bytes(1 << 20))
    repeated = tmp_path / "repeated.pt"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((V" b"storage\nctorch\nFloatStorage\nV0\nVcpu\nI1\ntQI0\n"
    payload = b"(dVw\n" + tensor + b"(I1000000000000\nt(I0\ntI00\nccollections\nOrderedDict\n(tRtRs."
    with zipfile.ZipFile(repeated, "w") as archive:
        archive.writestr("a/data.pkl", payload)
        archive.writestr("a/data/0", bytes(4))
    long = tmp_path / "long.pt"
    long.write_bytes(b"\x80\x04\x8e" + (1 << 42).to_bytes(8, "little") + b"abc")  # BINBYTES8
    array = tmp_path / "array.pt"
    array.write_bytes(b"\x80\x05\x96" + (1 << 42).to_bytes(8, "little") + b"abc")  # BYTEARRAY8
    memo = tmp_path / "memo.pt"
    memo.write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")  # LONG_BINPUT into the two billionth place
    for path, words in (
        (bomb, "compressed to"),
        (array, "BYTEARRAY8 has no place"),
        (memo, "not one that torch.save wrote"),
        (repeated, "claims 4,000,000,000,000 bytes of a storage of 4"),
        (long, "truncated, damaged, or not a torch file"),
    ):
        said, used = peak_of(READ, path)
        assert words in said and path.name in said, said
        assert used < 40 << 20, (path.name, used)


def test_nested_deeper_than_any_checkpoint(tmp_path):
    with pytest.raises(VtjaxError, match="deep.pt"):
        read_torch(zip_with(tmp_path, b"]" * 100_000 + b"a" * 99_999 + b".", "deep.pt"))
    # Shared a billion times over, and read in no time: what is shared stays shared.
    laughs = b"(I1\nI1\ntp0\n" + b"".join(b"0(g%d\ng%d\ntp%d\n" % (i, i, i + 1) for i in range(40)) + b"."
    assert len(read_torch(zip_with(tmp_path, laughs, "laughs.pt"))) == 2


def test_torchscript_is_named(tmp_path):
    path = zip_with(tmp_path, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(VtjaxError, match="TorchScript"):
        read_torch(path)
