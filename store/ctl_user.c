/*
 * ctl_user.c - poplarctl user and help. `user` runs the same function as a login does, so that an
 * administrator sees which maildrop a name means before mail is in the wrong one.
 */
#include "auth/canonical.h"
#include "auth/grant.h"
#include "store/ctl.h"
#include "store/ctl_command.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>

/* "there", "none yet", or why that cannot be told. */
static const char *state_of(const char *path)
{
    struct stat about;
    if (lstat(path, &about) == 0)
        return S_ISDIR(about.st_mode) ? "there" : "not a directory";
    if (errno == ENOENT)
        return "none yet";
    return errno == EACCES ? "only root can see" : strerror(errno);
}

int ctl_user(struct ctl *ctl)
{
    char name[PROTO_USER_MAX + 1], below[GRANT_PATH_MAX];
    const char *service;
    int status = ctl_open_user(ctl, ctl->words[0], name, &service);
    if (status)
        return status;
    if (!grant_path(name, below))
        return ctl_fail(EX_NOUSER, "%s: too long for a maildrop's name; choose a shorter one",
                        name);
    char *path = base_format("%s/%s", ctl->config->server.state_dir, below);
    const char *state = state_of(path);
    if (ctl->options & CTL_JSON) {
        json_t *object = json_pack("{s:s, s:s, s:s, s:s}", "user", name, "pam_service", service,
                                   "maildrop", path, "state", state);
        if (object)
            json_dumpf(object, stdout, JSON_COMPACT);
        else
            status = ctl_fail(EX_DATAERR, "this name or path is not UTF-8, so not for JSON");
        json_decref(object);
        putchar('\n');
    } else {
        char safe[4 * PROTO_USER_MAX + 1];
        base_escape(safe, sizeof safe, name);
        printf("user         %s\nPAM service  %s\nmaildrop     %s (%s)\n", safe, service, path,
               state);
    }
    free(path);
    return status;
}

int ctl_help(struct ctl *ctl)
{
    char error[512];
    size_t used;
    const struct ctl_command *command = NULL;
    if (ctl->n_words > 0) {
        command = ctl_command_find(ctl->words, ctl->n_words, &used, error, sizeof error);
        if (!command)
            return ctl_fail(EX_USAGE, "%s", error);
    }
    ctl_command_help(stdout, command);
    return 0;
}
