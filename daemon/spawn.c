/*
 * spawn.c - see spawn.h. Runs in the master, as root.
 */
#include "daemon/spawn.h"
#include "daemon/base.h"
#include "daemon/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

enum { /* proc(5), oom_score_adj */
       OOM_MORE = 100,
       OOM_MOST = 1000
};

/* Close what is above descriptor 3, but for one that is close-on-exec, if it is not -1. */
static bool close_others(int kept)
{
    const unsigned first = PROTO_FD_CONTROL + 1, last = ~0U;
    if (kept < 0)
        return close_range(first, last, 0) == 0;
    return ((unsigned)kept == first || close_range(first, (unsigned)kept - 1, 0) == 0) &&
           close_range((unsigned)kept + 1, last, 0) == 0;
}

/* When memory is short the kernel ends whom this makes the larger: one session or login, not all of
 * them. Without /proc it may be the master. */
static void offer_to_oom_killer(void)
{
    char text[16] = "";
    int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
        return;
    int score = atoi(text) + OOM_MORE;
    snprintf(text, sizeof text, "%d", score < OOM_MOST ? score : OOM_MOST);
    (void)!write(fd, text, strlen(text));
}

/* What malloc() and the kernel would note in a process for its speed are pages that each worker,
 * once it is forked, has to be given a copy of. An administrator's own settings stand. */
static void tune_nursery(void)
{
    setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.pthread.rseq=0", false);
}

_Noreturn static void become(char *path, int kept, enum proto_role role, int end, pid_t master)
{
    char *arguments[] = {path, NULL};
    sigset_t none;

    offer_to_oom_killer();
    privileges_die_with(master);
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
        fatal(EX_OSERR, "/dev/null: %s", strerror(errno));
    /* `end` is above 3, the other end's number or more: dup2 clears its close-on-exec. */
    if (dup2(end, PROTO_FD_CONTROL) < 0)
        fatal(EX_OSERR, "descriptor 3: %s", strerror(errno));
    if (!close_others(kept))
        fatal(EX_OSERR, "close_range: %s", strerror(errno));
    /* A terminal and `systemctl kill` send these to all of us: they are the master's to act on. */
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    unsetenv("NOTIFY_SOCKET");
    if (role == ROLE_NURSERY)
        tune_nursery();
    if (kept < 0)
        execv(path, arguments);
    else
        fexecve(kept, arguments, environ);
    fatal(EX_OSFILE, "%s: %s; set [server] program_dir", path, strerror(errno));
}

int spawn_keep(const char *dir, const char *program)
{
    char *path = base_format("%s/%s", dir, program);
    int fd = open(path, O_PATH | O_CLOEXEC);
    free(path);
    return fd;
}

bool spawn_is_child(pid_t pid)
{
    siginfo_t info;
    return pid > 0 && waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

pid_t spawn_child(const char *dir, const char *program, int kept, enum proto_role role,
                  struct channel *channel)
{
    int ends[2];
    pid_t master = getpid(), pid = -1;
    char *path = base_format("%s/%s", dir, program);
    /* A child that cannot exec has nobody to tell. */
    bool paired = (kept >= 0 || access(path, X_OK) == 0) && channel_pair(ends, true) == 0;
    if (paired && (pid = fork()) == 0)
        become(path, kept, role, ends[1], master);
    free(path);
    if (!paired)
        return -1;
    base_close(ends[1]);
    if (pid < 0)
        base_close(ends[0]);
    else
        channel_open(channel, ends[0], ROLE_MASTER, role, STATE_STARTING);
    return pid;
}
