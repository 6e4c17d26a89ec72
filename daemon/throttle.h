/*
 * throttle.h - who failed to log in too often lately. Pure state and time, bounded memory; master
 * only.
 *
 * Each source has a bucket that failures fill and time drains; a full one refuses logins before
 * auth is asked. Each user name has one too: while it is full, failures against that name fill the
 * sources' buckets faster. No name is ever refused by itself: that would let anybody lock it out.
 */
#ifndef POPLAR_DAEMON_THROTTLE_H
#define POPLAR_DAEMON_THROTTLE_H

#include "daemon/address.h"

struct throttle;

struct throttle *throttle_new(void);
void throttle_free(struct throttle *throttle); /* NULL is legal */

/* Whether a source must wait before it may try again. `now` in milliseconds. */
bool throttle_refuses(const struct throttle *throttle, const struct address_source *source,
                      uint64_t now);

/* How many failures a source has on record, and one more where no login succeeded from there
 * lately: who is served first when logins wait for each other. */
unsigned throttle_rank(const struct throttle *throttle, const struct address_source *source,
                       uint64_t now);

/* A login from `source` succeeded. It is no excuse for failures. */
void throttle_succeeded(struct throttle *throttle, const struct address_source *source,
                        uint64_t now);
/* What a failure did. */
enum throttle_filled {
    THROTTLE_SOURCE = 1, /* the source's bucket is full now: its logins are refused */
    THROTTLE_USER = 2,   /* the user's is */
};

/* A login from `source` for `user` ("": not known) failed. `digest` is auth's keyed digest of the
 * secret: the same wrong one again from the same source costs nothing, it is a client that nobody
 * told of a new password. A set of enum throttle_filled: the buckets that this failure filled. */
unsigned throttle_failed(struct throttle *throttle, const struct address_source *source,
                         const char *user, uint64_t digest, uint64_t now);

/* The full bucket at `*at` or the next after it, of sources or of users: who it is of, and in how
 * many milliseconds it is not full any more. `*at` is then where to go on. False: there is none. */
bool throttle_next(const struct throttle *throttle, bool users, uint64_t now, size_t *at,
                   char name[PROTO_USER_MAX + 1], uint64_t *left);

#endif
