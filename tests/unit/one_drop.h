/*
 * one_drop.h - for programs whose tests have one maildrop each: `drop`, and cmocka's fixtures that
 * make it, empty, and remove it.
 */
#ifndef POPLAR_TESTS_UNIT_ONE_DROP_H
#define POPLAR_TESTS_UNIT_ONE_DROP_H

#include "tests/unit/test_store.h"

static struct test_drop drop;

static inline int make_drop(void **state)
{
    (void)state;
    test_drop_make(&drop);
    return 0;
}

static inline int remove_drop(void **state)
{
    (void)state;
    test_drop_remove(&drop);
    return 0;
}

#endif
