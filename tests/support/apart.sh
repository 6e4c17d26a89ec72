#!/bin/sh
# apart.sh COMMAND... - run a command in namespaces of its own: its mounts, its loopback and its
# processes are gone with it, however it ends. Fails where there are no namespaces.
set -eu

propagation=private
# In a plain chroot the root is no mount point, whose propagation could be changed; where nothing is
# shared there is no need to.
if ! unshare --mount true 2>/dev/null && ! grep -q 'shared:' /proc/1/mountinfo; then
    propagation=unchanged
fi
exec unshare --mount --propagation $propagation --pid --net --ipc --fork --kill-child --mount-proc "$@"
