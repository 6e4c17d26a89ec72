/*
 * test_sandbox.c - the workers' filter: how much it allows, and every system call there is tried in
 * a process confined as a worker is. What the table does not name must kill.
 */
#include "tests/support/place.h"

#include "daemon/proto.h"
#include "store/files.h"
#include "worker/confine.h"
#include "worker/filter.h"
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST_CALL = 470 };

/* One attempt. A negative `number` stands for a function below. */
struct attempt {
    long number;
    long arguments[6];
};

/* Exit statuses of a confined child: how the attempt went. */
enum fate { FATE_RETURNED = 0, FATE_UNCONFINED = 90 };

static struct filter *filter;

static int set_up(void **state)
{
    char error[256];
    (void)state;
    filter = filter_compile(false, error, sizeof error);
    return filter ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    filter_free(filter);
    return 0;
}

static struct config *worker_config(void)
{
    struct config *config = config_new();
    config_at(config, "test");
    const struct passwd *self = getpwuid(geteuid());
    const char *user = geteuid() != 0 && self ? self->pw_name : "nobody";
    must_set(config, "server", "", "worker_user", user);
    must_set(config, "server", "", "run_dir", "/tmp");
    return config;
}

/* In a child: become what the nursery is. */
static void confine_nursery(void)
{
    char missing[256], error[512];
    if (!confine_process(worker_config(), missing, sizeof missing, error, sizeof error) ||
        !filter_load_nursery(filter))
        _exit(FATE_UNCONFINED);
}

/* In a child: become what a worker is. */
static void confine_fully(void)
{
    confine_nursery();
    if (!confine_worker() || !filter_load_worker(filter))
        _exit(FATE_UNCONFINED);
}

static int fate_under(void (*confine)(void), const struct attempt *a)
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const long *x = a->arguments;
        alarm(10);
        confine();
        syscall(a->number, x[0], x[1], x[2], x[3], x[4], x[5]);
        syscall(SYS_exit_group, FATE_RETURNED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int fate_of(const struct attempt *a)
{
    return fate_under(confine_fully, a);
}

static bool was_killed(int status)
{
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

/* By name: what is done to a socket has two numbers where there is a socketcall(2). */
static bool allowed_before_login(long number)
{
    int allowed;
    const char *name;
    bool found = false, before_login;
    char *wanted = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, (int)number);
    for (size_t n = 0; !found && filter_call(n, &allowed, &name, &before_login); n++)
        found = wanted && strcmp(name, wanted) == 0;
    free(wanted);
    return found && before_login;
}

/* Or fails without an end to who makes it. */
static bool survived_before_login(long number)
{
    return allowed_before_login(number) || number == SYS_madvise;
}

static void test_counts(void **state)
{
    (void)state;
    assert_true(filter_count() <= 22);
    assert_true(filter_count_before_login() <= 16);
    print_message("the filter allows %zu system calls, %zu of them usable before login\n",
                  filter_count(), filter_count_before_login());
}

/* Two numbers that newer kernels show to no filter: the ends of uprobe trampolines, which the
 * kernel itself puts into a traced process. Called from anywhere else they do nothing, or end in
 * SIGILL. */
static bool is_past_filters(long number)
{
#ifdef __x86_64__
    return number == 335 || number == 336;
#else
    return false && number;
#endif
}

/* With all arguments zero nothing that works can do harm; ppoll(2), a worker's wait where there is
 * no poll(2), would have no end. */
static struct attempt with_nothing(long number)
{
    static const struct timespec at_once;
    struct attempt a = {.number = number};
    if (number == SYS_ppoll)
        a.arguments[2] = (long)(intptr_t)&at_once;
    return a;
}

static void test_every_call(void **state)
{
    (void)state;
    for (long number = 0; number <= LAST_CALL; number++) {
        const struct attempt attempt = with_nothing(number);
        if (is_past_filters(number))
            continue;
        int status = fate_of(&attempt);
        bool expected = survived_before_login(number);
        if (was_killed(status) == expected)
            fail_msg("system call %ld: wait status %x", number, (unsigned)status);
        if (!was_killed(status) && !(WIFEXITED(status) && WEXITSTATUS(status) == FATE_RETURNED))
            fail_msg("system call %ld: wait status %x", number, (unsigned)status);
    }
}

/* The nursery can do little more, and none of that before the arguments are the right ones. */
static void test_every_call_of_the_nursery(void **state)
{
    static const long more[] = {
#ifdef SYS_dup2
        SYS_dup2,
#else
        SYS_dup3,
#endif
        SYS_close_range, SYS_getppid, SYS_prlimit64, SYS_seccomp,
    };
    const struct attempt death = {SYS_prctl, {PR_SET_PDEATHSIG, SIGKILL}};
    const struct attempt fork = {SYS_clone, {SIGCHLD, SIGCHLD}}; /* by whichever the flags are */
    (void)state;
    for (long number = 0; number <= LAST_CALL; number++) {
        const struct attempt attempt = with_nothing(number);
        bool expected = survived_before_login(number);
        for (size_t i = 0; i < ARRAY_SIZE(more); i++)
            expected = expected || more[i] == number;
        if (!is_past_filters(number) &&
            was_killed(fate_under(confine_nursery, &attempt)) == expected)
            fail_msg("system call %ld of the nursery", number);
    }
    assert_false(was_killed(fate_under(confine_nursery, &death)));
    assert_true(was_killed(fate_under(confine_nursery, &fork)));
}

/* As the C library calls them on machines of 32 bits, and elsewhere. */
#ifdef SYS_fcntl64
#define SYS_FTRUNCATE SYS_ftruncate64
#define SYS_FCNTL     SYS_fcntl64
#define SYS_MMAP      SYS_mmap2
#define STAT(fd, path, flag)                                                                       \
    SYS_statx,                                                                                     \
    {                                                                                              \
        fd, path, (flag) | AT_NO_AUTOMOUNT                                                         \
    }
#else
#define SYS_FTRUNCATE SYS_ftruncate
#define SYS_FCNTL     SYS_fcntl
#define SYS_MMAP      SYS_mmap
#define STAT(fd, path, flag)                                                                       \
    SYS_newfstatat,                                                                                \
    {                                                                                              \
        fd, path, 0, flag                                                                          \
    }
#endif

#define EMPTY ((long)(intptr_t) "")

/* The store's calls: on granted numbers they get through to the kernel, which finds them empty. */
static void test_granted_descriptors(void **state)
{
    const struct attempt allowed[] = {
        {SYS_pread64, {PROTO_FD_END - 1}},
        {SYS_pread64, {PROTO_FD_GRANT}},
        {SYS_pwrite64, {PROTO_FD_GRANT + 3}},
        {SYS_fdatasync, {PROTO_FD_GRANT + 1}},
        {SYS_FTRUNCATE, {PROTO_FD_GRANT + 2}},
        {SYS_FCNTL, {PROTO_FD_GRANT, F_OFD_SETLK}},
        {SYS_FCNTL, {PROTO_FD_GRANT + 3, F_SETLK}},
        {SYS_FCNTL, {PROTO_FD_GRANT + 1, F_GETLK}},
        {STAT(PROTO_FD_GRANT, EMPTY, AT_EMPTY_PATH)},
        {SYS_MMAP, {0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1}},
    };
    const struct attempt killed[] = {
        {SYS_pread64, {PROTO_FD_CLIENT}},
        {SYS_pread64, {PROTO_FD_END}},
        {SYS_pread64, {PROTO_FD_EXCHANGE}},
        {STAT(PROTO_FD_EXCHANGE, EMPTY, AT_EMPTY_PATH)},
        {SYS_pwrite64, {STDERR_FILENO}},
        {SYS_FTRUNCATE, {PROTO_FD_CLIENT}},
        {SYS_fdatasync, {PROTO_FD_EXCHANGE}},
        {SYS_FCNTL, {PROTO_FD_CLIENT, F_SETLK}},
        {SYS_FCNTL, {PROTO_FD_GRANT, F_SETFL}},
        {SYS_FCNTL, {PROTO_FD_GRANT, F_DUPFD}},
        {SYS_FCNTL, {PROTO_FD_GRANT, F_SETOWN}},
        {STAT(PROTO_FD_GRANT, EMPTY, 0)},
        {STAT(AT_FDCWD, EMPTY, AT_EMPTY_PATH)},
#ifndef __s390x__ /* where no filter sees the arguments */
        {SYS_MMAP, {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1}},
        {SYS_MMAP, {0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1}},
#endif
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
        if (was_killed(fate_of(&allowed[i])))
            fail_msg("allowed attempt %zu was killed", i);
    for (size_t i = 0; i < ARRAY_SIZE(killed); i++)
        if (!was_killed(fate_of(&killed[i])))
            fail_msg("attempt %zu was not killed", i);
}

/* The other floors of the sandbox, seen without the filter: what a process that is confined like
 * the nursery can still reach. Landlock lets names be looked at, the empty root does not. */
static int try_outside(void)
{
    char missing[256], error[512];
    if (!confine_process(worker_config(), missing, sizeof missing, error, sizeof error))
        return 1;
    if (open("/etc/passwd", O_RDONLY) >= 0 || access("/etc/passwd", F_OK) == 0)
        return 2;
    if (open("/tmp/poplar-test-made", O_WRONLY | O_CREAT, 0600) >= 0 || mkdir("x", 0700) == 0)
        return 3;
    if (geteuid() == 0 || setuid(0) == 0)
        return 4;
    if (!confine_worker())
        return 5;
    for (int fd = 0; fd >= 0; fd = dup(STDERR_FILENO))
        if (fd >= PROTO_FD_END)
            return 6;
    if (*missing)
        return 7;
    return 0;
}

/* [workers] seccomp=log: nothing dies, the kernel writes down what would have. */
static void test_log_only(void **state)
{
    char error[256];
    const struct attempt forbidden = {.number = SYS_getppid};
    struct filter *killing = filter;
    (void)state;
    filter = filter_compile(true, error, sizeof error);
    assert_non_null(filter);
    int status = fate_of(&forbidden);
    filter_free(filter);
    filter = killing;
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == FATE_RETURNED);
    assert_true(was_killed(fate_of(&forbidden)));
}

/* Landlock alone: without root there is no other root directory. */
static int try_outside_without_root(void)
{
    char missing[256], error[512];
    if (geteuid() == 0 &&
        (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
        return 1;
    if (access("/etc/passwd", R_OK) < 0 ||
        !confine_process(worker_config(), missing, sizeof missing, error, sizeof error))
        return 2;
    if (strstr(missing, "Landlock"))
        return 0;
    if (open("/etc/passwd", O_RDONLY) >= 0 || errno != EACCES)
        return 3;
    if (open("/tmp/poplar-test-made", O_WRONLY | O_CREAT, 0600) >= 0 || errno != EACCES)
        return 4;
    return 0;
}

static void returns_zero(int (*attempt)(void))
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(attempt());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_no_file_is_in_reach(void **state)
{
    (void)state;
    returns_zero(try_outside_without_root);
    if (geteuid() == 0)
        returns_zero(try_outside);
}

/* An account that does not exist is an error that names the remedy, not a sandbox without one. */
static void test_no_worker_user(void **state)
{
    char missing[256], error[512] = "";
    struct config *config = worker_config();
    (void)state;
    if (geteuid() != 0)
        skip();
    must_set(config, "server", "", "worker_user", "nobody-at-all");
    assert_false(confine_process(config, missing, sizeof missing, error, sizeof error));
    assert_non_null(strstr(error, "worker_user=nobody-at-all"));
    assert_non_null(strstr(error, "useradd"));
    must_set(config, "server", "", "worker_user", "root");
    assert_false(confine_process(config, missing, sizeof missing, error, sizeof error));
    config_free(config);
}

/* Without root nobody becomes anybody else: who is asked to is told, and serves nobody. */
static int try_to_become_another(void)
{
    char missing[256], error[512] = "";
    struct config *config = worker_config();
    if (geteuid() == 0 &&
        (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
        return 1;
    if (!config_set(config, "server", "", "worker_user", "daemon", error, sizeof error) ||
        confine_process(config, missing, sizeof missing, error, sizeof error))
        return 2;
    return strstr(error, "[server] worker_user=daemon: only root") ? 0 : 3;
}

static void test_no_other_user_without_root(void **state)
{
    (void)state;
    returns_zero(try_to_become_another);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_every_call),
        cmocka_unit_test(test_every_call_of_the_nursery),
        cmocka_unit_test(test_granted_descriptors),
        cmocka_unit_test(test_log_only),
        cmocka_unit_test(test_no_file_is_in_reach),
        cmocka_unit_test(test_no_worker_user),
        cmocka_unit_test(test_no_other_user_without_root),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
