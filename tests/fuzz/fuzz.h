/*
 * fuzz.h - what the fuzz targets share: libFuzzer's entry points, and a promise that is checked.
 *
 * Each fuzz_*.c is one program: libFuzzer's main, ASan and UBSan, the product's own code. What it
 * promises beyond "no crash" stands at its top. Seeds, and every input that ever failed, are in
 * seeds/NAME.
 */
#ifndef POPLAR_TESTS_FUZZ_H
#define POPLAR_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define promise(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* The next octet of the input, which steers the target; 0 when there is none. */
static inline uint8_t fuzz_octet(const uint8_t **data, size_t *size)
{
    if (*size == 0)
        return 0;
    (*size)--;
    return *(*data)++;
}

/* A copy of its own size, so that one octet too far is noticed; ended by NUL with `text`. */
static inline char *fuzz_copy(const uint8_t *data, size_t size, bool text)
{
    char *copy = calloc(1, size + text + (size == 0));
    promise(copy);
    if (size > 0)
        memcpy(copy, data, size);
    if (text)
        copy[size] = '\0';
    return copy;
}

#endif
