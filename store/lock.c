/*
 * lock.c - the byte-range locks of a maildrop, and the store's patience.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never block without a
 * deadline: hence no F_OFD_SETLKW, but a try and a short sleep in turn.
 */
#include "store/lock.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <time.h>

enum { LONGEST_SLEEP_MS = 25, TURN_MS = 2 * LONGEST_SLEEP_MS };

uint64_t lock_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void lock_sleep(unsigned ms)
{
    poll(NULL, 0, (int)ms);
}

static int set_lock(int fd, enum maildrop_lock_byte byte, short type)
{
    struct flock range = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)byte,
        .l_len = 1,
    };
    int result;

    do {
        result = fcntl(fd, F_OFD_SETLK, &range);
    } while (result < 0 && errno == EINTR);
    return result;
}

/* By another: why set_lock() failed. */
static bool is_held(void)
{
    return errno == EAGAIN || errno == EACCES;
}

static enum store_outcome take(int fd, enum maildrop_lock_byte byte, short type, uint64_t deadline)
{
    enum store_outcome outcome = STORE_OK;
    bool waiting = false;
    unsigned pause = 1;

    while (outcome == STORE_OK && set_lock(fd, byte, type) < 0) {
        if (!is_held()) {
            outcome = STORE_IO;
        } else if (lock_clock() >= deadline) {
            outcome = STORE_BUSY;
        } else {
            if (byte == MAILDROP_LOCK_WRITE && !waiting)
                waiting = set_lock(fd, MAILDROP_LOCK_WAITING, F_RDLCK) == 0;
            lock_sleep(pause);
            if (pause < LONGEST_SLEEP_MS)
                pause = pause * 2 < LONGEST_SLEEP_MS ? pause * 2 : LONGEST_SLEEP_MS;
        }
    }
    if (waiting)
        set_lock(fd, MAILDROP_LOCK_WAITING, F_UNLCK);
    return outcome;
}

enum store_outcome lock_acquire(int fd, enum maildrop_lock_byte byte, uint64_t deadline)
{
    return take(fd, byte, F_WRLCK, deadline);
}

enum store_outcome lock_share(int fd, enum maildrop_lock_byte byte, uint64_t deadline)
{
    return take(fd, byte, F_RDLCK, deadline);
}

void lock_release(int fd, enum maildrop_lock_byte byte)
{
    set_lock(fd, byte, F_UNLCK);
}

static bool is_waited_for(int fd)
{
    if (set_lock(fd, MAILDROP_LOCK_WAITING, F_WRLCK) < 0)
        return is_held();
    set_lock(fd, MAILDROP_LOCK_WAITING, F_UNLCK);
    return false;
}

void lock_yield(int fd, uint64_t since)
{
    while (lock_clock() < since + TURN_MS && is_waited_for(fd))
        lock_sleep(1);
}
