"""Package metadata. All literals, nothing is detected: a wheel built anywhere is the same wheel."""

from pathlib import Path

from setuptools import setup

setup(
    name="fastplan",
    version="0.1.0",
    description="Optimization planning for 3D ConvNets: train video networks along a planned path of states",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "fastplan",
        "fastplan.data",
        "fastplan.models",
        "fastplan.planner",
        "fastplan.report",
        "fastplan.train",
        "fastplan.workers",
        "fastplan.benchmarks",
        "fastplan.benchmarks.gpu_check",
        "fastplan.configs",
        "fastplan.kernels",
    ],
    # The top-level folders `kernels`, `configs` and `benchmarks` install inside the fastplan package:
    # `kernels` alone is the import name of another package on PyPI.
    package_dir={
        "fastplan": "fastplan",
        "fastplan.benchmarks": "benchmarks",
        "fastplan.configs": "configs",
        "fastplan.kernels": "kernels",
    },
    package_data={
        "fastplan.benchmarks": ["results/*"],
        "fastplan.configs": ["*.yaml", "state_graphs/*.yaml", "plans/*.yaml"],
    },
    install_requires=[
        "av>=15",
        "fsspec>=2024.2",
        "matplotlib>=3.8",
        "numba>=0.60",
        "numpy>=1.26",
        "nvidia-dali-cuda120>=2.4",
        "platformdirs>=4",
        "pyarrow>=16",
        "pydantic>=2.7",
        "pyyaml>=6",
        "rich>=13.7",
        "safetensors>=0.4",
        "scipy>=1.11",
        "tensorboard>=2.16",
        "torch>=2.11",
        "triton>=3.6; platform_system == 'Linux'",
    ],
    extras_require={
        "cuda13": ["nvidia-dali-cuda130>=2.4"],
        "ray": ["ray>=2.40"],
        "http": ["aiohttp>=3.9"],
        "dev": [
            "aiohttp>=3.9",
            "hypothesis>=6.100",
            "import-linter>=2.0",
            "mypy>=1.10",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.7",
            "ray>=2.40",
            "ruff>=0.6",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["fastplan = fastplan.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
