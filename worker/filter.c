/*
 * filter.c - the whole of what a worker may ask of the kernel. The table is compiled in the nursery
 * and loaded in each worker. Nothing in it opens, connects, executes, removes or signals anything.
 */
#include "worker/filter.h"
#include "daemon/base.h"
#include "daemon/proto.h"
#include "store/files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How far a system call is open. Only the store needs those on granted descriptors; before login
 * these numbers stand for nothing, so the calls can do nothing. */
enum scope {
    SCOPE_ANY,
    SCOPE_NO_EXEC,      /* memory that is not executable */
    SCOPE_FILES,        /* on granted descriptors and the spool */
    SCOPE_GRANTED,      /* on granted descriptors */
    SCOPE_LOCKING,      /* on granted descriptors, to lock and unlock ranges */
    SCOPE_GRANTED_STAT, /* on granted descriptors, of the descriptor itself */
};

struct row {
    /* By libseccomp's names; the first that this architecture has. */
    const char *names[2];
    enum scope scope;
    const char *reason;
};

static const struct row rows[] = {
    {{"read"}, SCOPE_ANY, "the client"},
    {{"write"}, SCOPE_ANY, "the client; with log_level=debug a last word on stderr"},
    {{"recvmsg"}, SCOPE_ANY, "master and auth, descriptors with it"},
    {{"sendmsg"}, SCOPE_ANY, "master and auth"},
    {{"poll", "ppoll"}, SCOPE_ANY, "every wait; SQLite's busy handler"},
    {{"close"}, SCOPE_ANY, "the client, an exchange, the maildrop"},
    {{"exit_group"}, SCOPE_ANY, "the end"},
    {{"futex_time64", "futex"}, SCOPE_ANY, "locks of the C library and OpenSSL when contended"},
    {{"brk"}, SCOPE_ANY, "malloc"},
    {{"mmap2", "mmap"}, SCOPE_NO_EXEC, "malloc; the maildrop's -shm"},
    {{"munmap"}, SCOPE_ANY, "free; the maildrop's -shm"},
    {{"mremap"}, SCOPE_ANY, "realloc of large blocks"},
    {{"getrandom"}, SCOPE_ANY, "OpenSSL's generator, UIDLs"},
    {{"clock_gettime64", "clock_gettime"}, SCOPE_ANY, "deadlines, where there is no vDSO for it"},
    {{"restart_syscall"}, SCOPE_ANY, "a poll goes on after stop and continue"},
    {{"getpid"}, SCOPE_ANY, "OpenSSL's generator notices a fork by it"},
    {{"pread64"}, SCOPE_FILES, "SQLite reads the maildrop; a message leaves the spool"},
    {{"pwrite64"}, SCOPE_FILES, "SQLite writes the maildrop; a message comes in"},
    {{"fdatasync"}, SCOPE_GRANTED, "a commit is durable"},
    {{"ftruncate64", "ftruncate"}, SCOPE_FILES, "SQLite sizes -wal and -shm; the spool is emptied"},
    {{"fcntl64", "fcntl"}, SCOPE_LOCKING, "SQLite's locks, the maildrop's write lock"},
    {{"newfstatat"}, SCOPE_GRANTED_STAT, "SQLite and the link check look at size and links"},
};

static const int locking[] = {F_GETLK, F_SETLK, F_OFD_SETLK};

struct filter {
    size_t n;
    struct sock_filter *program;
};

/* The name that this architecture has, and its number. */
static const char *resolve(const struct row *row, int *number)
{
    for (size_t i = 0; i < ARRAY_SIZE(row->names) && row->names[i]; i++) {
        *number = seccomp_syscall_resolve_name(row->names[i]);
        if (*number >= 0)
            return row->names[i];
    }
    return NULL;
}

/* An argument that must be this value. */
static struct scmp_arg_cmp equal(unsigned argument, int value)
{
    return (struct scmp_arg_cmp){
        .arg = argument, .op = SCMP_CMP_EQ, .datum_a = (scmp_datum_t)value};
}

/* On descriptors from `first` on: where a spool moves the grant up, its numbers are as good. */
static int allow_granted(scmp_filter_ctx context, int number, int first,
                         const struct scmp_arg_cmp *more)
{
    int result = 0;
    for (int fd = first; fd < PROTO_FD_END && result == 0; fd++) {
        struct scmp_arg_cmp both[2] = {equal(0, fd)};
        if (more)
            both[1] = *more;
        result = seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, more ? 2 : 1, both);
    }
    return result;
}

static int allow(scmp_filter_ctx context, const struct row *row, int number)
{
    const struct scmp_arg_cmp no_exec = {
        .arg = 2, .op = SCMP_CMP_MASKED_EQ, .datum_a = PROT_EXEC, .datum_b = 0};
    const struct scmp_arg_cmp itself = equal(3, AT_EMPTY_PATH);
    int result = 0;
    switch (row->scope) {
    case SCOPE_ANY:
        return seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0);
    case SCOPE_NO_EXEC:
        return seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, 1, &no_exec);
    case SCOPE_FILES:
        return allow_granted(context, number, PROTO_FD_SPOOL, NULL);
    case SCOPE_GRANTED:
        return allow_granted(context, number, PROTO_FD_GRANT, NULL);
    case SCOPE_GRANTED_STAT:
        return allow_granted(context, number, PROTO_FD_GRANT, &itself);
    case SCOPE_LOCKING:
        for (size_t i = 0; i < ARRAY_SIZE(locking) && result == 0; i++) {
            struct scmp_arg_cmp command = equal(1, locking[i]);
            result = allow_granted(context, number, PROTO_FD_GRANT, &command);
        }
        return result;
    }
    return -EINVAL;
}

/* Take the program out of libseccomp: from then on it is a few hundred bytes. */
static struct filter *export(scmp_filter_ctx context)
{
    struct filter *filter = NULL;
    struct stat status;
    int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0 || seccomp_export_bpf(context, fd) < 0 || fstat(fd, &status) < 0)
        goto out;
    filter = base_alloc(sizeof *filter);
    filter->n = (size_t)status.st_size / sizeof *filter->program;
    filter->program = base_alloc((size_t)status.st_size);
    if (pread(fd, filter->program, (size_t)status.st_size, 0) != status.st_size) {
        filter_free(filter);
        filter = NULL;
    }
out:
    base_close(fd);
    return filter;
}

struct filter *filter_compile(bool log_only, char *error, size_t error_size)
{
    struct filter *filter = NULL;
    int number;
    scmp_filter_ctx context = seccomp_init(log_only ? SCMP_ACT_LOG : SCMP_ACT_KILL_PROCESS);
    snprintf(error, error_size, "libseccomp cannot make the filter: %s",
             context ? "no memory" : "it refuses to start");
    if (!context)
        return NULL;
    if (seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) < 0 ||
        seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2) < 0)
        goto out;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *name = resolve(&rows[i], &number);
        int result = name ? allow(context, &rows[i], number) : 0;
        if (result < 0) {
            snprintf(error, error_size, "libseccomp refuses the rule for %s: %s", name,
                     strerror(-result));
            goto out;
        }
    }
    filter = export(context);
out:
    seccomp_release(context);
    return filter;
}

void filter_free(struct filter *filter)
{
    if (!filter)
        return;
    free(filter->program);
    free(filter);
}

bool filter_load(const struct filter *filter)
{
    struct sock_fprog program = {.len = (unsigned short)filter->n, .filter = filter->program};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

bool filter_call(size_t n, int *number, const char **name, bool *before_login)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const char *found = resolve(&rows[i], number);
        if (!found || n-- > 0)
            continue;
        *name = found;
        *before_login = rows[i].scope == SCOPE_ANY || rows[i].scope == SCOPE_NO_EXEC;
        return true;
    }
    return false;
}

static size_t count(bool all)
{
    size_t total = 0;
    int number;
    const char *name;
    bool before_login;
    for (size_t n = 0; filter_call(n, &number, &name, &before_login); n++)
        total += all || before_login;
    return total;
}

size_t filter_count(void)
{
    return count(true);
}

size_t filter_count_before_login(void)
{
    return count(false);
}

void filter_print(FILE *to)
{
    static const char *const scopes[] = {
        [SCOPE_ANY] = "",
        [SCOPE_NO_EXEC] = "never executable",
        [SCOPE_FILES] = "granted descriptors, spool",
        [SCOPE_GRANTED] = "granted descriptors",
        [SCOPE_LOCKING] = "granted descriptors, locks",
        [SCOPE_GRANTED_STAT] = "granted descriptors, no path",
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        int number;
        const char *name = resolve(&rows[i], &number);
        if (name)
            fprintf(to, "%-16s %-29s %s\n", name, scopes[rows[i].scope], rows[i].reason);
    }
    fprintf(to, "%zu system calls, %zu of them usable before login\n", filter_count(),
            filter_count_before_login());
}
