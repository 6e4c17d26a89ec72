#!/bin/sh
# demo.sh BUILD_DIR - Poplar on loopback with a certificate, an account and mail made on the spot.
# Everything lives in BUILD_DIR/demo and is made anew each time; no system account is made and
# nothing under /etc changes: PAM reads its stack from a directory of the demonstration's own.
set -eu

build=$(cd "$1" && pwd)
demo=$build/demo
user=demo@poplar.example
password=poplar-demo
pop3=${POP3_PORT:-1110}
pop3s=${POP3S_PORT:-1995}

rm -rf "$demo"
mkdir -p "$demo/pam.d" "$demo/state" "$demo/run"
umask 022

# As root the processes are separated as in service, on accounts that every system has. Anybody
# else runs all of it as himself.
if [ "$(id -u)" = 0 ]; then
    worker_user=nobody store_user=mail
    chown mail "$demo/state"
else
    worker_user=$(id -un) store_user=$(id -un)
fi
chmod 700 "$demo/state"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout "$demo/key.pem" -out "$demo/certificate.pem" 2>/dev/null

printf '%s:%s\n' "$user" "$(printf %s "$password" | openssl passwd -6 -stdin)" >"$demo/passwd"
cat >"$demo/pam.d/poplar" <<EOF
auth    required pam_pwdfile.so pwdfile=$demo/passwd
account required pam_permit.so
EOF

cat >"$demo/poplar.conf" <<EOF
[server]
hostname=localhost
local_domains=localhost
state_dir=$demo/state
run_dir=$demo/run
worker_user=$worker_user
store_user=$store_user
log_to=stderr

[listen]
pop3=127.0.0.1:$pop3
pop3s=127.0.0.1:$pop3s

[tls]
certificate=$demo/certificate.pem
key=$demo/key.pem

[auth]
pam_confdir=$demo/pam.d
canonical=pam
require_nss=no
EOF

for n in 1 2 3; do
    cat <<EOF | "$build/poplarctl" --config "$demo/poplar.conf" message add "$user"
From: Poplar <poplar@poplar.example>
To: $user
Subject: Message $n of the demonstration
Date: Sat, 21 Nov 2026 12:0$n:00 +0000
Message-ID: <demo-$n@poplar.example>

This is message $n. It went through poplarctl into an SQLite maildrop
and reached you through PAM, TLS and a sandboxed process of its own.
.
A line with a single dot, above, is nothing special.
EOF
done

echo "Starting poplard, log in $demo/poplard.log"
"$build/poplard" --config "$demo/poplar.conf" >"$demo/poplard.log" 2>&1 &
poplard=$!
stop() {
    kill "$poplard" 2>/dev/null || true
    wait "$poplard" 2>/dev/null || true
}
trap stop EXIT
trap 'echo; echo "Stopping."; exit 0' INT TERM

# poplarctl answers as soon as poplard serves.
tries=0
until "$build/poplarctl" --config "$demo/poplar.conf" status >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ] || ! kill -0 "$poplard" 2>/dev/null; then
        echo "poplard did not start:" >&2
        cat "$demo/poplard.log" >&2
        exit 1
    fi
    sleep 0.1
done

echo
echo "\$ curl --cacert $demo/certificate.pem --user $user:$password -v pop3s://localhost:$pop3s/1"
curl --silent --show-error --verbose --max-time 30 --cacert "$demo/certificate.pem" \
    --user "$user:$password" --resolve "localhost:$pop3s:127.0.0.1" \
    "pop3s://localhost:$pop3s/1" 2>&1 | tr -d '\r' | tee "$demo/transcript"
grep -q '^Subject: Message 1 of the demonstration' "$demo/transcript"
grep -q '^< +OK' "$demo/transcript"
echo
echo "Fetched over TLS after a PAM login. To try it yourself:"
echo
echo "  curl --cacert $demo/certificate.pem --user $user:$password pop3s://localhost:$pop3s/"
echo "  openssl s_client -connect localhost:$pop3 -starttls pop3 -crlf -quiet"
echo "  USER $user, PASS $password, STAT, LIST, RETR 1, QUIT"
echo "  $build/poplarctl --config $demo/poplar.conf status"
echo "  $build/poplarctl --config $demo/poplar.conf message list $user"
echo "  $build/poplarctl --config $demo/poplar.conf message add $user < some-message.eml"
[ -z "${ONCE:-}" ] || exit 0
echo
echo "Serving 127.0.0.1:$pop3 (STLS) and 127.0.0.1:$pop3s (TLS) until Ctrl-C."
wait "$poplard"
