/*
 * digest.h - check values over what a maildrop holds: SQLite has no checksums.
 *
 * 64 bits against a disk's mistakes. A change within eight octets always shows, any other but by
 * chance of 2^-64. Against nobody: whoever can write to the file can make them fit. Pure.
 */
#ifndef POPLAR_STORE_DIGEST_H
#define POPLAR_STORE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define DIGEST_START UINT64_C(0x504f504c41520001)

/* A value with one more number, or with more octets: in pieces of which all but the last are a
 * multiple of eight it is the same as in one. */
uint64_t digest_number(uint64_t digest, uint64_t number);
uint64_t digest_octets(uint64_t digest, const void *octets, size_t size);

/* What a message's row says that never changes. */
struct digest_row {
    const char *uidl;
    int64_t size, plain_size, form, header_size, received;
};

/* The value that is kept beside a message, from that of its content. */
int64_t digest_message(uint64_t content, const struct digest_row *row);

#endif
