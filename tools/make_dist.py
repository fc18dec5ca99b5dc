"""Build dist/: the wheel, and caspr_spark.zip (the same packages) for `spark-submit --py-files`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # a deleted module would live on in there
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(ROOT)]
    built = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if built.returncode:
        print("\n".join((built.stdout + built.stderr).splitlines()[-20:]), file=sys.stderr)
        return 1
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    (wheel,) = dist.glob("*.whl")
    archive = dist / "caspr_spark.zip"
    write_py_files(wheel, archive)
    for path in (wheel, archive):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e3:.0f} kB")
    return 0


def write_py_files(wheel: Path, archive: Path) -> None:
    """The packages of the wheel without its metadata, so that the cluster runs what was packaged."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name in sorted(source.namelist()):
            if ".dist-info/" not in name:
                target.writestr(zipfile.ZipInfo(name), source.read(name), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    sys.exit(main())
