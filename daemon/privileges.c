/*
 * privileges.c - giving up privilege for good. Runs as root in master, auth and nursery, before
 * any of them has seen an octet from outside.
 */
#include "daemon/privileges.h"
#include "daemon/base.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sysexits.h>
#include <unistd.h>

bool privileges_lookup(const char *user, uid_t *uid, gid_t *gid)
{
    errno = 0;
    const struct passwd *account = getpwnam(user);
    if (!account)
        return false;
    *uid = account->pw_uid;
    *gid = account->pw_gid;
    errno = 0; /* what was tried on the way there is of no interest */
    return true;
}

static bool find(const struct config *config, const char *key, const char *user, uid_t *uid,
                 gid_t *gid, char *error, size_t size)
{
    if (privileges_lookup(user, uid, gid))
        return true;
    int why = errno;
    if (base_status(why, 0))
        config_refuse(config, "server", "", key, user, error, size,
                      "the account cannot be looked up: %s", strerror(why));
    else
        config_refuse(config, "server", "", key, user, error, size,
                      "no such account; make it with `useradd --system --no-create-home --shell "
                      "/usr/sbin/nologin %s`, or name another",
                      user);
    errno = why;
    return false;
}

bool privileges_find_store(const struct config *config, uid_t *uid, gid_t *gid, char *error,
                           size_t size)
{
    return find(config, "store_user", config->server.store_user, uid, gid, error, size);
}

bool privileges_find_worker(const struct config *config, uid_t *uid, gid_t *gid, char *error,
                            size_t size)
{
    uid_t owner = (uid_t)-1;
    gid_t group;
    const char *key = "worker_user", *user = config->server.worker_user, *fault = NULL;
    if (!find(config, key, user, uid, gid, error, size))
        return false;
    privileges_lookup(config->server.store_user, &owner, &group);
    if (*uid == 0 || *gid == 0) {
        fault = "root, or in root's group";
    } else if (owner == 0) { /* maildrops of root's would be opened with root's ids */
        key = "store_user";
        user = config->server.store_user;
        fault = "root";
    } else if (owner == *uid && geteuid() == 0) {
        fault = "store_user, too, whose the maildrops are";
    }
    errno = EINVAL;
    return !fault || config_refuse(config, "server", "", key, user, error, size,
                                   "is %s; name an account that is for this alone", fault);
}

/* Of the capabilities that this process has, keep no more than these. */
static void confine_capabilities(const int *keep)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct has[_LINUX_CAPABILITY_U32S_3] = {0}, may[ARRAY_SIZE(has)] = {0};
    for (; *keep >= 0; keep++)
        may[*keep / 32].permitted |= 1U << *keep % 32;
    bool good = syscall(SYS_capget, &header, has) == 0;
    for (size_t i = 0; i < ARRAY_SIZE(has); i++) {
        has[i].effective &= may[i].permitted;
        has[i].permitted &= may[i].permitted;
        has[i].inheritable = 0; /* nothing that we start is to have any by that */
    }
    if (!good || syscall(SYS_capset, &header, has) < 0)
        fatal(EX_OSERR, "capset: %s", strerror(errno));
}

void privileges_bound(const int *keep)
{
    if (geteuid() != 0)
        return;
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability) >= 0; capability++) {
        const int *kept = keep;
        while (*kept >= 0 && *kept != capability)
            kept++;
        if (*kept < 0 && prctl(PR_CAPBSET_DROP, capability) < 0 && errno != EPERM)
            fatal(EX_OSERR, "cannot drop capability %d: %s", capability, strerror(errno));
    }
    confine_capabilities(keep);
}

void privileges_drop(uid_t uid, gid_t gid)
{
    if (uid == 0 || gid == 0)
        bug("asked to drop privileges to root");
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        fatal(EX_OSERR, "cannot become uid %u: %s", (unsigned)uid, strerror(errno));
    confine_capabilities((const int[]){-1});

    uid_t uids[3];
    gid_t gids[3];
    if (getresuid(&uids[0], &uids[1], &uids[2]) < 0 || getresgid(&gids[0], &gids[1], &gids[2]) < 0)
        bug("ids cannot be read");
    for (size_t i = 0; i < ARRAY_SIZE(uids); i++) /* real, effective, saved */
        if (uids[i] != uid || gids[i] != gid)
            bug("privileges are not gone");
    if (getgroups(0, NULL) != 0)
        bug("groups are not gone");
    if (setuid(0) == 0 || setgid(0) == 0 || setgroups(0, NULL) == 0)
        bug("privileges came back");
}

void privileges_die_with(pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        fatal(EX_OSERR, "prctl(PR_SET_PDEATHSIG): %s", strerror(errno));
    if (getppid() != parent)
        _exit(0);
}
