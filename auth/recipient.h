/*
 * recipient.h - whose maildrop a recipient's address means, and who may deliver to it.
 *
 * Runs in poplar-auth (root), on addresses that LMTP clients sent and on the peer's uid as the
 * kernel told it to the master.
 */
#ifndef POPLAR_AUTH_RECIPIENT_H
#define POPLAR_AUTH_RECIPIENT_H

#include "auth/grant.h"
#include <sys/types.h>

/* Find the maildrop that `address` means by [delivery] accept= and recipient_delimiter=, see that
 * `peer` may deliver to it (root and [delivery] trusted= to any, everybody else to their own
 * account's), and open it. On LOGIN_OK the files are the caller's: by SERVE_DELIVER always, for a
 * maildrop that may be made is made; by SERVE_TAKE if it is there, else they stay as they were; by
 * SERVE_CHECK it is only tried. `name` is whose it is.
 *
 * Else LOGIN_NO_USER, LOGIN_FORBIDDEN, LOGIN_UNAVAILABLE (a look-up failed: never "no such user"),
 * LOGIN_NO_ROOM, LOGIN_STORE_TEMP or LOGIN_STORE_PERM; `error` says what failed, for the log. */
enum login_outcome recipient_open(const struct config *config, const struct grant_root *root,
                                  const char *address, uid_t peer, enum proto_service service,
                                  char name[PROTO_USER_MAX + 1], int files[MAILDROP_FILES],
                                  char *error, size_t error_size);

#endif
