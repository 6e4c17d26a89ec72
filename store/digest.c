/*
 * digest.c - check values over what a maildrop holds. Runs in a worker and in poplarctl.
 */
#include "store/digest.h"
#include <endian.h>
#include <string.h>

/* Each step is a one-to-one map of the value before, for any number: two texts that differ in one
 * place only can never meet again. */
uint64_t digest_number(uint64_t digest, uint64_t number)
{
    digest = (digest ^ number) * UINT64_C(0x9e3779b97f4a7c15);
    return digest ^ digest >> 29;
}

uint64_t digest_octets(uint64_t digest, const void *octets, size_t size)
{
    const unsigned char *at = octets;
    uint64_t word;

    for (; size >= sizeof(word); at += sizeof(word), size -= sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        digest = digest_number(digest, le64toh(word));
    }
    if (size > 0) {
        word = 0;
        memcpy(&word, at, size);
        digest = digest_number(digest, le64toh(word));
    }
    return digest;
}

int64_t digest_message(uint64_t content, const struct digest_row *row)
{
    uint64_t digest = digest_octets(content, row->uidl, strlen(row->uidl));

    digest = digest_number(digest, (uint64_t)row->size);
    digest = digest_number(digest, (uint64_t)row->plain_size);
    digest = digest_number(digest, (uint64_t)row->form);
    digest = digest_number(digest, (uint64_t)row->header_size);
    return (int64_t)digest_number(digest, (uint64_t)row->received);
}
