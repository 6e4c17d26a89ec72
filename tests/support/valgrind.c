/*
 * valgrind.c - preloaded into what runs under valgrind, which in version 3.19 knows no seccomp(2),
 * openat2(2) and Landlock: these calls go past it to the kernel. A filter is loaded with nothing
 * forbidden in it, since valgrind lives in the same process and makes calls of its own; what a
 * filter refuses is seen in every other build. The limit of descriptors valgrind keeps for itself.
 *
 * Programs are slow under valgrind, and so is their time where MEMCHECK_SLOWNESS says how much, for
 * what they give one another a bounded time.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/valgrind.h>

#define REAL(name)                                                                                 \
    if (!real)                                                                                     \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

enum { SECOND = 1000000000 };

/* Runs outside of valgrind's simulation, on its stack: there is no thread-local storage, hence
 * neither errno nor a stack protector, and nothing of the C library. */
static long past_valgrind(unsigned thread, long number, const long *a)
{
    (void)thread;
#if defined __x86_64__
    register long fourth __asm__("r10") = a[3];
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
#elif defined __aarch64__
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a[0];
    register long x1 __asm__("x1") = a[1];
    register long x2 __asm__("x2") = a[2];
    register long x3 __asm__("x3") = a[3];
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
#else
#error "how is a system call made here?"
#endif
}

static bool unknown_to_valgrind(long number)
{
    switch (number) {
    case SYS_seccomp:
    case SYS_openat2:
    case SYS_landlock_create_ruleset:
    case SYS_landlock_add_rule:
    case SYS_landlock_restrict_self:
        return true;
    }
    return false;
}

/* The filter as it is to be loaded; NULL for what is none. */
static const struct sock_fprog *permit(const struct sock_fprog *from)
{
    static struct sock_filter steps[BPF_MAXINSNS];
    static struct sock_fprog program = {.filter = steps};
    if (!from || from->len > BPF_MAXINSNS)
        return NULL;
    memcpy(steps, from->filter, from->len * sizeof *steps);
    program.len = from->len;
    for (unsigned i = 0; i < program.len; i++)
        if (steps[i].code == (BPF_RET | BPF_K))
            steps[i].k = SECCOMP_RET_ALLOW;
    return &program;
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list list;
    va_start(list, number);
    for (unsigned i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (RUNNING_ON_VALGRIND && unknown_to_valgrind(number)) {
        if (number == SYS_seccomp && a[0] == SECCOMP_SET_MODE_FILTER)
            a[2] = (long)permit((const void *)a[2]); // NOLINT(performance-no-int-to-ptr)
        long result = (long)VALGRIND_NON_SIMD_CALL2(past_valgrind, number, a);
        if (result >= 0)
            return result;
        errno = (int)-result;
        return -1;
    }
    REAL(syscall);
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int setrlimit(__rlimit_resource_t which, const struct rlimit *limit)
{
    static int (*real)(__rlimit_resource_t, const struct rlimit *);
    if (which == RLIMIT_NOFILE && RUNNING_ON_VALGRIND)
        return 0;
    REAL(setrlimit);
    return real(which, limit);
}

static unsigned slowness(void)
{
    static unsigned factor;
    if (factor == 0) {
        const char *told = RUNNING_ON_VALGRIND ? getenv("MEMCHECK_SLOWNESS") : NULL;
        int n = told ? atoi(told) : 1;
        factor = n > 1 ? (unsigned)n : 1;
    }
    return factor;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    REAL(clock_gettime);
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_MONOTONIC) {
        int64_t slow = (now->tv_sec * SECOND + now->tv_nsec) / slowness();
        *now = (struct timespec){.tv_sec = slow / SECOND, .tv_nsec = slow % SECOND};
    }
    return result;
}

static struct timespec from_slow(const struct timespec *at)
{
    int64_t fast = (at->tv_sec * SECOND + at->tv_nsec) * slowness();
    return (struct timespec){.tv_sec = fast / SECOND, .tv_nsec = fast % SECOND};
}

/* Poplar's timers are all of the clock above. */
int timerfd_settime(int fd, int flags, const struct itimerspec *to, struct itimerspec *before)
{
    static int (*real)(int, int, const struct itimerspec *, struct itimerspec *);
    REAL(timerfd_settime);
    const struct itimerspec fast = {.it_interval = from_slow(&to->it_interval),
                                    .it_value = from_slow(&to->it_value)};
    return real(fd, flags, &fast, before);
}

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    static int (*real)(struct pollfd *, nfds_t, int);
    REAL(poll);
    if (timeout > 0)
        timeout = timeout < INT_MAX / (int)slowness() ? timeout * (int)slowness() : INT_MAX;
    return real(fds, n, timeout);
}
