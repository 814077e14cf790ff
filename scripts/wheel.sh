#!/bin/sh
# Builds the wheel `leankv` and tests it where there is neither Rust nor LLVM.
#
#   scripts/wheel.sh [OUT]
#
# OUT is a folder, target/wheel if not given. What is missing (libraries that LLVM is linked with, maturin, patchelf) is installed.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/target/wheel}
tools=$root/.tools/wheel
most=40

say() { printf 'wheel: %s\n' "$*"; }
fail() {
    printf 'wheel: %s\n' "$*" >&2
    exit 1
}

# Of Debian's packages: LLVM's static libraries and what they are linked with.
missing=
for package in libzstd-dev libpolly-22-dev libxml2-dev zlib1g-dev; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || fail "these packages are missing:$missing; run: sudo apt-get install$missing"
    say "installing$missing"
    # shellcheck disable=SC2086
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
fi
[ -x "$tools/bin/maturin" ] && [ -x "$tools/bin/patchelf" ] || {
    python3 -m venv "$tools" || fail "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv"
    "$tools/bin/pip" install -q 'maturin>=1.9,<2' patchelf
}

mkdir -p "$out"
rm -f "$out"/leankv-*.whl
# The library of an earlier run was changed for its wheel; it is linked again.
touch "$root/leankv-py/src/lib.rs"
(cd "$root/leankv-py" && PATH="$tools/bin:$PATH" "$tools/bin/maturin" build --release --locked -o "$out")
wheel=$(ls "$out"/leankv-*.whl)
mib=$(($(stat -c %s "$wheel") / 1048576))
say "$wheel has $mib MiB"
[ "$mib" -le "$most" ] || fail "it is larger than $most MiB"

# A process that finds no compiler and none of LLVM's libraries: an empty PATH and a library path of its own.
venv=$(mktemp -d)
trap 'rm -rf "$venv"' EXIT
python3 -m venv "$venv"
"$venv/bin/pip" install -q "$wheel" numpy pytest
native=$("$venv/bin/python" -c 'import leankv._native as n; print(n.__file__)')
! ldd "$native" | grep -i 'llvm\|not found' || fail "the native module needs a library that a machine may not have"
(cd "$root/leankv-py" && env -i HOME="$venv" PATH=/nonexistent PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m pytest -q -p no:cacheprovider tests)
say "tested: $wheel"
