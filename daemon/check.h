/*
 * check.h - what must be there for a configuration to work, looked at without starting anything.
 * Master only: before each trial as far as the children would not say it better, and all of it for
 * poplard --check.
 */
#ifndef POPLAR_DAEMON_CHECK_H
#define POPLAR_DAEMON_CHECK_H

#include "daemon/config.h"

/* Each is true, or false with one line in `error` that names the setting and the remedy. */
bool check_prefixes(const struct config *config, char *error, size_t size);
/* Whether this process may have as many descriptors as [workers] and [auth] want of it. */
bool check_descriptors(const struct config *config, char *error, size_t size);
/* Whether addresses of [listen] can be read, and what needs a certificate has one. */
bool check_doors(const struct config *config, char *error, size_t size);
/* Whether of the mechanisms that [auth] names there is one that a client could use. */
bool check_mechanisms(const struct config *config, char *error, size_t size);
/* What keeps nobody from being served, and is worth a warning once all else is well: whether all
 * that is set is of use to somebody, and whether the directories of sockets and mail are nobody
 * else's. */
bool check_use(const struct config *config, char *error, size_t size);
bool check_places(const struct config *config, char *error, size_t size);
/* Whether the children's programs are there to be started. */
bool check_programs(const struct config *config, char *error, size_t size);

/* These but for descriptors, of which a service may have others than who asks, and accounts,
 * directories, PAM services and certificates too: each fault is a line on stderr. Returns how many
 * there are. What only root can see is passed over for others, with a line that is no fault. */
unsigned check_all(const struct config *config);

#endif
