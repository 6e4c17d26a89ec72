/*
 * wire.h - a message's content as a multi-line reply (RFC 1939 section 3): dots at the start of a
 * line are doubled, ".\r\n" ends it; and where TOP cuts. Pure: no descriptor.
 */
#ifndef POPLAR_WORKER_WIRE_H
#define POPLAR_WORKER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WIRE_END_SIZE = 5 }; /* octets that wire_end() may need */

/* Where in a line the content stands. Starts as all zeros: at the start of one. */
struct wire {
    bool inside; /* octets of this line were seen */
};

/* Copy content, doubling dots, as far as both sides allow. Octets of `to` that were filled; `taken`
 * says how many of `from` they stand for. */
size_t wire_stuff(struct wire *wire, const unsigned char *from, size_t from_size, unsigned char *to,
                  size_t to_size, size_t *taken);

/* The terminator; with a line end before it if the content lacks its last one. */
size_t wire_end(const struct wire *wire, unsigned char to[WIRE_END_SIZE]);

/* What is still to be sent of a message: `header` octets whatever they are, then `lines` lines. */
struct wire_cut {
    uint64_t header, lines;
};

/* How many of the next octets of a message belong to what is sent; fewer than `size` only when
 * the cut was reached. */
size_t wire_take(struct wire_cut *cut, const unsigned char *octets, size_t size);
/* Whether nothing more belongs to it. */
bool wire_taken(const struct wire_cut *cut);

#endif
