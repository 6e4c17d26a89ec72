/*
 * between.h - a number within bounds. What cmocka has for that changes its name with the version.
 */
#ifndef POPLAR_TESTS_BETWEEN_H
#define POPLAR_TESTS_BETWEEN_H

#include <stdbool.h>
#include <stdint.h>

static inline bool is_between(uintmax_t number, uintmax_t least, uintmax_t most)
{
    return least <= number && number <= most;
}

#endif
