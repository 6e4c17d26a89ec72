#!/bin/sh
# rpm.sh BUILD_DIR [OPTION...] - RPM source and binary packages of this tree, in BUILD_DIR/rpm. Needs
# no network and no root. On a system that is not RPM's own, build dependencies are taken for granted,
# and the macros come from packaging/rpm. Options are rpmbuild's, --nocheck say.
set -eu

mkdir -p "$1/rpm"
rpm=$(cd "$1/rpm" && pwd)
shift
cd "$(dirname "$0")/.."
spec=packaging/rpm/poplar.spec
version=$(sed -n 's/^Version: *//p' $spec)

rm -rf "$rpm"
mkdir -p "$rpm/SOURCES" "$rpm/poplar-$version"
cp -a LICENSE Makefile README.md .clang-format auth daemon packaging store tests worker \
    "$rpm/poplar-$version"
find "$rpm" -name __pycache__ -prune -exec rm -rf {} +
tar -C "$rpm" --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX \
    -czf "$rpm/SOURCES/poplar-$version.tar.gz" "poplar-$version"
rm -rf "$rpm/poplar-$version"

set -- --define "_topdir $rpm" "$@"
[ -n "$(rpm --eval '%{?_unitdir}')" ] || set -- --load="$PWD/packaging/rpm/macros" "$@"
rpm -q rpm >/dev/null 2>&1 || set -- "$@" --nodeps

if ! rpmbuild "$@" -ba $spec >"$rpm/log" 2>&1; then
    tail -n 40 "$rpm/log" >&2
    echo "rpm.sh: failed, all of it is in $rpm/log" >&2
    exit 1
fi
find "$rpm/RPMS" "$rpm/SRPMS" -name '*.rpm'
