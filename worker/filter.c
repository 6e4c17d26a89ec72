/*
 * filter.c - the whole of what a worker may ask of the kernel. Nothing in its table opens,
 * connects, executes, removes or signals anything.
 *
 * Two filters, because the kernel translates a filter when it is loaded, which takes longer than a
 * worker's fork when it is this table's. The nursery loads the table with the few calls that it
 * makes itself, once; each worker inherits that and loads a second one, which takes those few away.
 */
#include "worker/filter.h"
#include "daemon/base.h"
#include "daemon/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How far a system call is open. Only the store needs those on granted descriptors; before login
 * these numbers stand for nothing, so the calls can do nothing. */
enum scope {
    SCOPE_ANY,
    SCOPE_NO_EXEC,      /* memory that is not executable */
    SCOPE_GRANTED,      /* on granted descriptors */
    SCOPE_LOCKING,      /* on granted descriptors, to lock and unlock ranges */
    SCOPE_GRANTED_STAT, /* on granted descriptors, of the descriptor itself */
    SCOPE_FORK,         /* a child of the parent's, which shares nothing */
    SCOPE_DEATH,        /* the signal at the parent's end */
};

/* s390x has the arguments of mmap(2) in memory, where no filter looks, and the flags of clone(2)
 * behind the stack. */
#ifdef __s390x__
#define SCOPE_MMAP SCOPE_ANY
enum { CLONE_FLAGS = 1 };
#else
#define SCOPE_MMAP SCOPE_NO_EXEC
enum { CLONE_FLAGS = 0 };
#endif

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
    {{"futex", "futex_time64"}, SCOPE_ANY, "locks of the C library and OpenSSL when contended"},
    {{"brk"}, SCOPE_ANY, "malloc"},
    {{"mmap2", "mmap"}, SCOPE_MMAP, "malloc; the maildrop's -shm"},
    {{"munmap"}, SCOPE_ANY, "free; the maildrop's -shm"},
    {{"mremap"}, SCOPE_ANY, "realloc of large blocks"},
    {{"getrandom"}, SCOPE_ANY, "OpenSSL's generator, UIDLs"},
    {{"clock_gettime64", "clock_gettime"}, SCOPE_ANY, "clocks, where there is no vDSO for them"},
    {{"restart_syscall"}, SCOPE_ANY, "a poll goes on after stop and continue"},
    {{"getpid"}, SCOPE_ANY, "OpenSSL's generator notices a fork by it"},
    {{"pread64"}, SCOPE_GRANTED, "SQLite reads the maildrop; a message leaves the spool"},
    {{"pwrite64"}, SCOPE_GRANTED, "SQLite writes the maildrop; a message comes in"},
    {{"fdatasync"}, SCOPE_GRANTED, "a commit is durable"},
    {{"ftruncate64", "ftruncate"},
     SCOPE_GRANTED,
     "SQLite sizes -wal and -shm; the spool is emptied"},
    {{"fcntl64", "fcntl"}, SCOPE_LOCKING, "SQLite's locks, the maildrop's write lock"},
    {{"newfstatat", "statx"}, SCOPE_GRANTED_STAT, "sizes, and links that are left"},
};

/* What the nursery does, and a worker before it has met anybody. None of these is in the table
 * above. */
static const struct row nursery_rows[] = {
    {{"clone"}, SCOPE_FORK, "a worker"},
    {{"dup2", "dup3"}, SCOPE_ANY, "the worker's channel comes to its number"},
    {{"close_range"}, SCOPE_ANY, "and nothing beside it stays open"},
    {{"prctl"}, SCOPE_DEATH, "the worker ends with the master"},
    {{"getppid"}, SCOPE_ANY, "which may have ended already"},
    {{"prlimit64"}, SCOPE_ANY, "no further descriptor, no further process"},
    {{"seccomp"}, SCOPE_ANY, "the second filter"},
};

/* What fails, and ends nobody. glibc's malloc asks so for huge pages, if it is told to, and on
 * arm64 without being told from 2.43 on: for two megabytes and more. A kernel may not have this
 * call, and the memory is there either way. */
static const struct row refused = {{"madvise"}, SCOPE_ANY, "malloc's wish for huge pages"};

static const int locking[] = {F_GETLK, F_SETLK, F_OFD_SETLK};

struct program {
    size_t n;
    struct sock_filter *octets;
};

struct filter {
    struct program nursery, worker;
};

/* The name that this architecture has, and its number. Where sockets are reached by socketcall(2)
 * as well, libseccomp has negative numbers of its own for what is done to them, and makes rules for
 * both ways; other negative numbers are calls that are not there. */
static const char *resolve(const struct row *row, int *number)
{
    for (size_t i = 0; i < ARRAY_SIZE(row->names) && row->names[i]; i++) {
        *number = seccomp_syscall_resolve_name(row->names[i]);
        if (*number >= 0 || (*number <= __PNR_socket && *number >= __PNR_sendmmsg))
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

/* On the descriptors of grants, and of a spool. */
static int allow_granted(scmp_filter_ctx context, int number, const struct scmp_arg_cmp *more)
{
    int result = 0;
    for (int fd = PROTO_FD_GRANT; fd < PROTO_FD_END && result == 0; fd++) {
        struct scmp_arg_cmp both[2] = {equal(0, fd)};
        if (more)
            both[1] = *more;
        result = seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, more ? 2 : 1, both);
    }
    return result;
}

static int allow(scmp_filter_ctx context, const struct row *row, const char *name, int number)
{
    const struct scmp_arg_cmp no_exec = {
        .arg = 2, .op = SCMP_CMP_MASKED_EQ, .datum_a = PROT_EXEC, .datum_b = 0};
    struct scmp_arg_cmp only;
    int result = 0;
    switch (row->scope) {
    case SCOPE_ANY:
        return seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0);
    case SCOPE_NO_EXEC:
        return seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, 1, &no_exec);
    case SCOPE_GRANTED:
        return allow_granted(context, number, NULL);
    case SCOPE_GRANTED_STAT:
        /* So does the C library call the two. */
        only = strcmp(name, "statx") == 0 ? equal(2, AT_NO_AUTOMOUNT | AT_EMPTY_PATH)
                                          : equal(3, AT_EMPTY_PATH);
        return allow_granted(context, number, &only);
    case SCOPE_LOCKING:
        for (size_t i = 0; i < ARRAY_SIZE(locking) && result == 0; i++) {
            struct scmp_arg_cmp command = equal(1, locking[i]);
            result = allow_granted(context, number, &command);
        }
        return result;
    case SCOPE_FORK:
        only = equal(CLONE_FLAGS, CLONE_PARENT | SIGCHLD);
        return seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, 1, &only);
    case SCOPE_DEATH:
        only = equal(0, PR_SET_PDEATHSIG);
        return seccomp_rule_add_array(context, SCMP_ACT_ALLOW, number, 1, &only);
    }
    return -EINVAL;
}

/* Take the program out of libseccomp: from then on it is a few hundred bytes. */
static bool export(scmp_filter_ctx context, struct program *program)
{
    struct stat status;
    bool good = false;
    int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd >= 0 && seccomp_export_bpf(context, fd) == 0 && fstat(fd, &status) == 0) {
        program->n = (size_t)status.st_size / sizeof *program->octets;
        program->octets = base_alloc((size_t)status.st_size);
        good = pread(fd, program->octets, (size_t)status.st_size, 0) == status.st_size;
    }
    base_close(fd);
    return good;
}

/* The rows that are allowed, where `action` is for everything else, or the rows that it is for,
 * where everything else is allowed. */
static bool add_rows(scmp_filter_ctx context, const struct row *row, size_t n, bool allowed,
                     uint32_t action, char *error, size_t error_size)
{
    for (; n > 0; row++, n--) {
        int number;
        const char *name = resolve(row, &number);
        int result = !name     ? 0
                     : allowed ? allow(context, row, name, number)
                               : seccomp_rule_add(context, action, number, 0);
        if (result < 0)
            return base_refuse(error, error_size, "libseccomp refuses the rule for %s: %s", name,
                               strerror(-result));
    }
    return true;
}

static bool compile(struct filter *filter, bool nursery, uint32_t action, char *error,
                    size_t error_size)
{
    scmp_filter_ctx context = seccomp_init(nursery ? action : SCMP_ACT_ALLOW);
    snprintf(error, error_size, "libseccomp cannot make the filter: %s",
             context ? "no memory" : "it refuses to start");
    bool good =
        context && seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) == 0 &&
        seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2) == 0 &&
        (!nursery ||
         (add_rows(context, rows, ARRAY_SIZE(rows), true, action, error, error_size) &&
          add_rows(context, &refused, 1, false, SCMP_ACT_ERRNO(ENOSYS), error, error_size))) &&
        add_rows(context, nursery_rows, ARRAY_SIZE(nursery_rows), nursery, action, error,
                 error_size) &&
        export(context, nursery ? &filter->nursery : &filter->worker);
    seccomp_release(context);
    return good;
}

struct filter *filter_compile(bool log_only, char *error, size_t error_size)
{
    const uint32_t action = log_only ? SCMP_ACT_LOG : SCMP_ACT_KILL_PROCESS;
    struct filter *filter = base_alloc(sizeof *filter);
    if (compile(filter, true, action, error, error_size) &&
        compile(filter, false, action, error, error_size))
        return filter;
    filter_free(filter);
    return NULL;
}

void filter_free(struct filter *filter)
{
    if (!filter)
        return;
    free(filter->nursery.octets);
    free(filter->worker.octets);
    free(filter);
}

static bool load(const struct program *from)
{
    struct sock_fprog program = {.len = (unsigned short)from->n, .filter = from->octets};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

bool filter_load_nursery(const struct filter *filter)
{
    return load(&filter->nursery);
}

bool filter_load_worker(const struct filter *filter)
{
    return load(&filter->worker);
}

pid_t filter_fork(void)
{
    long arguments[2] = {0};
    arguments[CLONE_FLAGS] = CLONE_PARENT | SIGCHLD;
    return (pid_t)syscall(SYS_clone, arguments[0], arguments[1], NULL, NULL, NULL);
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
    fprintf(to, "%-16s %-29s %s\n", refused.names[0], "fails", refused.reason);
    fprintf(to, "%zu system calls, %zu of them usable before login\n", filter_count(),
            filter_count_before_login());
}
