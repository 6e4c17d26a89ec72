/*
 * lmtp_reply.h - the replies of LMTP, each a code, an enhanced code (RFC 2034, RFC 3463) and a text
 * for whoever reads a log or a returned message. English only: RFC 6856's languages are POP3's.
 */
#ifndef POPLAR_WORKER_LMTP_REPLY_H
#define POPLAR_WORKER_LMTP_REPLY_H

#include <stdbool.h>

enum lmtp_reply {
    LMTP_OK,
    LMTP_BYE,
    LMTP_SENDER_OK,
    LMTP_RECIPIENT_OK,
    LMTP_CHUNK_OK,
    LMTP_DELIVERED,
    LMTP_CANNOT_VERIFY,
    LMTP_GO_AHEAD,

    LMTP_IDLE_TOO_LONG,
    LMTP_TOO_MANY_BAD,
    LMTP_TRY_LATER, /* a look-up or the store failed, in whatever way */
    LMTP_BUSY,      /* no auth process, or the maildrop is locked */
    LMTP_NO_ROOM,   /* under the maildrop or the message on its way, or only what is for deleting */
    LMTP_QUOTA_DEFER,
    LMTP_TOO_MANY_RECIPIENTS,

    LMTP_UNKNOWN_COMMAND,
    LMTP_LINE_TOO_LONG,
    LMTP_MALFORMED,
    LMTP_SAY_LHLO,
    LMTP_SYNTAX,
    LMTP_SENDER_SYNTAX,
    LMTP_RECIPIENT_SYNTAX,
    LMTP_PARAMETER_VALUE,
    LMTP_CHUNK_SYNTAX,
    LMTP_LHLO_FIRST,
    LMTP_MAIL_TWICE,
    LMTP_MAIL_FIRST,
    LMTP_NO_RECIPIENTS,
    LMTP_CHUNKS_BEGAN,
    LMTP_UNKNOWN_PARAMETER,
    LMTP_NO_SUCH_USER,
    LMTP_FORBIDDEN,
    LMTP_TOO_LARGE,
    LMTP_NUL,
    LMTP_QUOTA_REJECT,
    LMTP_REPLIES
};

/* The whole line without its end. */
const char *lmtp_reply_text(enum lmtp_reply reply);

/* Whether the client did what a client does not: too many of these end a session. */
bool lmtp_reply_is_bad(enum lmtp_reply reply);

#endif
