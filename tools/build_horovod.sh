#!/usr/bin/env bash
# Build the Horovod wheel for this Python, torch and machine, once per user, and print its path.
#
#   build_horovod.sh            print the path of the wheel; build it first if the cache has none (about five minutes)
#   build_horovod.sh --where    print the cache folder of the wheel; build nothing
#   build_horovod.sh --cached   say by the exit status whether the cache has the wheel
#
# PYTHON is the environment's Python; to build, it must have torch, setuptools and wheel. HOROVOD_GPU_OPERATIONS=NCCL builds
# for a GPU cluster. PyPI has the source only, and that needs C++17 to compile against a current torch.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
sdist_sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0

pin() { sed -n "s/^$1==//p" "$here/constraints.txt"; }
horovod=$(pin horovod)
python_and_machine=$("$python" -c 'import platform, sys
print("py{}.{}-{}-{}".format(sys.version_info[0], sys.version_info[1], platform.system().lower(), platform.machine()))')
key="horovod$horovod-torch$(pin torch)-$python_and_machine-${HOROVOD_GPU_OPERATIONS:-cpu}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/caspr-spark/horovod/$key"

cached_wheel() { find "$cache" -maxdepth 1 -name 'horovod-*.whl' 2>/dev/null | head -n 1; }

case "${1:-}" in
--where) echo "$cache"; exit 0 ;;
--cached) [ -n "$(cached_wheel)" ]; exit ;;
'') ;;
*) echo "usage: build_horovod.sh [--where|--cached]" >&2; exit 2 ;;
esac

# One build at a time. The lock belongs to this shell's descriptor 9: the kernel frees it however the shell ends.
mkdir -p "$cache"
exec 9>"$cache/.lock"
"$python" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("horovod: another build of the same wheel is running; waiting for it", file=sys.stderr, flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)'

wheel=$(cached_wheel)
if [ -n "$wheel" ]; then
    echo "$wheel"
    exit 0
fi

build=$(mktemp -d "${TMPDIR:-/tmp}/horovod-build.XXXXXX")
log="$cache/build.log"
cleanup() {
    code=$?
    rm -rf "$build"
    if [ "$code" -ne 0 ]; then
        echo "horovod: the build failed; the last lines of $log:" >&2
        tail -n 20 "$log" >&2 || true
    fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM
echo "horovod: building the wheel, about five minutes and only once (log: $log)" >&2

{
    cd "$build"
    echo "horovod==$horovod --hash=sha256:$sdist_sha256" >requirements.txt
    "$python" -m pip download --no-input --disable-pip-version-check --progress-bar=off --no-build-isolation \
        --no-deps --no-binary horovod --require-hashes -r requirements.txt
    tar -xzf "horovod-$horovod.tar.gz"
    for file in CMakeLists.txt horovod/torch/CMakeLists.txt; do
        grep -q 'CMAKE_CXX_STANDARD 14' "horovod-$horovod/$file"
        sed 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' "horovod-$horovod/$file" >patched
        mv patched "horovod-$horovod/$file"
    done
    HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        MAKEFLAGS="-j$("$python" -c 'import os; print(min(os.cpu_count() or 1, 8))')" \
        "$python" -m pip wheel --no-input --disable-pip-version-check --no-build-isolation --no-deps \
        --wheel-dir wheels "./horovod-$horovod"
} >"$log" 2>&1 9>&- </dev/null

built=$(ls wheels/horovod-*.whl)
cp "$built" "$cache/.unfinished"
mv "$cache/.unfinished" "$cache/$(basename "$built")"
cached_wheel
