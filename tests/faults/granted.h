/*
 * granted.h - maildrops made and opened by the grant, as auth does it, below a directory of the
 * test's.
 */
#ifndef POPLAR_TESTS_GRANTED_H
#define POPLAR_TESTS_GRANTED_H

#include "auth/grant.h"

enum { GRANTED_ERROR = 600 };

/* The files of alice's maildrop below `state_dir`, which is there; `error` has room for
 * GRANTED_ERROR octets. */
enum login_outcome granted_files(const char *state_dir, bool create, int files[MAILDROP_FILES],
                                 char *error);

#endif
