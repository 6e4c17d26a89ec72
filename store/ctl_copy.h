/*
 * ctl_copy.h - one stored message into a file or a pipe, with the line ends that its reader
 * expects.
 */
#ifndef POPLAR_STORE_CTL_COPY_H
#define POPLAR_STORE_CTL_COPY_H

#include "store/maildrop.h"

/* A conversion under way, from CRLF to LF. Starts zeroed. */
struct ctl_copy_lines {
    bool after_cr; /* the last octet taken in was a CR, not yet put out */
    bool put_cr;   /* the last octet put out was a CR */
    bool lossy;    /* "CR CR LF" was met: with LF alone nobody could tell it from CRLF */
};

/* Convert `size` octets; `out` has room for size + 1. Returns the octets put out. Pure. */
size_t ctl_copy_convert(struct ctl_copy_lines *lines, const char *in, size_t size, char *out);

/* Reads content as maildrop_read() does. */
typedef enum store_outcome ctl_copy_read(void *from, int64_t id, uint64_t offset, void *buffer,
                                         size_t size, size_t *got);

/* What to do with a message. */
struct ctl_copy {
    ctl_copy_read *read;
    void *from;
    bool crlf;  /* as it is stored; else LF, unless LF alone could not give it back */
    bool quote; /* mboxrd: '>' before a line of '>'s and "From " */
    void (*progress)(void *context, uint64_t octets); /* of this message; may be NULL */
    void *context;
};

/* Write one message. STORE_OK with `*error` 0: done. STORE_OK and an errno: it could not be
 * written. Anything else: it could not be read. */
enum store_outcome ctl_copy_message(const struct ctl_copy *copy, int64_t id, int fd, int *error);

/* ctl_copy_read of an open maildrop. */
enum store_outcome ctl_copy_maildrop(void *from, int64_t id, uint64_t offset, void *buffer,
                                     size_t size, size_t *got);

#endif
