/*
 * lmtp_parse.h - the arguments of LMTP commands (RFC 2033 section 4, RFC 5321 section 4.1.1). Pure.
 *
 * Every text given in is one command line, or the rest of one, that line_is_text() let through:
 * UTF-8 without control characters, ended by NUL.
 */
#ifndef POPLAR_WORKER_LMTP_PARSE_H
#define POPLAR_WORKER_LMTP_PARSE_H

#include "daemon/proto.h"
#include <stdbool.h>

enum lmtp_fault {
    LMTP_PARSED = 0,
    LMTP_BAD_SYNTAX,    /* not the arguments of this command */
    LMTP_BAD_PATH,      /* what is between the brackets is no mailbox */
    LMTP_BAD_PARAMETER, /* one that was not offered */
    LMTP_BAD_VALUE,     /* one that was, with a value that it cannot have */
};

/* A path, RFC 5321 section 4.1.2. A source route is dropped. */
struct lmtp_path {
    char text[PROTO_RECIPIENT_MAX + 1];    /* as it was written, without brackets */
    char mailbox[PROTO_RECIPIENT_MAX + 1]; /* without quotes and backslashes: what it means */
    bool utf8;                             /* it is not ASCII */
};

struct lmtp_mail {
    struct lmtp_path from; /* both empty: the null sender */
    uint64_t size;         /* announced; 0: not at all */
    bool utf8; /* SMTPUTF8, or an address that would have needed it (RFC 6531 section 3.4) */
};

/* The name that LHLO gives. */
bool lmtp_parse_name(const char *text);

/* "FROM:<path> [parameters]" and "TO:<path>". A transport passes on what it took of the world,
 * which may be no address; here the message has arrived, and who sent it is no reason to send it
 * back: such a sender is the null sender. Nor is UTF-8 that nobody announced. */
enum lmtp_fault lmtp_parse_mail(const char *text, struct lmtp_mail *mail);
enum lmtp_fault lmtp_parse_rcpt(const char *text, struct lmtp_path *to);

/* "size [LAST]", RFC 3030 section 2. */
enum lmtp_fault lmtp_parse_bdat(const char *text, uint64_t *size, bool *last);

#endif
