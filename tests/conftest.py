"""Suite-wide settings: CPU only, eight fake devices, no network, no silent rank promotion."""

import os
import pathlib
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Compiling is most of the time of the suite: the flags halve it, and what is compiled twice is taken from the cache.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
COMPILED = tempfile.TemporaryDirectory(prefix="vtjax-compiled-")
sys.path.append(str(pathlib.Path(__file__).parent / "support"))

# Shapes and types of arguments and results are checked where they are annotated: in the tests only, as it takes time.
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["vtjax.nn", "vtjax.losses", "vtjax.evals"], "typecheck.checked")

import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", COMPILED.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real data; tests that need it skip with a reason where it is absent."""
    root = pathlib.Path(os.environ.get("VTJAX_SHARED_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real data not found at {root} (set VTJAX_SHARED_DATA)")
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
    """Work directory of `configs/car.py:smoke`, trained and reported by the command; beside it what it printed."""
    import commands

    folder = tmp_path_factory.mktemp("trained")
    arguments = (f"--config={commands.ROOT}/configs/car.py:smoke", f"--work_directory={folder / 'run'}")
    result = commands.run("-m", "vtjax.train", *arguments, cwd=folder, timeout=600)
    assert result.returncode == 0, result.stderr
    (folder / "said.txt").write_text(result.stdout)
    return folder / "run"
