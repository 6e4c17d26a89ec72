/*
 * grant.h - from a canonical user name to the open files of that user's maildrop, and no others.
 *
 * Runs in poplar-auth (root) and poplarctl (root or store_user). Files are opened under the store
 * user's file-system ids, beneath state_dir, with openat2: no symlinks, regular files, one link.
 */
#ifndef POPLAR_AUTH_GRANT_H
#define POPLAR_AUTH_GRANT_H

#include "daemon/config.h"
#include "daemon/proto.h"
#include "store/files.h"

enum {
    GRANT_PATH_MAX = 300 /* octets of a maildrop's path below state_dir, with NUL */
};

struct grant_root; /* state_dir, open; and who the store user is */

/* Open state_dir, once at start, before privileges go. Checks that it is a directory of the store
 * user, closed to others, on a local file system. NULL, errno, and one line in `error`. */
struct grant_root *grant_root_open(const struct config *config, char *error, size_t error_size);
void grant_root_close(struct grant_root *root); /* NULL is legal */

/* Whether maildrops could be written there, and a worker work on them; else one line in `error`.
 * For a start: of a disk that turns read-only later each login tells. */
bool grant_root_is_usable(const struct grant_root *root, const struct config *config, uid_t worker,
                          char *error, size_t error_size);

/* The path of a maildrop below state_dir: "mail/H1/H2/NAME". False if the name's encoding is too
 * long for a file name. Pure. */
bool grant_path(const char *user, char path[GRANT_PATH_MAX]);

/* Open the maildrop of a canonical user, making it if it is not there and `create`; take the
 * session byte of its lock if `session` (LOGIN_IN_USE if another has it). LOGIN_OK: `files` are the
 * caller's. Else one of LOGIN_IN_USE, LOGIN_NO_MAILDROP, LOGIN_STORE_TEMP, LOGIN_STORE_PERM, and
 * `error` says what failed where, for the log. */
enum login_outcome grant_open(const struct grant_root *root, const char *user, bool create,
                              bool session, int files[MAILDROP_FILES], char *error,
                              size_t error_size);

/* A file without a name in state_dir, for messages on their way in, the store user's as maildrops
 * are: -1 where there can be none, and `error` says why. The caller's. */
int grant_spool(const struct grant_root *root, char *error, size_t error_size);

/* Whether a message of at most `size` octets leaves enough room under state_dir: who deletes mail
 * needs some, or a disk that mail has filled stays full. Else `error` says how much is there. */
bool grant_has_room(const struct grant_root *root, uint64_t size, char *error, size_t error_size);

#endif
