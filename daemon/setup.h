/*
 * setup.h - the configuration on its way to a child. Master only.
 */
#ifndef POPLAR_DAEMON_SETUP_H
#define POPLAR_DAEMON_SETUP_H

#include "daemon/channel.h"
#include "daemon/config.h"

/* What a child is told at its start, and how far that is. */
struct setup {
    const struct config *config;
    const uint64_t *digest_key; /* auth's; NULL: none */
    bool strict;
    size_t told; /* records */
    bool more;   /* are to be told yet: the channel was full */
};

enum setup_outcome {
    SETUP_DONE, /* also when it has ended meanwhile, for the reaping says why */
    SETUP_MORE, /* the channel is full: go on when there is room */
    SETUP_FAILED
};

/* Keep what the files of all certificates hold now: every nursery of this configuration gets just
 * that, whatever becomes of the files before the next reload. False and errno, with one line in
 * `error`. */
bool setup_keep(struct config *config, char *error, size_t size);

/* Tell what is still to be told; never waits for the child. SETUP_FAILED with one line in `error`,
 * and errno. */
enum setup_outcome setup_send(struct setup *s, struct channel *channel, char *error, size_t size);

/* Whether a child that says PROTO_READY is ours and was told all; else one line in `error`. */
bool setup_accept(const struct setup *setup, struct message *ready, const char *program,
                  char *error, size_t size);

/* Open a file that [tls NAME] names. -1, errno, and one line in `error`. */
int setup_open(const struct config *config, const char *name, const char *key, const char *path,
               char *error, size_t size);

#endif
