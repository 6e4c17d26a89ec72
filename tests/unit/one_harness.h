/*
 * one_harness.h - for programs whose sessions share one harness: `h`, and what cmocka calls after
 * them.
 */
#ifndef POPLAR_TESTS_UNIT_ONE_HARNESS_H
#define POPLAR_TESTS_UNIT_ONE_HARNESS_H

#include "worker_harness.h"

static struct harness h = {
    .client = -1, .nursery = {.fd = -1}, .worker = {.fd = -1}, .exchange = {.fd = -1}};

/* After a test whose nursery the next one needs, too. */
static inline int abandon_session(void **state)
{
    (void)state;
    harness_abandon(&h);
    return 0;
}

/* Unless there is no nursery any more. */
static inline int stop_harness(void **state)
{
    (void)state;
    harness_abandon(&h);
    if (h.nursery.fd >= 0)
        harness_stop(&h);
    return 0;
}

#endif
