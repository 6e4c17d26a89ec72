#!/bin/sh
# deb.sh BUILD_DIR - Debian source and binary packages of this tree, in BUILD_DIR/deb. Needs no
# network and no root. DEB_BUILD_OPTIONS is dpkg-buildpackage's, nocheck say.
set -eu

mkdir -p "$1/deb"
deb=$(cd "$1/deb" && pwd)
cd "$(dirname "$0")/.."
version=$(sed -n '1s/.*(\(.*\)-.*).*/\1/p' packaging/debian/changelog)
tree=$deb/poplar-$version

# What is in a source package, and nothing that a build or a test left behind.
rm -rf "$deb"
mkdir -p "$tree"
cp -a LICENSE Makefile README.md .clang-format auth daemon packaging store tests worker "$tree"
find "$tree" -name __pycache__ -prune -exec rm -rf {} +
tar -C "$deb" --sort=name --owner=0 --group=0 --numeric-owner --mode=go=rX \
    --mtime="@$(dpkg-parsechangelog -l packaging/debian/changelog -S Timestamp)" \
    -czf "$deb/poplar_$version.orig.tar.gz" "poplar-$version"
cp -a packaging/debian "$tree/debian"

unset POSIXLY_CORRECT # debhelper has options behind operands
cd "$tree"
if ! dpkg-buildpackage -us -uc >"$deb/log" 2>&1; then
    tail -n 40 "$deb/log" >&2
    echo "deb.sh: failed, all of it is in $deb/log" >&2
    exit 1
fi
cd "$deb"
rm -rf "$tree"
ls ./*.deb ./*.dsc
