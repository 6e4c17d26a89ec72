/*
 * surrogate.h - a header in UTF-8 (RFC 6532) as clients can read it that never heard of it: the
 * simplified downgrading of RFC 6858.
 *
 * Pure: no SQLite, no descriptors. The store keeps the size of what is made here, and tells it to
 * clients before it makes it again to send it: the same header must always give the same octets.
 * Whoever changes what comes out changes the schema's major version too.
 *
 * Fields in ASCII stay octet for octet. Of the others (RFC 6858 section 2):
 *   addresses          names become encoded-words; an address that is not ASCII itself becomes part
 *                      of its name, before <invalid@internationalized-address.invalid>
 *   MIME parameters    RFC 2231, which keeps the names of attachments; section 2.2 would drop them
 *   free text          encoded-words (RFC 2047): Subject, and all fields that are not known
 *   everything else    has no form in ASCII and is left out: Message-ID, Received, ...
 * The body stays as it is, headers of its parts included: telling those apart would mean to parse
 * what clients parse for themselves.
 */
#ifndef POPLAR_STORE_SURROGATE_H
#define POPLAR_STORE_SURROGATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SURROGATE_HEADER_MAX = 1 << 20, /* octets of a header that has a surrogate */
    SURROGATE_MAX = 4 << 20,        /* octets of the surrogate: addresses grow a lot */
};

enum surrogate_outcome { SURROGATE_OK, SURROGATE_TOO_LARGE, SURROGATE_NO_MEMORY };

/* Looks at a header on its way. Starts zeroed. */
struct surrogate_scan {
    uint32_t code, least; /* of the character under way */
    unsigned left;        /* octets that it lacks */
    bool high;            /* an octet above 0x7f was seen */
    bool malformed;       /* not UTF-8 (RFC 3629) */
};

void surrogate_scan(struct surrogate_scan *scan, const void *octets, size_t size);

/* After the whole header: whether it is UTF-8, and not ASCII. Another charset, which nobody
 * declared, is not for us to encode. */
bool surrogate_needed(const struct surrogate_scan *scan);

/* Make the surrogate of a header in wire form, well-formed UTF-8, with the empty line at its end if
 * it has one. On SURROGATE_OK `made` is the caller's to free. */
enum surrogate_outcome surrogate_make(const char *header, size_t size, char **made,
                                      size_t *made_size);

#endif
