/*
 * clock.c - the time of day, for all that is loaded into this process. Runs in nursery and workers,
 * in place of the C library's gettimeofday(2) and time(2), which OpenSSL, SQLite and the store ask.
 *
 * Where the vDSO does not serve them (it is switched off, or the clock source is none that it can
 * read: hpet, acpi_pm), they are system calls of their own, and the sandbox ends who makes them.
 * These come down to the one that it has for clocks.
 */
#include <sys/time.h>
#include <time.h>

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact = {0};
    (void)zone; /* obsolete, and nobody's */
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    *now = (struct timeval){.tv_sec = exact.tv_sec, .tv_usec = exact.tv_nsec / 1000};
    return result;
}

time_t time(time_t *now)
{
    struct timespec exact = {0};
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
