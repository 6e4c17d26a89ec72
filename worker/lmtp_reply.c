/*
 * lmtp_reply.c - the one table of what LMTP clients are told. Data.
 */
#include "worker/lmtp_reply.h"

static const struct {
    const char *text;
    bool bad;
} replies[LMTP_REPLIES] = {
    [LMTP_OK] = {"250 2.0.0 Ok", false},
    [LMTP_BYE] = {"221 2.0.0 Bye", false},
    [LMTP_SENDER_OK] = {"250 2.1.0 Sender ok", false},
    [LMTP_RECIPIENT_OK] = {"250 2.1.5 Recipient ok", false},
    [LMTP_CHUNK_OK] = {"250 2.0.0 Chunk taken", false},
    [LMTP_DELIVERED] = {"250 2.0.0 Delivered", false},
    [LMTP_CANNOT_VERIFY] = {"252 2.5.2 Deliver to it and see", false},
    [LMTP_GO_AHEAD] = {"354 Send the message, then a line with a dot", false},

    [LMTP_IDLE_TOO_LONG] = {"421 4.4.2 Nothing said for too long", false},
    [LMTP_TOO_MANY_BAD] = {"421 4.7.0 Too many bad commands", false},
    [LMTP_TRY_LATER] = {"451 4.3.0 Mail cannot be taken now, try later", false},
    [LMTP_BUSY] = {"451 4.3.2 The maildrop cannot be had now, try later", false},
    [LMTP_NO_ROOM] = {"452 4.3.1 No room on the disk, try later", false},
    [LMTP_QUOTA_DEFER] = {"452 4.2.2 The maildrop is full", false},
    [LMTP_TOO_MANY_RECIPIENTS] = {"452 4.5.3 Too many recipients, send again to the rest", false},

    [LMTP_UNKNOWN_COMMAND] = {"500 5.5.1 Unknown command", true},
    [LMTP_LINE_TOO_LONG] = {"500 5.5.2 Line too long", true},
    [LMTP_MALFORMED] = {"500 5.5.2 Not text", true},
    [LMTP_SAY_LHLO] = {"500 5.5.1 This is LMTP, say LHLO", true},
    [LMTP_SYNTAX] = {"501 5.5.4 Not the arguments of this command", true},
    [LMTP_SENDER_SYNTAX] = {"501 5.1.7 Not an address", true},
    [LMTP_RECIPIENT_SYNTAX] = {"501 5.1.3 Not an address", true},
    [LMTP_PARAMETER_VALUE] = {"501 5.5.4 A parameter cannot have this value", true},
    [LMTP_CHUNK_SYNTAX] = {"501 5.5.4 Not the size of a chunk", true},
    [LMTP_LHLO_FIRST] = {"503 5.5.1 Say LHLO first", true},
    [LMTP_MAIL_TWICE] = {"503 5.5.1 One MAIL at a time", true},
    [LMTP_MAIL_FIRST] = {"503 5.5.1 Say MAIL first", true},
    [LMTP_NO_RECIPIENTS] = {"503 5.5.1 No valid recipients", false},
    [LMTP_CHUNKS_BEGAN] = {"503 5.5.1 The message has begun in chunks", true},
    [LMTP_UNKNOWN_PARAMETER] = {"555 5.5.4 Unknown parameter", true},
    [LMTP_NO_SUCH_USER] = {"550 5.1.1 No such user", false},
    [LMTP_FORBIDDEN] = {"550 5.7.1 Not into this maildrop by you", false},
    [LMTP_TOO_LARGE] = {"552 5.3.4 Message too large", false},
    [LMTP_NUL] = {"554 5.6.0 The message has a NUL, which is not taken here", false},
    [LMTP_QUOTA_REJECT] = {"552 5.2.2 The maildrop is full", false},
};

const char *lmtp_reply_text(enum lmtp_reply reply)
{
    return replies[reply].text;
}

bool lmtp_reply_is_bad(enum lmtp_reply reply)
{
    return replies[reply].bad;
}
