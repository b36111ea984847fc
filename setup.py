"""Build the compiled core; everything else is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

HERE = Path(__file__).parent

core = Extension(
    "fastq._core",
    ["fastq/_core.pyx"],
    # what _core.pyx includes: setuptools builds again when one of them is newer
    depends=sorted(str(path.relative_to(HERE)) for path in (HERE / "fastq").glob("_core_*.pxi")),
    extra_compile_args=["-O3"],
)

setup(ext_modules=cythonize([core]))
