/*
 * selfcheck.c - whether this process is still what it was before it ran PAM modules.
 *
 * Runs in poplar-auth as root, after every exchange. Looks only, repairs nothing: a process that
 * differs is replaced.
 */
#include "auth/selfcheck.h"
#include "daemon/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

static void read_ids(struct selfcheck_ids *ids)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = {0};

    memset(ids, 0, sizeof *ids);
    getresuid(&ids->user[0], &ids->user[1], &ids->user[2]);
    getresgid(&ids->group[0], &ids->group[1], &ids->group[2]);
    ids->user[3] = (uid_t)setfsuid((uid_t)-1); /* no such id: this only asks */
    ids->group[3] = (gid_t)setfsgid((gid_t)-1);
    if (getgroups(SELFCHECK_GROUPS, ids->groups) < 0) /* more of them: compared by number */
        memset(ids->groups, 0, sizeof ids->groups);
    ids->n_groups = getgroups(0, NULL);
    syscall(SYS_capget, &header, caps);
    ids->capabilities = (unsigned long long)caps[1].effective << 32 | caps[0].effective;
}

static void add_fd(struct selfcheck *self, int fd)
{
    struct stat st = {0};
    if (self->n_fds >= SELFCHECK_FDS || fstat(fd, &st) < 0)
        return;
    self->fds[self->n_fds++] = (struct selfcheck_fd){fd, st.st_dev, st.st_ino};
}

static int by_number(const void *a, const void *b)
{
    return ((const struct selfcheck_fd *)a)->fd - ((const struct selfcheck_fd *)b)->fd;
}

static void read_fds(struct selfcheck *self)
{
    self->n_fds = 0;
    DIR *list = opendir("/proc/self/fd");
    if (!list) { /* no /proc here: try the numbers that are likely */
        for (int fd = 0; fd < 1024; fd++)
            add_fd(self, fd);
        return;
    }
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && fd != dirfd(list))
            add_fd(self, fd);
    }
    closedir(list);
    qsort(self->fds, self->n_fds, sizeof self->fds[0], by_number);
}

/* What goes on by itself, and would strike whom this process serves then. */
static void read_activity(struct selfcheck *self)
{
    struct itimerval timer = {0};
    siginfo_t child;
    getitimer(ITIMER_REAL, &timer);
    self->alarm = timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0;
    self->children = waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) == 0;
    self->threads = unshare(CLONE_THREAD) < 0 && errno == EINVAL; /* of one thread: does nothing */
}

static void read_state(struct selfcheck *self)
{
    struct stat here = {0};
    memset(self, 0, sizeof *self);
    closelog(); /* libc keeps its socket to the log open: that one is nobody's leak */
    read_ids(&self->ids);
    umask(self->umask = umask(0));
    stat(".", &here);
    self->cwd_device = here.st_dev;
    self->cwd_inode = here.st_ino;
    sigprocmask(SIG_BLOCK, NULL, &self->blocked);
    for (int i = 1; i < NSIG; i++) {
        struct sigaction action;
        if (sigaction(i, NULL, &action) == 0)
            self->handlers[i] = action.sa_handler;
    }
    for (unsigned i = 0; i < RLIM_NLIMITS; i++)
        getrlimit(i, &self->limits[i]);
    read_activity(self);
}

void selfcheck_record(struct selfcheck *self)
{
    read_state(self);
    read_fds(self);
}

bool selfcheck_same_ids(const struct selfcheck *self)
{
    struct selfcheck_ids now;
    read_ids(&now);
    return memcmp(&now, &self->ids, sizeof now) == 0;
}

struct selfcheck_fd selfcheck_record_fd(int fd)
{
    struct stat st = {0};
    fstat(fd, &st); /* what nobody can look at is not the same later */
    return (struct selfcheck_fd){fd, st.st_dev, st.st_ino};
}

bool selfcheck_same_fd(const struct selfcheck_fd *recorded)
{
    struct stat st;
    return fstat(recorded->fd, &st) == 0 && st.st_dev == recorded->device &&
           st.st_ino == recorded->inode;
}

bool selfcheck_same_fds(const struct selfcheck *self)
{
    for (size_t i = 0; i < self->n_fds; i++)
        if (!selfcheck_same_fd(&self->fds[i]))
            return false;
    return true;
}

/* What a client of a name service keeps: to be asked, and without a way to change anything. */
static bool is_kept(int fd)
{
    int domain = 0;
    socklen_t size = sizeof domain;
    struct stat st;
    if ((fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0)
        return false;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0)
        return domain == AF_UNIX;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
           (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
}

/* The first descriptor that was closed or replaced, or opened by who knows whom; -1 if none was. */
static int find_fd(const struct selfcheck *then, const struct selfcheck *now)
{
    size_t t = 0, kept = 0;
    for (size_t n = 0; n < now->n_fds; n++) {
        const struct selfcheck_fd *a = &then->fds[t], *b = &now->fds[n];
        if (t < then->n_fds && a->fd <= b->fd) {
            if (a->fd != b->fd || a->device != b->device || a->inode != b->inode)
                return a->fd;
            t++;
        } else if (kept++ == SELFCHECK_FDS_KEPT || !is_kept(b->fd)) {
            return b->fd;
        }
    }
    return t < then->n_fds ? then->fds[t].fd : -1;
}

static const char *find_difference(const struct selfcheck *then, const struct selfcheck *now)
{
    if (memcmp(&then->ids, &now->ids, sizeof now->ids) != 0)
        return "ids, groups or capabilities";
    if (then->umask != now->umask)
        return "umask";
    if (then->cwd_device != now->cwd_device || then->cwd_inode != now->cwd_inode)
        return "working directory";
    for (int i = 1; i < NSIG; i++) {
        if (then->handlers[i] != now->handlers[i])
            return "signal handlers";
        if (sigismember(&then->blocked, i) != sigismember(&now->blocked, i))
            return "signal mask";
    }
    if (memcmp(then->limits, now->limits, sizeof now->limits) != 0)
        return "resource limits";
    if (then->alarm != now->alarm)
        return "an alarm";
    if (then->children != now->children)
        return "child processes";
    if (then->threads != now->threads)
        return "threads";
    return NULL;
}

/* From Linux 6.2 on the directory's size is how many there are. No other than those of the start,
 * if these are all there and no more are open; else, and before, the list is read. */
static bool has_no_other_fd(const struct selfcheck *self)
{
    struct stat st;
    return stat("/proc/self/fd", &st) == 0 && (size_t)st.st_size == self->n_fds &&
           selfcheck_same_fds(self);
}

bool selfcheck_same(const struct selfcheck *self, char *difference, size_t size)
{
    struct selfcheck now;
    int fd = -1;
    read_state(&now);
    if (!has_no_other_fd(self)) {
        read_fds(&now);
        fd = find_fd(self, &now);
    }
    const char *what = find_difference(self, &now);
    if (what)
        base_copy(difference, size, what);
    else if (fd >= 0)
        snprintf(difference, size, "descriptor %d", fd);
    return !what && fd < 0;
}
