/*
 * ctl_open.c - from a user's name to an open maildrop, for poplarctl. Runs as root (grant.c then
 * opens the files under the store user's file-system ids) or as the store user; the same code
 * that auth runs for a login decides the name and opens the files. Never opens them otherwise.
 */
#include "auth/canonical.h"
#include "auth/grant.h"
#include "daemon/privileges.h"
#include "store/ctl.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

enum { OPEN_ATTEMPTS = 4 }; /* a stale -wal is met once, if ever; more is no accident */

/* The domain of a name, when it stayed there only because nobody said that it is ours. */
static const char *foreign_domain(const struct config *config, const char *name)
{
    const char *at = strrchr(name, '@');
    if (!at || config->auth.strip_domain != STRIP_LOCAL)
        return NULL;
    for (size_t i = 0; i < config->auth.n_domains; i++)
        if (strcasecmp(config->auth.domains[i].name, at + 1) == 0)
            return NULL;
    return at + 1;
}

static int unknown_user(const struct config *config, const char *name)
{
    const char *foreign = foreign_domain(config, name);
    if (foreign)
        return ctl_fail(EX_NOUSER,
                        "%s: no such account, and %s is not in [server] local_domains; name it "
                        "there if it is yours, or in a section [domain %s]",
                        name, foreign, foreign);
    if (config->auth.canonical == CANONICAL_NSS)
        return ctl_fail(EX_NOUSER,
                        "%s: no such account; make it, or set [auth] canonical=pam and "
                        "require_nss=no to have users without one",
                        name);
    return ctl_fail(EX_NOUSER,
                    "%s: no such account, and [auth] require_nss=yes wants one; make it, or set "
                    "require_nss=no",
                    name);
}

static int refused_user(const struct config *config, const char *name)
{
    const struct passwd *account = getpwnam(name);
    if (account && (account->pw_uid == 0 || account->pw_uid == 65534))
        return ctl_fail(EX_NOUSER, "%s: uid %u never has a maildrop; choose another user", name,
                        (unsigned)account->pw_uid);
    return ctl_fail(EX_NOUSER,
                    "%s: uid %u is below [auth] first_uid=%ju; choose another user, or set "
                    "first_uid lower",
                    name, account ? (unsigned)account->pw_uid : 0u,
                    (uintmax_t)config->auth.first_uid);
}

static enum canonical_outcome resolve(const struct config *config, const char *given,
                                      char folded[PROTO_USER_MAX + 1],
                                      char name[PROTO_USER_MAX + 1], const char **service)
{
    enum canonical_outcome outcome = canonical_fold(config, given, folded, service);
    return outcome == CANONICAL_OK ? canonical_finish(config, folded, name) : outcome;
}

static int no_user(const struct ctl *ctl, enum canonical_outcome outcome, const char *given,
                   const char *folded)
{
    switch (outcome) {
    case CANONICAL_OK:
        return 0;
    case CANONICAL_MALFORMED:
        return ctl_fail(EX_NOUSER,
                        "\"%s\" cannot be a user: 1-%d octets without '/' and control characters, "
                        "not blanks alone, \".\" or \"..\"",
                        given, PROTO_USER_MAX);
    case CANONICAL_UNKNOWN:
        return unknown_user(ctl->config, folded);
    case CANONICAL_REFUSED:
        return refused_user(ctl->config, folded);
    case CANONICAL_UNAVAILABLE:
        break;
    }
    return ctl_fail(EX_TEMPFAIL, "%s: the account look-up failed; try again when it works", folded);
}

int ctl_open_user(const struct ctl *ctl, const char *given, char name[PROTO_USER_MAX + 1],
                  const char **pam_service)
{
    char folded[PROTO_USER_MAX + 1];
    const char *service;
    enum canonical_outcome outcome = resolve(ctl->config, given, folded, name, &service);
    if (outcome == CANONICAL_OK && pam_service)
        *pam_service = service;
    return no_user(ctl, outcome, given, folded);
}

bool ctl_open_exists(const struct ctl *ctl, const char *name)
{
    char below[GRANT_PATH_MAX];
    struct stat about;
    if (!grant_path(name, below))
        return false;
    char *path = base_format("%s/%s", ctl->config->server.state_dir, below);
    bool there = lstat(path, &about) == 0 ? S_ISDIR(about.st_mode)
                                          : errno != ENOENT && errno != ENOTDIR && errno != EACCES;
    free(path);
    return there;
}

int ctl_open_name(const struct ctl *ctl, const char *given, char name[PROTO_USER_MAX + 1])
{
    char folded[PROTO_USER_MAX + 1];
    const char *service;
    enum canonical_outcome outcome = resolve(ctl->config, given, folded, name, &service);
    /* Accounts go, and their mail stays until somebody deletes it. */
    if ((outcome == CANONICAL_UNKNOWN || outcome == CANONICAL_REFUSED) &&
        ctl_open_exists(ctl, folded)) {
        base_copy(name, PROTO_USER_MAX + 1, folded);
        return 0;
    }
    return no_user(ctl, outcome, given, folded);
}

int ctl_open_guess(const struct ctl *ctl, const char *given, char name[PROTO_USER_MAX + 1],
                   bool *known)
{
    char folded[PROTO_USER_MAX + 1];
    const char *service;
    enum canonical_outcome outcome = resolve(ctl->config, given, folded, name, &service);
    if (outcome == CANONICAL_MALFORMED)
        return no_user(ctl, outcome, given, folded);
    if (outcome != CANONICAL_OK)
        base_copy(name, PROTO_USER_MAX + 1, folded);
    *known = outcome == CANONICAL_OK || ctl_open_exists(ctl, folded);
    return 0;
}

int ctl_open_may(const struct ctl *ctl)
{
    const struct config *config = ctl->config;
    uid_t uid;
    gid_t gid;
    if (!privileges_lookup(config->server.store_user, &uid, &gid))
        return ctl_fail(
            EX_CONFIG, "%s: [server] store_user=%s: no such account; make it, or name another",
            config_where(config, "server", "", "store_user"), config->server.store_user);
    if (geteuid() == 0 || geteuid() == uid)
        return 0;
    return ctl_fail(EX_NOPERM, "the maildrops belong to %s: run poplarctl as root, or as %s",
                    config->server.store_user, config->server.store_user);
}

static int grant_failed(const char *name, enum login_outcome outcome, unsigned how,
                        const char *error)
{
    switch (outcome) {
    case LOGIN_IN_USE:
        if (how & CTL_OPEN_QUIET)
            return EX_TEMPFAIL;
        return ctl_fail(EX_TEMPFAIL, "%s: a session holds the maildrop; try again when it is over",
                        name);
    case LOGIN_NO_MAILDROP:
        if (how & CTL_OPEN_NAMED)
            return EX_NOUSER;
        return ctl_fail(EX_NOUSER, "%s: no maildrop yet; mailbox create makes it", name);
    case LOGIN_STORE_TEMP:
        return ctl_fail(EX_TEMPFAIL, "%s: %s", name, error);
    default:
        return ctl_fail(EX_OSFILE, "%s: %s", name, error);
    }
}

/* One attempt; 0 with `outcome` set, or an exit status. */
static int open_once(const struct grant_root *root, unsigned how, struct ctl_maildrop *opened,
                     enum store_outcome *outcome)
{
    int files[MAILDROP_FILES];
    char error[512] = "";
    enum login_outcome granted = grant_open(root, opened->name, how & CTL_OPEN_CREATE,
                                            how & CTL_OPEN_SESSION, files, error, sizeof error);
    opened->in_use = granted == LOGIN_IN_USE;
    if (granted != LOGIN_OK)
        return grant_failed(opened->name, granted, how, error);
    *outcome = maildrop_open(files, &opened->store);
    return 0;
}

int ctl_open_maildrop(const struct ctl *ctl, const char *given, unsigned how,
                      struct ctl_maildrop *opened)
{
    char error[512];
    enum store_outcome outcome = STORE_STALE;
    int status = 0;
    opened->store = NULL;
    opened->in_use = false;
    if (how & CTL_OPEN_NAMED)
        base_copy(opened->name, sizeof opened->name, given);
    else if (how & CTL_OPEN_CREATE)
        status = ctl_open_user(ctl, given, opened->name, NULL);
    else
        status = ctl_open_name(ctl, given, opened->name);
    if (!status)
        status = ctl_open_may(ctl);
    if (status)
        return status;
    struct grant_root *root = grant_root_open(ctl->config, error, sizeof error);
    if (!root)
        return ctl_fail(base_status(errno, EX_CONFIG), "%s", error);
    if (maildrop_library_init(false) != STORE_OK)
        status = ctl_fail(EX_SOFTWARE, "this SQLite library lacks what the store needs");
    for (int i = 0; !status && outcome == STORE_STALE && i < OPEN_ATTEMPTS; i++)
        status = open_once(root, how, opened, &outcome);
    grant_root_close(root);
    if (status)
        return status;
    if (outcome != STORE_OK)
        return ctl_open_failed(opened, outcome, NULL);
    maildrop_limit(opened->store, ctl->config->store.quota_octets,
                   ctl->config->store.quota_messages);
    return 0;
}

void ctl_open_close(struct ctl_maildrop *opened)
{
    maildrop_close(opened->store);
    opened->store = NULL;
}

/* The exit status for a failure of the store, and what the administrator can do about it. */
static const struct advice {
    int status;
    const char *text;
} advice[] = {
    [STORE_OK] = {EX_SOFTWARE, "report this defect"},
    [STORE_END] = {EX_SOFTWARE, "report this defect"},
    [STORE_DAMAGED] = {EX_DATAERR, MAILDROP_REMEDY},
    [STORE_NEWER] = {EX_CONFIG, "a newer Poplar wrote it: run that one"},
    [STORE_STALE] = {EX_TEMPFAIL, "another program replaces its files: find and stop it"},
    [STORE_BUSY] = {EX_TEMPFAIL, "another process holds its lock: try again"},
    [STORE_FULL] = {EX_TEMPFAIL, "make room on the disk, then try again"},
    [STORE_IO] = {EX_IOERR, "the disk failed: see the kernel's log"},
    [STORE_OVER_QUOTA] = {EX_CANTCREAT,
                          "raise it, by mailbox set or in [store], or use --no-limits"},
    [STORE_TOO_LARGE] = {EX_DATAERR, "raise [store] max_message, or use --no-limits"},
    [STORE_SOURCE] = {EX_NOINPUT, "the input cannot be read"},
    [STORE_NOT_FOUND] = {EX_NOINPUT, "list the messages again"},
    [STORE_EXISTS] = {EX_DATAERR, "this UIDL is taken"},
    [STORE_REFUSED] = {EX_CONFIG, "see poplarctl(8)"},
    [STORE_MEMORY] = {EX_OSERR, "out of memory"},
};
_Static_assert(ARRAY_SIZE(advice) == STORE_MEMORY + 1, "each outcome has its own");

int ctl_open_failed(const struct ctl_maildrop *maildrop, enum store_outcome outcome,
                    const char *doing)
{
    const struct advice *a = &advice[outcome];
    const char *detail = maildrop_error(maildrop->store);
    return ctl_fail(a->status, "maildrop of %s: %s%s%s%s%s; %s", maildrop->name, doing ? doing : "",
                    doing ? ": " : "", maildrop_outcome_name(outcome), detail[0] ? ": " : "",
                    detail, a->text);
}
