#!/bin/sh
# arrows.sh - who may include whom. The walls between the processes are these folders: the floor of
# daemon/ serves everybody, the master's own files, auth/, worker/ and store/ know nothing of each
# other but the few headers named here.
set -eu
cd "$(dirname "$0")/../.."

floor='base|proto|message|channel|config|complete|textlist|child|privileges|pam_service'
bad=0

# forbid PATTERN FILE...: no include in FILEs may match.
forbid() {
    pattern=$1
    shift
    if grep -nE "#include \"$pattern\"" "$@"; then
        bad=1
    fi
}

# Everybody names the folder.
if grep -nE '#include "[^/"]+"' */*.[ch]; then
    bad=1
fi

master=$(ls daemon/*.[ch] | grep -vE "^daemon/($floor)\.[ch]$")
floor_files=$(ls daemon/*.[ch] | grep -E "^daemon/($floor)\.[ch]$")
library=$(ls store/*.[ch] | grep -vE '^store/ctl')
ctl=$(ls store/ctl*.[ch])

forbid '(auth|worker|store)/.*' $master $floor_files
for file in $floor_files; do
    if grep -nE '#include "daemon/' "$file" | grep -vE "\"daemon/($floor)\.h\""; then
        bad=1
    fi
done
deliver=worker/poplar_deliver.c
for file in auth/*.[ch] $(ls worker/*.[ch] | grep -v "^$deliver$"); do
    if grep -nHE '#include "daemon/' "$file" | grep -vE "\"daemon/($floor)\.h\""; then
        bad=1
    fi
done
# poplar-deliver is anybody's: the floor, and where the socket is.
if grep -nE '#include "' $deliver | grep -vE "\"daemon/($floor|configfile)\.h\""; then
    bad=1
fi
# auth: of the store only what a maildrop is on disk, and no code.
forbid '(worker)/.*' auth/*.[ch]
if grep -nE '#include "store/' auth/*.[ch] | grep -v '"store/files.h"'; then
    bad=1
fi
# worker: of the store its interface.
forbid '(auth)/.*' worker/*.[ch]
if grep -nE '#include "store/' worker/*.[ch] | grep -vE '"store/(maildrop|files).h"'; then
    bad=1
fi
# The store knows nothing of the rest: not even the floor.
forbid '(daemon|auth|worker)/.*' $library
# poplarctl opens maildrops as auth does, by the same two headers.
forbid '(worker)/.*' $ctl
if grep -nE '#include "auth/' $ctl | grep -vE '"auth/(grant|canonical)\.h"'; then
    bad=1
fi
# Each library has its place.
for rule in 'security/pam:auth' 'openssl/:worker|store/ctl' 'sqlite3.h:store' 'seccomp.h:worker' \
    'systemd/:daemon' 'ini.h:daemon' 'jansson.h:store' 'stringprep.h:worker'; do
    header=${rule%:*} folder=${rule#*:}
    if grep -nE "#include <$header" daemon/*.[ch] auth/*.[ch] worker/*.[ch] store/*.[ch] |
        grep -vE "^($folder)[/_]"; then
        bad=1
    fi
done

[ "$bad" -eq 0 ] || { echo "arrows.sh: the includes above cross a wall" >&2; exit 1; }
