//! What `--help` shows below the options. Lines have at most 79 characters, so that a narrow terminal breaks none, and each command can
//! be copied as it stands: notes are comments of the shell. A test runs all of them (`tests/documented.rs`).

pub(super) const ENVIRONMENT: &str = "\
Environment:
  LEANKV_CACHE_DIR  folder of compiled kernels and of models that were fetched
  LEANKV_TUNED      table of tuned kernels, in place of tuned.json in that folder; empty for none
  LEANKV_PTXAS      the assembler, in place of that of .tools/bin or of PATH
  LEANKV_NVDISASM   the disassembler, likewise
  COLUMNS           how wide tables are where there is no terminal (100)
  NO_COLOR          if it is set, messages have no colours";

/// How caches are written.
macro_rules! caches {
    () => {
        "\
Caches:
  FORMAT[/LOW][+VARIANT][@LIMIT][:POLICY][:sinks=N][:window=N][:keep=N]
    [:peaks=N][:reconstruct], or @LIMIT alone;
    formats in capitals or not, such as
  @1/11                  an eleventh of the bytes of FP16, in the formats that
                         keep most: 8 bits over 4 bits, rotated, and centred
                         where `leankv calibrate` knows the model
  fp16                   no compression
  k8v4                   every token with 8-bit keys and 4-bit values
  k8v4/k4v2              significant tokens in K8V4, others in K4V2 or dropped,
                         by the thresholds of --settings, else the paper's
  k8v4/k4v2@1,0.02       by these thresholds: times the mean significance
  k8v4/k4v2@1/5          by thresholds that fit a fifth of the bytes of FP16
  'k4v4;0-1=k8v8'        layers 0 and 1 in K8V8, the others in K4V4
  k4v4+hadamard          keys rotated; a bias of the model's key projection
                         (Qwen2.5) is taken out of keys unless a variant is
                         written: +offset, +hadamard, +plain for none;
                         several are +one+other, in any order
  k8v4@1/5:sink-window   another policy; also heavy-hitter
  k8v4/k4v2@1/8:keep=0   a part of FP16 is at least what 512 tokens take in the
                         low tier, unless keep says otherwise: short sequences
                         drop none; 4 sinks and a window of 64 are always high.
                         @1/11 alone has :keep=120:window=32:peaks=100
  k8mv4m                 m: levels for rotated rows, s: symmetric ones, neither
                         with a zero point; m implies +rotated, and +centred
                         where `leankv calibrate` knows the model
  k8v4/k4v2@1/8:peaks=30 thousandths that a token's largest share of attention
                         adds to its mean share
  @1/8:reconstruct       each prompt is read twice, in three to seven times the
                         time, which measures what is otherwise predicted:
                         which of its tokens are asked for again

"
    };
}

pub(super) const COMPILE: &str = "\
Examples:
  # PTX to the terminal
  leankv compile softmax --target sm_90
  leankv compile softmax --set block=128 --target sm_80 --emit ptx,sass -o out/
  leankv compile decode_attention --every-spec --target sm_90 \\
      --bundle kernels.lkvb";

pub(super) const BUNDLE_CACHE: &str = "\
Examples:
  # caches of Llama-3-8B, for the A100 and the H100
  leankv bundle-cache --bundle kernels.lkvb --target sm_80,sm_90 \\
      --group 4 --head-dim 128 --kv fp16 k8v4/k4v2";

pub(super) const VERIFY: &str = "\
Examples:
  # one specialisation, and its PTX for sm_80
  leankv verify softmax
  leankv verify decode_attention --set tiering=K8V4/K4V2,group=8 \\
      --target sm_80,sm_90 --perturb
  # every declared specialisation
  leankv verify quantize --all
  # PTX that was changed by hand
  leankv compile softmax --target sm_80 -o changed.ptx
  leankv verify softmax --ptx changed.ptx";

pub(super) const PROFILE: &str = "\
Examples:
  leankv profile decode_attention --set tiering=K8V4 --target sm_90
  leankv profile decode_attention --shapes tokens=1000,requests=1 --annotate \\
      > decode.annotated.ptx
  # what a token costs, and what bounds it on a GPU
  leankv profile decode_attention --set tiering=K8V4 --roofline h200 \\
      --shapes tokens=512,requests=1,kv_heads=1 --per tokens";

pub(super) const EVAL: &str = concat!(
    caches!(),
    "\
Examples:
  leankv eval --model smollm2-135m --kv k8v4 k4v8 k8v4/k4v2@1/5
  leankv eval --model qwen2.5-coder-1.5b --ctx 1024 --chunks 4 \\
      --kv k4v4+plain k4v4 --plots out/
  # a run that was cut off goes on from its journal
  leankv eval --model smollm2-135m --task arithmetic,passkey \\
      --journal out/run.jsonl"
);

pub(super) const CALIBRATE: &str = concat!(
    caches!(),
    "\
Examples:
  leankv calibrate --model smollm2-135m --text data/opticks.txt --chunks 2
  # thresholds of a cache with a variant are kept apart from the plain ones
  leankv calibrate --model smollm2-135m --text data/opticks.txt --chunks 2 \\
      --kv k8v4/k4v2+hadamard"
);

pub(super) const TUNE: &str = "\
Examples:
  leankv tune bits --model smollm2-135m --report out/tune.html
  # what it would measure, and how long that takes
  leankv tune bits --model smollm2-135m --effort full --dry-run
  leankv tune show
  leankv tune explain tuned@1/8 --model smollm2-135m
  leankv tune kernel matmul --shapes m=512,n=512,k=512
  # the kernels of a model's usual cache on this machine
  leankv tune cache --model smollm2-135m
  # of a GPU that is not here: modelled
  leankv tune kernel decode_attention --set tiering=K8V4 --device h200";

pub(super) const FETCH_MODEL: &str = "\
Examples:
  leankv fetch-model
  leankv fetch-model smollm2-135m";

pub(super) const RUN: &str = concat!(
    caches!(),
    "\
Examples:
  leankv run --model smollm2-135m --prompt 'What is a page table?'
  # goes on with the beginning of a novel, in a fifth of the bytes of FP16
  head -c 2000 data/emma.txt | leankv run --model smollm2-135m \\
      --kv k8v4/k4v2@1/5 --raw --max-tokens 100
  echo 'Name three rivers.' | leankv run --model my.gguf \\
      --temperature 0.7 --top-p 0.9 --seed 3 --json"
);

pub(super) const SERVE_BENCH: &str = concat!(
    caches!(),
    "\
Examples:
  leankv serve-bench --model smollm2-135m --kv-memory 64MiB --requests 24
  leankv serve-bench --model smollm2-135m --kv-memory 32MiB --requests 16 \\
      --kv fp16 k8v4/k4v2@1/3 k8v4/k4v2@1/5 \\
      --prompt-tokens 300..500 --output-tokens 50..100"
);

pub(super) const COMPLETIONS: &str = "\
Examples:
  # bash reads this folder
  mkdir -p ~/.local/share/bash-completion/completions
  leankv completions bash \\
      > ~/.local/share/bash-completion/completions/leankv
  # fish reads this one
  mkdir -p ~/.config/fish/completions
  leankv completions fish > ~/.config/fish/completions/leankv.fish
  # for zsh, a folder of $fpath
  leankv completions zsh > _leankv";

pub(super) const MAN: &str = "\
Examples:
  # then `man leankv` and `man leankv-run` find them
  leankv man ~/.local/share/man/man1";
