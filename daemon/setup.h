/*
 * setup.h - the configuration on its way to a child. Master only.
 */
#ifndef POPLAR_DAEMON_SETUP_H
#define POPLAR_DAEMON_SETUP_H

#include "daemon/channel.h"
#include "daemon/config.h"

/* What every child is told at its start. False with one line in `error`; not when it has ended
 * meanwhile, for the reaping says why. */
bool setup_send(struct channel *channel, const struct config *config, const uint64_t *digest_key,
                unsigned generation, bool strict, char *error, size_t error_size);

/* Open a file that [tls NAME] names. -1, errno, and one line in `error`. */
int setup_open(const struct config *config, const char *name, const char *key, const char *path,
               char *error, size_t size);

#endif
