/*
 * ctl_cyrus.c - the index of a Cyrus mailbox. Runs in poplarctl; pure. Numbers in it are big-endian
 * and may be anything: none is used as an offset before it is known to lie within the file.
 */
#include "store/ctl_cyrus.h"
#include "daemon/base.h"

#include <stdlib.h>

enum {
    VERSION = 8, /* offsets in the header, the same in all versions */
    START = 12,
    RECORD_SIZE = 16,
    RECORDS = 20,
    OLDEST = 8,
    NEWEST = 20,
    WIDE = 20, /* from this version on times have 64 bits, in nanoseconds */
    NEW_UIDL = 1,
    NANOSECONDS = 1000000000
};

/* Of a record's flags: expunged, or its file is being removed. */
#define GONE (UINT32_C(3) << 30)

/* Where a version keeps what we need. */
struct layout {
    size_t uidvalidity, options;   /* in the header */
    size_t received, flags, least; /* in a record, and the octets that it has at least */
};

static const struct layout narrow = {44, 60, 4, 32, 36}, wide = {92, 64, 8, 36, 40};

static uint32_t get32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

bool ctl_cyrus_read(const void *index, size_t size, struct ctl_cyrus *cyrus)
{
    const unsigned char *octets = index;
    *cyrus = (struct ctl_cyrus){0};
    if (size < wide.uidvalidity + 4)
        return false;
    uint32_t version = get32(octets + VERSION), start = get32(octets + START);
    uint32_t record = get32(octets + RECORD_SIZE), n = get32(octets + RECORDS);
    const struct layout *layout = version >= WIDE ? &wide : &narrow;
    if (version < OLDEST || version > NEWEST || record < layout->least || start > size ||
        start < wide.uidvalidity - 4 || n > (size - start) / record)
        return false;
    cyrus->uidvalidity = get32(octets + layout->uidvalidity);
    cyrus->new_uidl = get32(octets + layout->options) & NEW_UIDL;
    cyrus->messages = base_alloc(((size_t)n + 1) * sizeof *cyrus->messages);
    for (uint32_t i = 0; i < n; i++) {
        const unsigned char *at = octets + start + (size_t)i * record;
        uint64_t received = get32(at + layout->received);
        if (version >= WIDE)
            received = (received << 32 | get32(at + layout->received + 4)) / NANOSECONDS;
        if (!(get32(at + layout->flags) & GONE))
            cyrus->messages[cyrus->n++] = (struct ctl_cyrus_message){get32(at), (int64_t)received};
    }
    return true;
}

void ctl_cyrus_free(struct ctl_cyrus *cyrus)
{
    free(cyrus->messages);
    *cyrus = (struct ctl_cyrus){0};
}
