/*
 * pool.h - the master's decisions as pure functions of counts and time, tested without a process.
 */
#ifndef POPLAR_DAEMON_POOL_H
#define POPLAR_DAEMON_POOL_H

#include "daemon/address.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Workers to fork now, so that those who wait are served and as many stand idle as came in the
 * last second, between idle_min and idle_max. `may_wait`: not before three quarters are used up. A
 * fork takes the processor from the session that was just begun, and several together are cheaper.
 */
unsigned pool_to_fork(uint64_t idle_min, uint64_t idle_max, unsigned arrived, unsigned waiting,
                      unsigned idle, unsigned starting, bool may_wait);

/* Idle workers to let go: what is above idle_max, or one above what pool_to_fork() would have. It
 * is asked each second, and a busy one may be followed by another. */
unsigned pool_to_release(uint64_t idle_min, uint64_t idle_max, unsigned arrived, unsigned idle);

/* Whether a worker's death by this signal may have been an attack that looked for our address
 * layout. Not the kills of others, not a full disk under a logged-in session's shared memory. */
bool pool_is_probe(int signal, bool logged_in);

/* Milliseconds to wait before the next try after `failures` in a row: 0, then 100 doubling up to
 * 1,000. */
unsigned pool_backoff_ms(unsigned failures);

/* When a failed login that came in at `arrived` is answered, microseconds: arrived + delay, or the
 * next multiple of the delay when that has passed, plus 0 to 5 ms by `random`. The answer's time
 * then tells nothing of what PAM did. */
uint64_t pool_answer_at(uint64_t arrived, uint64_t now, uint64_t delay, uint32_t random);

/* One of the many that fill every slot, or wait for one, when another knocks. */
struct pool_candidate {
    struct address_source source;
    uint64_t arrival; /* smaller came earlier */
    bool counts;      /* it has not logged in; else the next two say nothing */
    bool may_go;      /* nor is its login being checked, nor waits for that */
    bool waits;       /* its login does, and gives way to others if its source has more */
};
/* The one that gives way: the earliest of the source that has most who have not logged in. -1 if
 * none may. In time that grows with n alone: this is what a flood of connections costs. `seed` is
 * random, so that nobody outside can choose sources that make it cost more. */
long pool_victim(const struct pool_candidate *candidates, size_t n, uint64_t seed);

#endif
