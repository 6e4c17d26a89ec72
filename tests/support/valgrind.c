/*
 * valgrind.c - preloaded into what runs under valgrind: answers in the kernel's place where
 * valgrind has none. It knows no seccomp(2) and no openat2(2), and keeps the limit of descriptors
 * for itself. What stands on these, the filter and the refusal to follow links, is seen in every
 * other build.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Say what a kernel says that has it: libseccomp asks before it makes a filter. */
static long answer_seccomp(long operation, const void *argument)
{
    if (operation == SECCOMP_GET_ACTION_AVAIL || (operation == SECCOMP_SET_MODE_FILTER && argument))
        return 0;
    errno = operation == SECCOMP_SET_MODE_FILTER ? EFAULT : EINVAL;
    return -1;
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
    if (number == SYS_seccomp)
        return answer_seccomp(a[0], (const void *)a[2]); // NOLINT(performance-no-int-to-ptr)
    if (number == SYS_openat2) {
        const struct open_how *how = (const void *)a[2]; // NOLINT(performance-no-int-to-ptr)
        int more = how->resolve & RESOLVE_NO_SYMLINKS ? O_NOFOLLOW : 0;
        return openat((int)a[0], (const char *)a[1], // NOLINT(performance-no-int-to-ptr)
                      (int)how->flags | more, (mode_t)how->mode);
    }
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int setrlimit(__rlimit_resource_t which, const struct rlimit *limit)
{
    static int (*real)(__rlimit_resource_t, const struct rlimit *);
    if (which == RLIMIT_NOFILE)
        return 0;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "setrlimit");
    return real(which, limit);
}
