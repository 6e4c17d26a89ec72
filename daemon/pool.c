/*
 * pool.c - see pool.h. Runs in the master; no state, no system calls.
 */
#include "daemon/pool.h"
#include "daemon/base.h"

#include <signal.h>
#include <stdlib.h>

/* Long enough that a loop costs nothing, short enough that nobody waits for long after its end. */
enum { BACKOFF_MAX_MS = 1000 };

enum { JITTER_MAX_US = 5000 };

static uint64_t spare_workers(uint64_t idle_min, uint64_t idle_max, unsigned arrived)
{
    uint64_t spare = arrived < idle_min ? idle_min : arrived;
    return spare < idle_max ? spare : idle_max;
}

unsigned pool_to_fork(uint64_t idle_min, uint64_t idle_max, unsigned arrived, unsigned waiting,
                      unsigned idle, unsigned starting, bool may_wait)
{
    uint64_t spare = spare_workers(idle_min, idle_max, arrived);
    uint64_t wanted = spare + waiting;
    uint64_t there = (uint64_t)idle + starting;
    if (may_wait && waiting == 0 && there > spare / 4)
        return 0;
    return wanted > there ? (unsigned)(wanted - there) : 0;
}

unsigned pool_to_release(uint64_t idle_min, uint64_t idle_max, unsigned arrived, unsigned idle)
{
    if (idle > idle_max)
        return (unsigned)(idle - idle_max);
    return idle > spare_workers(idle_min, idle_max, arrived);
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

uint64_t pool_answer_at(uint64_t arrived, uint64_t now, uint64_t delay, uint32_t random)
{
    if (delay == 0)
        return now;
    uint64_t passed = now - arrived;
    uint64_t turns = (passed + delay - 1) / delay;
    return arrived + (turns > 0 ? turns : 1) * delay + random % (JITTER_MAX_US + 1);
}

/* How many there are of each source: open addressing, at least half of it free. */
struct tally {
    size_t mask;
    struct {
        const struct address_source *source; /* NULL: free */
        unsigned n;
    } * slots;
};

static size_t find_slot(const struct tally *t, const struct address_source *source, uint64_t seed)
{
    uint64_t hash = seed;
    for (size_t i = 0; i < sizeof source->octets; i++) {
        hash = (hash ^ source->octets[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    size_t at = (size_t)hash & t->mask;
    while (t->slots[at].source && !address_same_source(t->slots[at].source, source))
        at = (at + 1) & t->mask;
    return at;
}

long pool_victim(const struct pool_candidate *candidates, size_t n, uint64_t seed)
{
    struct tally t = {.mask = 1};
    long victim = -1;
    unsigned most = 0;
    while (t.mask < 2 * n)
        t.mask = 2 * t.mask + 1;
    t.slots = base_alloc((t.mask + 1) * sizeof *t.slots);
    for (size_t i = 0; i < n; i++)
        if (candidates[i].counts) {
            size_t at = find_slot(&t, &candidates[i].source, seed);
            t.slots[at].source = &candidates[i].source;
            t.slots[at].n++;
        }
    for (size_t i = 0; i < n; i++) {
        const struct pool_candidate *c = &candidates[i];
        if (!c->counts || (!c->may_go && !c->waits))
            continue;
        unsigned here = t.slots[find_slot(&t, &c->source, seed)].n;
        if (!c->may_go && here == 1)
            continue;
        if (here > most || (here == most && c->arrival < candidates[victim].arrival)) {
            victim = (long)i;
            most = here;
        }
    }
    free(t.slots);
    return victim;
}
