/*
 * lmtp_data.h - the message after DATA: where it ends, and what it is without the dots that the
 * client put before lines of dots (RFC 5321 section 4.5.2). Pure.
 *
 * Only CR LF ends a line here. Somebody else's bare LF before a dot must not end a message, or
 * what follows would be commands that its writer chose.
 */
#ifndef POPLAR_WORKER_LMTP_DATA_H
#define POPLAR_WORKER_LMTP_DATA_H

#include <stdbool.h>
#include <stddef.h>

enum lmtp_data_state {
    LMTP_DATA_START = 0, /* of a line */
    LMTP_DATA_DOT,       /* after a dot there */
    LMTP_DATA_DOT_CR,    /* and a CR after that */
    LMTP_DATA_LINE,      /* inside a line */
    LMTP_DATA_CR,        /* after a CR there */
    LMTP_DATA_END,       /* the line with only a dot was read */
};

/* Starts as all zeros: the line end of the command was one already. */
struct lmtp_data {
    enum lmtp_data_state state;
};

/* Take octets of the message in, up to its end at most: `used` says how many. Puts out what they
 * stand for, at most size + 1 octets, and returns how many. */
size_t lmtp_data_take(struct lmtp_data *data, const void *in, size_t size, void *out, size_t *used);

#endif
