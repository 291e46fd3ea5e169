# What the scripts share. Sourced, not run.
#
# Everything that scripts install or build goes below one cache directory, which runs and checkouts share:
#   DORMOUSE_CACHE   default ~/.cache/dormouse
#   CARGO_TARGET_DIR default $DORMOUSE_CACHE/target

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

export DORMOUSE_CACHE=${DORMOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dormouse}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$DORMOUSE_CACHE/target}
TOOLS=$DORMOUSE_CACHE/tools
VENV=$DORMOUSE_CACHE/venv
CLIENTS=$DORMOUSE_CACHE/clients
EMULATORS=$DORMOUSE_CACHE/emulators
mkdir -p "$TOOLS" "$CARGO_TARGET_DIR"

MINISTACK_VERSION=1.5.33
DYNOXIDE_VERSION=1.2.1
CARGO_DENY_VERSION=0.20.2
CARGO_FUZZ_VERSION=0.13.2
CARGO_MUTANTS_VERSION=27.1.0

step() { printf '\n== %s\n' "$*" >&2; }

need() {
    command -v "$1" >/dev/null 2>&1 || { echo "missing: $1. $2" >&2; exit 1; }
}

need_rust() {
    need cargo "Install Rust with rustup: https://rustup.rs"
    need cc "Install a C compiler, such as Debian's package build-essential."
    for component in rustfmt clippy; do
        cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 ||
            rustup component add "$component" >&2 ||
            { echo "missing: the Rust component $component" >&2; exit 1; }
    done
}

# Installs pinned Python packages into a virtual environment in the cache.
install_python() {
    need python3 "Install Python 3.11 or newer."
    local venv=$1 requirements=$2 stamp=$1/.installed wanted
    wanted=$(cat "$requirements")
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        step "installing Python packages into $venv"
        python3 -m venv "$venv" ||
            { echo "missing: Python's venv, such as Debian's package python3-venv" >&2; exit 1; }
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >&2
        printf '%s' "$wanted" >"$stamp"
    fi
}

# What the tests and benchmarks themselves use.
need_python() {
    install_python "$VENV" scripts/requirements.txt
}

# Clients of the HTTP API that the system tests drive.
need_clients() {
    install_python "$CLIENTS" scripts/requirements-clients.txt
    need curl "Install it, such as Debian's package curl."
    need gunzip "Install it, such as Debian's package gzip."
    need zstd "Install it, such as Debian's package zstd."
}

# Installs the emulators of AWS: MiniStack (S3, SQS, ECS) and dynoxide (DynamoDB).
need_emulators() {
    need python3 "Install Python 3.11 or newer."
    local stamp=$EMULATORS/.installed wanted="ministack $MINISTACK_VERSION dynoxide $DYNOXIDE_VERSION"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        step "installing emulators of AWS into $EMULATORS"
        mkdir -p "$EMULATORS"
        python3 -m venv "$EMULATORS/venv" ||
            { echo "missing: Python's venv, such as Debian's package python3-venv" >&2; exit 1; }
        # Apart from the tests' packages: it pins versions of its own.
        "$EMULATORS/venv/bin/pip" install --quiet --disable-pip-version-check "ministack==$MINISTACK_VERSION" >&2
        need npm "Install Node.js 20 or newer, which brings it."
        npm install --no-save --silent --prefix "$EMULATORS/dynoxide" "@dynoxide/linux-x64@$DYNOXIDE_VERSION" >&2
        printf '%s' "$wanted" >"$stamp"
    fi
}

# Installs a program with cargo, built without much optimisation as it runs for a second.
install_tool() {
    local name=$1 version=$2
    # Cargo's own list of what it has installed there.
    if ! grep -qs "^\"$name $version " "$TOOLS/.crates.toml"; then
        step "installing $name $version"
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=false \
            CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR=$TOOLS/target \
            cargo install "$name" --quiet --locked --version "$version" --root "$TOOLS" >&2
        rm -rf "$TOOLS/target"
    fi
}

need_cargo_deny() { install_tool cargo-deny "$CARGO_DENY_VERSION"; }
need_cargo_fuzz() { install_tool cargo-fuzz "$CARGO_FUZZ_VERSION"; }
need_cargo_mutants() { install_tool cargo-mutants "$CARGO_MUTANTS_VERSION"; }
