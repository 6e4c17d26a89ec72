/*
 * ctl_export.h - the line ends of an exported message.
 */
#ifndef POPLAR_STORE_CTL_EXPORT_H
#define POPLAR_STORE_CTL_EXPORT_H

#include <stdbool.h>
#include <stddef.h>

/* A conversion under way, from CRLF to LF. Starts zeroed. */
struct ctl_export_lines {
    bool after_cr; /* the last octet taken in was a CR, not yet put out */
    bool put_cr;   /* the last octet put out was a CR */
    bool lossy;    /* "CR CR LF" was met: with LF alone nobody could tell it from CRLF */
};

/* Convert `size` octets; `out` has room for size + 1. Returns the octets put out. Pure. */
size_t ctl_export_convert(struct ctl_export_lines *lines, const char *in, size_t size, char *out);

#endif
