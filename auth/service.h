/*
 * service.h - what poplar-auth does all day: one exchange after the other.
 *
 * Runs in poplar-auth as root.
 */
#ifndef POPLAR_AUTH_SERVICE_H
#define POPLAR_AUTH_SERVICE_H

#include "auth/grant.h"
#include "auth/pam.h"
#include "daemon/child.h"

/* Serve until the master closes the channel, until [auth] requests_per_process are served, or
 * until a module left this process other than it was. Everything is set up and PROTO_READY said;
 * `parent` is the master's pid. */
_Noreturn void service_run(struct child *child, const struct grant_root *root, pid_t parent);

/* Not dumpable, and dead when the master is. Any change of ids, the file system's too, clears
 * both in the kernel: called at start and after each exchange. */
void service_harden(pid_t parent);

#endif
