#!/bin/sh
# Installs what the build and the tests need and this machine lacks. Safe to run again: when all is there it only looks.
#
#   LLVM 22 with headers, g++     Debian packages llvm-22-dev and g++ (apt, as root or through sudo)
#   ptxas, nvdisasm               two PyPI wheels, unpacked into .tools/ in this folder, checked against their hashes
#
# Nothing is written outside .tools/ except by apt. Where a step is not possible (no root, no apt, no network) the
# command to run by hand is printed and the script ends with a non-zero status. No environment variable is needed.
set -u

cd "$(dirname "$0")/.." || exit 1
root=$(pwd)
tools="$root/.tools"
cuda_version=13.5.37
llvm_major=22
rust_minimum=1.95

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '           %s\n' "$line" >&2; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# --- what is there ------------------------------------------------------------------------------------------------

llvm_present() {
    # The same names, in the same order, that the llvm-sys build script tries.
    for config in "${LLVM_SYS_221_PREFIX:+$LLVM_SYS_221_PREFIX/bin/llvm-config}" llvm-config "llvm-config-$llvm_major"; do
        [ -n "$config" ] && have "$config" || continue
        case $("$config" --version 2>/dev/null) in "$llvm_major".1.*) return 0 ;; esac
    done
    return 1
}

cuda_tools_present() {
    [ -x "$tools/bin/ptxas" ] && [ -x "$tools/bin/nvdisasm" ] &&
        [ "$(cat "$tools/version" 2>/dev/null)" = "$cuda_version" ]
}

# --- apt ----------------------------------------------------------------------------------------------------------

apt_updated=no

# apt_install WHY PACKAGE...
apt_install() {
    why=$1
    shift
    command="apt-get update && apt-get install -y --no-install-recommends $*"
    have apt-get || fail "missing: $why; and this system has no apt-get to install it with." \
        "On Debian the packages are: $*" \
        "Elsewhere install the same software (LLVM $llvm_major.1 with its headers and llvm-config, g++, Python 3 with pip) and run this again."
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sudo=sudo
    else
        fail "missing: $why; and this user may not install packages. Run as root:" "$command"
    fi
    say "missing: $why; installing $* with apt-get"
    if [ "$apt_updated" = no ]; then
        # A third-party source that cannot be reached must not stop the packages that Debian itself has.
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q ||
            say "apt-get update reported errors; going on with the package lists that are there"
        apt_updated=yes
    fi
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" ||
        fail "apt-get could not install $*. Run it by hand to see why:" "$command" \
            "On Debian 12, llvm-$llvm_major-dev comes with the security updates (suite bookworm-security)."
}

# --- steps --------------------------------------------------------------------------------------------------------

check_rust() {
    have cargo || fail "cargo is missing. Install Rust $rust_minimum or newer with rustup (https://rustup.rs), then run this again."
    version=$(rustc --version 2>/dev/null | cut -d' ' -f2)
    lowest=$(printf '%s\n%s\n' "$rust_minimum" "$version" | sort -V | head -n 1)
    [ "$lowest" = "$rust_minimum" ] ||
        fail "Rust $rust_minimum or newer is needed; this is ${version:-unknown}. Run:" "rustup update stable"
}

install_packages() {
    missing=
    why=
    if ! llvm_present; then
        missing="llvm-$llvm_major-dev"
        why="LLVM $llvm_major"
    fi
    if ! have g++ || ! have cc; then
        missing="$missing g++"
        why="${why:+$why and }g++"
    fi
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086 # a list of package names
    apt_install "$why" $missing
    llvm_present || fail "LLVM $llvm_major.1 was installed, but no llvm-config of that version is on PATH."
}

install_cuda_tools() {
    cuda_tools_present && return 0
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) ;;
    *) fail "ptxas and nvdisasm $cuda_version are pinned for Linux on x86-64, and this is $(uname -s) on $(uname -m)." ;;
    esac
    if ! have python3 || ! python3 -m pip --version >/dev/null 2>&1; then
        apt_install "Python's pip" python3 python3-pip
    fi
    say "installing ptxas and nvdisasm $cuda_version into .tools/ from PyPI (50 MB)"
    staging="$tools/staging.$$"
    rm -rf "$staging"
    # --target keeps the wheels out of the system's Python; the hashes pin the exact files.
    if ! python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes \
        --only-binary :all: --root-user-action ignore --target "$staging" --requirement scripts/cuda-tools.txt; then
        rm -rf "$staging"
        fail "pip could not install the CUDA assembler. Run it by hand to see why:" \
            "cd $root && python3 -m pip install --no-deps --require-hashes --target .tools/try --requirement scripts/cuda-tools.txt"
    fi
    bin=$(dirname "$(find "$staging" -type f -name ptxas | head -n 1)")
    for tool in ptxas nvdisasm; do
        [ -f "$bin/$tool" ] || fail "the wheels of scripts/cuda-tools.txt hold no $tool."
        chmod +x "$bin/$tool"
    done
    # Only the two programs are kept: the wheels hold a whole compiler that nothing here calls.
    rm -rf "$tools/bin" "$tools/version"
    mkdir -p "$tools/bin"
    mv "$bin/ptxas" "$bin/nvdisasm" "$tools/bin/"
    find "$staging" -iname 'license*' -type f -path '*dist-info*' -exec cp {} "$tools/NVIDIA-LICENSE.txt" \; 2>/dev/null
    rm -rf "$staging"
    "$tools/bin/ptxas" --version >/dev/null || fail "the installed ptxas does not run on this system."
    echo "$cuda_version" >"$tools/version"
}

check_rust
install_packages
if ! cuda_tools_present; then
    mkdir -p "$tools"
    # Two makes at once must not unpack over each other; flock is part of Debian's essential util-linux.
    if have flock; then
        exec 9>"$tools/lock"
        flock 9
    fi
    install_cuda_tools
fi
say "ready: LLVM $llvm_major, $(c++ -dumpversion 2>/dev/null | sed 's/^/g++ /'), ptxas and nvdisasm $cuda_version, $(rustc --version | cut -d' ' -f1,2)"
