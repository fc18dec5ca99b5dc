"""Put the two Delta JARs into this environment's pyspark/jars, where every session, spark-submit and worker finds them.

Run with the environment's own Python. The delta-spark package brings no JARs. They are resolved once per user, by the
Ivy inside Spark (no Maven needed), into the user's cache; every further environment takes them from there, offline.
Only these two: Spark has their dependencies, and the usual way would put 31 other JARs in front of Spark's own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

SPARK_AND_SCALA = "4.0_2.13"


class Jar(NamedTuple):
    artifact: str
    version: str
    num_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


JARS = (
    Jar(
        f"delta-spark_{SPARK_AND_SCALA}",
        "4.4.0",
        9_469_662,
        "49e899667168b9412f83cbe894ce264107d7b896d6c5e12edca4e216845c1104",
    ),
    Jar("delta-storage", "4.4.0", 113_863, "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc"),
)

# Runs in a process of its own: a plain local session that asks Ivy for exactly one artefact, without its dependencies.
RESOLVE = """
import sys
from pyspark.sql import SparkSession

ivy_folder, *coordinates = sys.argv[1:]
builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
spark = builder.config("spark.driver.host", "127.0.0.1").config("spark.jars.ivy", ivy_folder).getOrCreate()
for coordinate in coordinates:
    spark.sparkContext._jsc.sc().addJar("ivy://" + coordinate + "?transitive=false")
spark.stop()
"""


def main() -> int:
    package = importlib.util.find_spec("pyspark")
    if package is None or package.origin is None:
        print("delta: pyspark is not installed in this environment; run `make setup`", file=sys.stderr)
        return 1
    installed = version("delta-spark")
    if any(jar.version != installed for jar in JARS):
        print(
            f"delta: delta-spark {installed} is installed, but tools/install_delta_jars.py knows the checksums of "
            f"{JARS[0].version}: change both together",
            file=sys.stderr,
        )
        return 1
    return install(Path(package.origin).parent / "jars", cache_folder())


def install(target: Path, cache: Path) -> int:
    if all(is_intact(target / jar.file_name, jar) for jar in JARS):
        print(f"delta: JARs {JARS[0].version} are in place")
        return 0
    origin = "from the cache"
    if not all(is_intact(cache / jar.file_name, jar) for jar in JARS):
        origin = "from Maven Central"
        problem = resolve_into(cache)
        if problem:
            print(problem, file=sys.stderr)
            return 1
    for stale in (*target.glob("delta-spark_*.jar"), *target.glob("delta-storage-*.jar")):
        stale.unlink()
    for jar in JARS:
        copy_atomically(cache / jar.file_name, target / jar.file_name)
    print(f"delta: JARs {JARS[0].version} put into pyspark/jars, {origin}")
    return 0


def resolve_into(cache: Path) -> str | None:
    """Fetch the JARs with Ivy, check them, put them into the cache. Returns what went wrong, if anything."""
    ivy = cache / "ivy"
    ivy.mkdir(parents=True, exist_ok=True)
    coordinates = [f"io.delta:{jar.artifact}:{jar.version}" for jar in JARS]
    command = [sys.executable, "-c", RESOLVE, str(ivy), *coordinates]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    for jar in JARS:
        fetched = ivy / "jars" / f"io.delta_{jar.file_name}"
        if not fetched.exists():
            tail = "\n".join(f"  {line}" for line in (done.stdout + done.stderr).splitlines()[-15:])
            return f"delta: {jar.file_name} could not be fetched; the last lines of Spark's output:\n{tail}"
        if not is_intact(fetched, jar):
            found = f"{fetched.stat().st_size} bytes, sha256 {sha256_of(fetched)}"
            expected = f"{jar.num_bytes} bytes, sha256 {jar.sha256}"
            return f"delta: {fetched}: expected {expected}; found {found}. Delete {ivy} and run it again"
        copy_atomically(fetched, cache / jar.file_name)
    shutil.rmtree(ivy, ignore_errors=True)
    return None


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caspr-spark" / "delta-jars"


def is_intact(path: Path, jar: Jar) -> bool:
    return path.exists() and path.stat().st_size == jar.num_bytes and sha256_of(path) == jar.sha256


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy_atomically(source: Path, target: Path) -> None:
    unfinished = target.with_suffix(f".{os.getpid()}.unfinished")
    shutil.copyfile(source, unfinished)
    unfinished.replace(target)


if __name__ == "__main__":
    sys.exit(main())
