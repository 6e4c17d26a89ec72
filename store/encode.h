/*
 * encode.h - header text written in ASCII: encoded-words, MIME parameters, folded lines.
 *
 * Pure: no SQLite, no descriptors. Lines are at most 76 octets wherever the text has a place to
 * fold at. What is written goes into one block that grows up to a limit; a failure shows at the
 * end.
 */
#ifndef POPLAR_STORE_ENCODE_H
#define POPLAR_STORE_ENCODE_H

#include <stdbool.h>
#include <stddef.h>

/* Text under way. Starts zeroed but for the limit. */
struct encode {
    char *text; /* the caller frees it */
    size_t size, room, limit;
    size_t column;  /* octets in the current line */
    bool too_large; /* the limit was reached */
    bool no_memory;
};

/* Whether all octets are ASCII. */
bool encode_is_ascii(const char *text, size_t size);

/* Octets as they are. */
void encode_put(struct encode *e, const char *text, size_t size);
void encode_put_text(struct encode *e, const char *text);

/* One blank, or a line end and a blank when `next` octets more would not fit into the line. */
void encode_space(struct encode *e, size_t next);

/* A blank, then encoded-words (RFC 2047) that together stand for UTF-8 text of whole characters: Q
 * where most of it can be read so, else B; fit for phrases. */
void encode_words(struct encode *e, const char *text, size_t size);

/* "; name*=UTF-8''value" (RFC 2231), in numbered pieces where it is long. */
void encode_parameter(struct encode *e, const char *name, size_t name_size, const char *value,
                      size_t size);

#endif
