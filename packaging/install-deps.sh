#!/bin/sh
# install-deps.sh SET... - install what is missing to build, run or check Poplar, on Debian and its
# kin: compilers, libraries and mail clients, never a server, and no daemon is started. With LIST=1
# they are only named.
set -eu

build='gcc make pkg-config libc6-dev libpam0g-dev libssl-dev libsystemd-dev libsqlite3-dev
       libseccomp-dev libinih-dev libjansson-dev libidn-dev'
run='libpam-pwdfile curl openssl ca-certificates'
check='clang-format libcmocka-dev libpam-wrapper libpam-pwdfile python3-pytest curl fetchmail mpop
       getmail6 neomutt libio-socket-ssl-perl testssl.sh openssl sqlite3 pyflakes3
       python3-prometheus-client debootstrap strace valgrind procps util-linux passwd ca-certificates man-db groff-base
       mandoc rpm rpmlint apparmor libpam-google-authenticator systemd-container btrfs-progs bindfs'
deb='build-essential dpkg-dev debhelper dh-apparmor po-debconf bash-completion systemd'
rpm='rpm rpmlint libcmocka-dev openssl'
fuzz='clang libclang-rt-dev'
long='claws-mail xvfb lintian clang-tidy cppcheck' # hundreds of megabytes on a bare machine

wanted=
for set in "$@"; do
    case $set in
    build) wanted="$wanted $build" ;;
    run) wanted="$wanted $run" ;;
    check) wanted="$wanted $check" ;;
    deb) wanted="$wanted $deb" ;;
    rpm) wanted="$wanted $rpm" ;;
    fuzz) wanted="$wanted $fuzz" ;;
    long) wanted="$wanted $long" ;;
    *) echo "install-deps.sh: no set '$set': build, run, check, deb, rpm, fuzz or long" >&2; exit 64 ;;
    esac
done

[ -z "${LIST:-}" ] || { echo $wanted; exit 0; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install-deps.sh: not a Debian system; needed are the equivalents of:" $wanted >&2
    exit 0
fi

missing=
for package in $wanted; do
    state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
    case $state in
    ii*) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps.sh: missing, and neither root nor sudo is here:$missing" >&2
        exit 77
    fi
    as_root='sudo'
fi

echo "Installing:$missing"
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
cleanup() {
    rm -f "$log"
    [ -z "$made_policy" ] || $as_root rm -f "$policy"
}
trap cleanup EXIT INT TERM

# A package may bring a service with it: it stays down.
if [ ! -e "$policy" ]; then
    made_policy=1
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi

quietly() {
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        echo "install-deps.sh: failed: $*" >&2
        exit 69
    fi
}

# Lists older than a day, or without one of the packages, are stale.
fresh=$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mtime -1 2>/dev/null | head -n 1)
if [ -z "$fresh" ] || ! apt-cache show $missing >/dev/null 2>&1; then
    quietly $as_root apt-get update
fi
quietly $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
