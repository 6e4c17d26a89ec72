/*
 * wire.h - message text as it is handed in, made into the octets that go on the wire.
 *
 * Pure: no SQLite, no descriptors, no allocation. Every LF without a CR before it gets one; a bare
 * CR, a NUL and everything else pass; a last line without its end gets CRLF; nothing stays nothing.
 */
#ifndef POPLAR_STORE_WIRE_H
#define POPLAR_STORE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A conversion under way. Starts zeroed. */
struct wire {
    uint64_t octets; /* put out so far */
    uint64_t line;   /* of them, in the current line */
    uint64_t header; /* up to and including the first empty line; 0: none seen */
    bool after_cr;   /* the last octet put out was a CR */
};

/* What must be fed to wire_convert() at the end if wire_unfinished(). */
extern const char wire_line_end[2];

/* Convert what fits from `in` into `out`; returns the octets put out, `used` those taken in. Stops
 * when either side is exhausted; call again with the rest. A `room` above 0 always gets on. */
size_t wire_convert(struct wire *wire, const void *in, size_t size, void *out, size_t room,
                    size_t *used);

/* Whether the last line lacks its end. */
bool wire_unfinished(const struct wire *wire);

/* Octets of the header with the empty line that ends it: all of them if there is none. */
uint64_t wire_header(const struct wire *wire);

#endif
