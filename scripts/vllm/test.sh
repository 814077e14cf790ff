#!/bin/sh
# Tests leankv-vllm inside vLLM for processors.
#
#   scripts/vllm/test.sh DIR [WHEEL] [pytest arguments]
#
# DIR is a virtual environment, which install.sh makes or finds; the model goes beside it into DIR/smollm2. WHEEL is the native module leankv;
# without it the one that is installed is used, and where none is, the tests that need it are skipped and say so.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
[ $# -ge 1 ] || { echo "usage: $0 DIR [WHEEL] [pytest arguments]" >&2; exit 2; }
venv=$(mkdir -p "$1" && cd "$1" && pwd)
shift

"$here/install.sh" "$venv"
case "${1:-}" in
*.whl)
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --force-reinstall --no-deps "$1"
    shift
    ;;
esac
# Editable, so that what is tested is what is in the tree.
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable "$root/leankv-vllm"
"$venv/bin/python" "$here/smollm2.py" "$venv/smollm2" >/dev/null

cd "$root/leankv-vllm"
export LEANKV_SMOLLM2="$venv/smollm2" PYTHONDONTWRITEBYTECODE=1
# A process for each file: tests fork engines, and a fork has none of the threads that a native cache of its parent works with.
for file in tests/test_*.py; do
    "$venv/bin/python" -m pytest -p no:cacheprovider "$@" "$file"
done
