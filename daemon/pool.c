/*
 * pool.c - see pool.h. Runs in the master; no state, no system calls.
 */
#include "daemon/pool.h"

#include <signal.h>

/* Long enough that a loop costs nothing, short enough that nobody waits for long after its end. */
enum { BACKOFF_MAX_MS = 1000 };

unsigned pool_to_fork(uint64_t idle_min, uint64_t idle_max, unsigned arrived, unsigned waiting,
                      unsigned idle, unsigned starting)
{
    uint64_t spare = arrived < idle_min ? idle_min : arrived;
    if (spare > idle_max)
        spare = idle_max;
    uint64_t wanted = spare + waiting;
    uint64_t there = (uint64_t)idle + starting;
    return wanted > there ? (unsigned)(wanted - there) : 0;
}

unsigned pool_to_release(uint64_t idle_max, unsigned idle)
{
    return idle > idle_max ? (unsigned)(idle - idle_max) : 0;
}

bool pool_is_probe(int signal, bool logged_in)
{
    switch (signal) {
    case SIGKILL: /* ours, an administrator's, or out of memory */
    case SIGTERM:
    case SIGINT:
    case SIGHUP:
        return false;
    case SIGBUS:
        return !logged_in;
    default:
        return true;
    }
}

unsigned pool_backoff_ms(unsigned failures)
{
    unsigned wait = 100;
    if (failures == 0)
        return 0;
    while (--failures > 0 && wait < BACKOFF_MAX_MS)
        wait *= 2;
    return wait < BACKOFF_MAX_MS ? wait : BACKOFF_MAX_MS;
}

uint64_t pool_answer_at(uint64_t arrived, uint64_t now, uint64_t delay, uint64_t jitter)
{
    if (delay == 0)
        return now;
    uint64_t passed = now - arrived;
    uint64_t turns = (passed + delay - 1) / delay;
    return arrived + (turns > 0 ? turns : 1) * delay + jitter;
}

long pool_victim(const struct pool_candidate *candidates, size_t n)
{
    long victim = -1;
    for (size_t i = 0; i < n; i++) {
        const struct pool_candidate *c = &candidates[i];
        if (!c->may_go)
            continue;
        const struct pool_candidate *best = victim < 0 ? NULL : &candidates[victim];
        if (!best || c->source_sessions > best->source_sessions ||
            (c->source_sessions == best->source_sessions && c->session < best->session))
            victim = (long)i;
    }
    return victim;
}
