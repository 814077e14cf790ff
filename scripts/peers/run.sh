#!/bin/sh
# Measures the peers beside this project, in one run on this machine, and prints the ratios:
#
#   compile   Triton 3.9: its equivalent of the decode attention kernel, without a GPU   against our cold compile to PTX
#   decode    ggml's flash attention on one thread, keys q8_0, values q4_0               against our host kernel at K8V4
#
# The peers are installed into .tools/peers on the first run: two PyPI packages (about 400 MB with Triton) and ggml built from the source
# package of llama-cpp-python. Needs python3 with venv, and g++.
set -eu
cd "$(dirname "$0")/../.."
here=scripts/peers
peers=.tools/peers
triton=3.9.0
llama=0.3.36
llama_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
runs=5

say() { printf 'peers: %s\n' "$*" >&2; }

if [ "$(cat $peers/done 2>/dev/null)" != "$triton $llama" ]; then
    say "installing Triton $triton and ggml of llama-cpp-python $llama into $peers"
    rm -rf $peers && mkdir -p $peers
    python3 -m venv $peers/venv || { say "python3 has no venv; on Debian: apt-get install python3-venv"; exit 1; }
    $peers/venv/bin/pip install --quiet --disable-pip-version-check "triton==$triton" cmake ninja scikit-build-core
    $peers/venv/bin/pip download --quiet --disable-pip-version-check --no-binary :all: --no-deps --no-build-isolation \
        --dest $peers "llama-cpp-python==$llama"
    echo "$llama_sha256  $peers/llama_cpp_python-$llama.tar.gz" | sha256sum --check --quiet
    tar -C $peers -xzf $peers/llama_cpp_python-$llama.tar.gz
    ggml=$peers/llama_cpp_python-$llama/vendor/llama.cpp/ggml
    touch $ggml/ggml.pc.in # the source package lacks this template of an installed file
    $peers/venv/bin/cmake -S $ggml -B $peers/ggml -G Ninja -DCMAKE_MAKE_PROGRAM="$PWD/$peers/venv/bin/ninja" \
        -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DBUILD_SHARED_LIBS=OFF \
        -DGGML_BUILD_TESTS=OFF -DGGML_BUILD_EXAMPLES=OFF >$peers/ggml.log
    $peers/venv/bin/cmake --build $peers/ggml >>$peers/ggml.log
    g++ -O2 -std=c++17 -I$ggml/include $here/ggml_decode.cpp -o $peers/ggml_decode \
        $peers/ggml/src/libggml.a $peers/ggml/src/libggml-cpu.a $peers/ggml/src/libggml-base.a -lpthread -ldl
    echo "$triton $llama" >$peers/done
fi

say "building"
cargo bench --locked --quiet -p leankv-runtime --bench compile --no-run
cargo bench --locked --quiet -p leankv-kernels --bench host_decode --no-run

say "compiling with both"
$peers/venv/bin/python $here/triton_decode.py --runs $((runs + 1)) 2>/dev/null >$peers/triton.json
# Ours from the specialisation on, recording included; like Triton's, in a process that has compiled before.
cargo bench --locked --quiet -p leankv-runtime --bench compile -- 'decode_attention to PTX' >$peers/ours.txt
$peers/venv/bin/python $here/triton_decode.py --runs $((runs + 1)) 2>/dev/null >$peers/triton-after.json

say "decoding with both, one thread"
: >$peers/ggml.txt
: >$peers/host.txt
: >$peers/host-avx2.txt
for _ in $(seq 3); do # interleaved, so that both meet the same machine
    $peers/ggml_decode 4096 10 >>$peers/ggml.txt
    cargo bench --locked --quiet -p leankv-kernels --bench host_decode >>$peers/host.txt
    cargo bench --locked --quiet -p leankv-kernels --bench host_decode -- v3 >>$peers/host-avx2.txt
done

python3 - $peers <<'PY'
import json, re, statistics, sys
at = sys.argv[1]
read = lambda name: open(f"{at}/{name}").read()
triton = [json.loads(read(name)) for name in ("triton.json", "triton-after.json")]
after_first = lambda key: statistics.median(x for run in triton for x in run[key][1:])
peer, ptxas = after_first("compile_ms"), after_first("ptxas_ms")
print(f"compile, decode attention, 8 query heads a KV head, head dim 128, sm_80 (Triton {triton[0]['triton']}: median after the first, before and after ours)")
print(f"  Triton          {peer:8.1f} ms, of it {ptxas:.1f} in ptxas")
unit = {"ms": 1.0, "s": 1e3}
for name, low, u1, mid, u2, high, u3 in re.findall(
        r"sm_80/(\S+)\s+time:\s+\[([\d.]+) (m?s) ([\d.]+) (m?s) ([\d.]+) (m?s)\]", read("ours.txt")):
    mid = float(mid) * unit[u2]
    print(f"  {name:15} {mid:8.1f} ms, {peer / mid:.1f} times faster, {(peer - ptxas) / mid:.1f} without ptxas")
peer = min(json.loads(line)["best_ms"] for line in read("ggml.txt").splitlines())
print("decode on the host, 32 query and 8 KV heads of 128, 4096 tokens, one thread (best of 3 interleaved runs)")
print(f"  ggml q8_0/q4_0  {peer:8.2f} ms")
for name, label in (("host.txt", "K8V4"), ("host-avx2.txt", "K8V4, AVX2")):
    ours = min(float(x) for x in re.findall(r"^4096 tokens: ([\d.]+) ms", read(name), re.M))
    print(f"  {label:15} {ours:8.2f} ms, {peer / ours:.1f} times faster")
PY
