/*
 * cuts.h - what tests of power cuts have in common: how many, from which seed, and how one that
 * went wrong is had again.
 */
#ifndef POPLAR_TESTS_CUTS_H
#define POPLAR_TESTS_CUTS_H

#include "tests/unit/test_store.h"

enum { CUTS_SHORT_RUN = 2500, CUTS_LONG_RUN = 100000 };

/* What is said when something is wrong, so that it can be had again. */
static struct {
    uint64_t seed;
    int life;
    size_t step;
    uint64_t cut;
} at;

#define FAIL(format, ...)                                                                          \
    fail_msg("CUT_SEED=%llu, life %d, cut %llu before step %zu: " format,                          \
             (unsigned long long)at.seed, at.life, (unsigned long long)at.cut, at.step,            \
             __VA_ARGS__)

static inline uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 10) : otherwise;
}

static inline unsigned cuts_wanted(void)
{
    const char *text = getenv("LONG");

    return (unsigned)number_from("CUTS",
                                 text && strcmp(text, "1") == 0 ? CUTS_LONG_RUN : CUTS_SHORT_RUN);
}

#endif
