/*
 * child.h - the steps that every exec'd child of the master starts with, in one order.
 *
 * Used by the nursery and auth: take the channel on descriptor 3, receive settings (and
 * certificates) until PROTO_START, set up, say PROTO_READY with the contract's fingerprint.
 */
#ifndef POPLAR_DAEMON_CHILD_H
#define POPLAR_DAEMON_CHILD_H

#include "daemon/base.h"
#include "daemon/channel.h"
#include "daemon/config.h"

/* A certificate and key that the master opened; the callee owns and closes both descriptors.
 * False with one line in `error` when they do not fit or cannot be read. */
typedef bool child_certificate(void *context, const char *name, const char *path, int chain_fd,
                               int key_fd, char *error, size_t error_size);

struct child {
    struct channel control;
    struct config *config;
    uint64_t digest_key; /* auth: for the digests of refused secrets */
    bool strict;         /* a first start or a reload: what is missing is a reason to give up */
};

/* Begin: check that descriptor 3 is a channel (else fatal EX_USAGE: "started by poplard only"),
 * receive the configuration. `certificate` may be NULL. A refused setting or certificate is
 * reported by child_log() and ends the process with EX_CONFIG. */
void child_begin(struct child *child, enum proto_role self, child_certificate *certificate,
                 void *context);

/* Everything is set up: PROTO_READY, state STATE_IDLE. */
void child_ready(struct child *child);

/* A line for the master's log, priority as in syslog(3). Falls back to stderr when the channel is
 * gone. */
void child_log(struct channel *control, int priority, const char *format, ...) PRINTF(3, 4);

/* What to do about a channel_receive() from the master that was not CHANNEL_OK: the master is
 * trusted more, so this never returns. Its end is ours (PROTO_EXIT_DONE); a broken record is
 * fatal. */
_Noreturn void child_lost_master(enum channel_outcome outcome, const char *fault);

#endif
