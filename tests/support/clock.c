/*
 * clock.c - preloaded: the time of day is off by what a file says at the moment, in seconds, for
 * tests of clocks that are set. CLOCK_OFFSET names the file, a number of the machine's. And the
 * machine is one whose vDSO knows no time of day: each question is a system call.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;
static int (*real)(clockid_t, struct timespec *);

/* Before any sandbox: the mapping stays in whatever is forked. */
__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCK_OFFSET");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *found = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
    void *function = dlsym(RTLD_NEXT, "clock_gettime");
    memcpy(&real, &function, sizeof real);
    if (found != MAP_FAILED)
        offset = found;
    if (fd >= 0)
        close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = real(clock, now);
    if (result == 0 && offset && clock == CLOCK_REALTIME)
        now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict told, void *restrict zone)
{
    struct timespec now = {0};
    long result = syscall(SYS_gettimeofday, NULL, zone);
    clock_gettime(CLOCK_REALTIME, &now);
    *told = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
    return (int)result;
}

time_t time(time_t *told)
{
    struct timespec now = {0};
#ifdef SYS_time
    syscall(SYS_time, NULL);
#endif
    clock_gettime(CLOCK_REALTIME, &now);
    if (told)
        *told = now.tv_sec;
    return now.tv_sec;
}
