/*
 * confine.c - the nursery's way down: runs as root at the top of confine_process(), as worker_user
 * without a capability, a file system or a way back at its end. Must run before anything is read
 * from a client. Without root it does all of this that needs no privilege.
 */
#include "worker/confine.h"
#include "daemon/base.h"
#include "daemon/privileges.h"
#include "daemon/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self  446
#endif

/* A directory that is empty for good: it has no name any more, so nothing can be put into it. */
static int open_empty(const char *under)
{
    char *path = base_format("%s/empty-XXXXXX", under);
    int fd = -1;
    if (mkdtemp(path)) {
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        rmdir(path);
    }
    free(path);
    return fd;
}

static bool enter_empty(const struct config *config)
{
    int fd = open_empty(config->server.run_dir);
    if (fd < 0)
        fd = open_empty("/tmp");
    bool done = fd >= 0 && fchdir(fd) == 0 && chroot(".") == 0;
    base_close(fd);
    return done && chdir("/") == 0;
}

/* linux/landlock.h as it grew: each version of the interface knows one more right or kind of them.
 */
struct landlock_rights {
    uint64_t files, network, scopes;
};

static struct landlock_rights known_rights(int version)
{
    /* Files: 13 rights at first, then rename between directories, truncation, ioctl on devices.
     * Network: bind and connect of TCP. Scopes: abstract sockets, signals. */
    unsigned files = version >= 5 ? 16 : version >= 3 ? 15 : version >= 2 ? 14 : 13;
    return (struct landlock_rights){.files = (UINT64_C(1) << files) - 1,
                                    .network = version >= 4 ? 3 : 0,
                                    .scopes = version >= 6 ? 3 : 0};
}

/* Handle every right that the kernel knows, and have no rule that gives one back. */
static bool restrict_landlock(void)
{
    const unsigned ask_version = 1;
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, ask_version);
    if (version < 1)
        return false;
    struct landlock_rights rights = known_rights((int)version);
    size_t size = version >= 6   ? sizeof rights
                  : version >= 4 ? offsetof(struct landlock_rights, scopes)
                                 : offsetof(struct landlock_rights, network);
    int fd = (int)syscall(SYS_landlock_create_ruleset, &rights, size, 0);
    bool done = fd >= 0 && syscall(SYS_landlock_restrict_self, fd, 0) == 0;
    base_close(fd);
    return done;
}

static bool drop(const struct config *config, char *missing, size_t missing_size, bool *rooted,
                 char *error, size_t error_size)
{
    uid_t uid;
    gid_t gid;
    const char *user = config->server.worker_user;
    *rooted = false;
    if (geteuid() != 0) {
        if (!privileges_lookup(user, &uid, &gid) || uid != geteuid())
            return config_refuse(config, "server", "", "worker_user", user, error, error_size,
                                 "only root can run workers as somebody else; start poplard as "
                                 "root or, to try it out, name the user who starts it");
        textlist_add_word(missing, missing_size, "a user of their own (not started as root)");
        return true;
    }
    if (!privileges_find_worker(config, &uid, &gid, error, error_size))
        return false;
    *rooted = enter_empty(config);
    privileges_drop(uid, gid);
    return true;
}

bool confine_process(const struct config *config, char *missing, size_t missing_size, char *error,
                     size_t error_size)
{
    const struct rlimit none = {0, 0};
    bool rooted;
    *missing = '\0';
    if (!drop(config, missing, missing_size, &rooted, error, error_size))
        return false;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        setrlimit(RLIMIT_CORE, &none) < 0)
        return base_refuse(error, error_size, "the sandbox cannot be set up: %s", strerror(errno));
    if (restrict_landlock())
        return true;
    if (config->workers.landlock == 1)
        return config_refuse(config, "workers", "", "landlock", "require", error, error_size,
                             "this kernel offers no Landlock (it needs 5.13, and landlock in "
                             "lsm=); set landlock=auto to go on without");
    textlist_add_word(missing, missing_size, "Landlock (not offered by this kernel)");
    if (!rooted)
        textlist_add_word(missing, missing_size, "an empty root directory (no CAP_SYS_CHROOT)");
    return true;
}

bool confine_worker(void)
{
    const struct rlimit descriptors = {PROTO_FD_END, PROTO_FD_END};
    const struct rlimit none = {0, 0};
    return setrlimit(RLIMIT_NOFILE, &descriptors) == 0 && setrlimit(RLIMIT_NPROC, &none) == 0;
}
