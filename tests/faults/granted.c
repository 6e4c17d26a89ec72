/*
 * granted.c - maildrops made and opened by the grant, as auth does it.
 */
#include "tests/faults/granted.h"
#include <pwd.h>
#include <unistd.h>

enum login_outcome granted_files(const char *state_dir, bool create, int files[MAILDROP_FILES],
                                 char *error)
{
    struct config *config = config_new();
    const struct passwd *me = getpwuid(geteuid());
    enum login_outcome outcome = LOGIN_MISCONFIGURED;
    struct grant_root *root = NULL;

    if (config_set(config, "server", "", "state_dir", state_dir, error, GRANTED_ERROR) &&
        config_set(config, "server", "", "store_user", me ? me->pw_name : "", error, GRANTED_ERROR))
        root = grant_root_open(config, error, GRANTED_ERROR);
    config_free(config);
    if (root)
        outcome = grant_open(root, "alice", create, true, files, error, GRANTED_ERROR);
    grant_root_close(root);
    return outcome;
}
