/*
 * witness.h - what a maildrop holds, remembered outside it: whoever looks again after a fault can
 * tell an acknowledged change from one that took effect in part.
 */
#ifndef POPLAR_TESTS_WITNESS_H
#define POPLAR_TESTS_WITNESS_H

#include "tests/unit/test_store.h"

enum { WITNESS_MESSAGES = 600 };

/* The messages of a maildrop, contents by a digest. */
struct witness {
    size_t n;
    struct witness_message {
        int64_t id;
        uint64_t size, digest;
        bool retrieved;
        char uidl[MAILDROP_UIDL_MAX + 1];
    } messages[WITNESS_MESSAGES];
};

/* Look at all that a session could see. STORE_OK, or what the store said. */
enum store_outcome witness_look(struct maildrop *m, struct witness *w);

bool witness_same(const struct witness *a, const struct witness *b);

/* Run the store's own check; false, with its words on stderr, unless it finds nothing. */
bool witness_check(struct maildrop *m);

/* A message of about `size` octets, told from others by its seed: a header, lines of all lengths.
 * Ends in CRLF and has no other line end, so it is stored as it is. */
char *witness_text(uint64_t seed, size_t size);
uint64_t witness_digest(const void *octets, size_t size);

/* Deliver it, and check that what was stored is what was given. */
enum store_outcome witness_deliver(struct maildrop *m, uint64_t seed, size_t size, int64_t *id);

/* The files of a maildrop, and put back. */
struct image {
    char *octets[MAILDROP_FILES];
    size_t size[MAILDROP_FILES];
};
void image_take(const struct test_drop *drop, struct image *image);
void image_put(const struct image *image, const struct test_drop *drop);
void image_free(struct image *image);

#endif
