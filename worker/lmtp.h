/*
 * lmtp.h - one LMTP session (RFC 2033): mail on its way into maildrops.
 */
#ifndef POPLAR_WORKER_LMTP_H
#define POPLAR_WORKER_LMTP_H

#include "worker/lmtp_parse.h"
#include "worker/lmtp_reply.h"
#include "worker/session.h"
#include "worker/spool.h"

enum { LMTP_RECIPIENTS_MAX = 100 /* of one message, RFC 5321 section 4.5.3.1.8 */ };

struct lmtp_recipient {
    struct lmtp_path path;
    char name[PROTO_USER_MAX + 1]; /* whose maildrop it is, by auth's word */
};

/* The maildrop granted last. It stays for a moment, so that the next message of a queue to the same
 * address neither asks auth nor opens it again. */
struct lmtp_held {
    char address[PROTO_RECIPIENT_MAX + 1]; /* by which it was asked for; "": nothing is held */
    char name[PROTO_USER_MAX + 1];         /* whose it is */
    uint64_t until;                        /* base_now_ms(); auth's word counts no longer then */
    uint64_t octets;                       /* of mail stored by that word */
    int files[MAILDROP_FILES];             /* as granted, until it is opened */
    struct maildrop *maildrop;             /* NULL: not opened yet */
};

/* What a session knows beyond what every session does. Starts as all zeros. */
struct lmtp {
    struct session *s;
    struct spool spool;
    struct lmtp_held held;
    char client[256]; /* as it calls itself; "": no LHLO yet */

    /* The transaction. */
    bool begun;            /* MAIL was taken */
    bool chunked;          /* BDAT was */
    bool too_large;        /* the message has grown past [store] max_message */
    bool has_nul;          /* a NUL came, and [delivery] nul=reject */
    struct lmtp_mail mail; /* the sender */
    size_t n;
    struct lmtp_recipient to[LMTP_RECIPIENTS_MAX];
};

/* Serve the client of s->stream until the session ends; then s->end says why and the connection is
 * closed. */
void lmtp_serve(struct session *s);

/* lmtp_deliver.c: */
/* Whose maildrop is that, and may this client deliver to it? LMTP_RECIPIENT_OK fills to->name. The
 * session may have ended afterwards. */
enum lmtp_reply lmtp_check_recipient(struct lmtp *l, struct lmtp_recipient *to);
/* The log is told why the message cannot be spooled. */
void lmtp_tell_lost(struct lmtp *l);
/* Store the spooled message in one maildrop; LMTP_DELIVERED means that it is on disk. */
enum lmtp_reply lmtp_deliver(struct lmtp *l, const struct lmtp_recipient *to);
/* The client is waited for. One that has nothing to say for a moment keeps no maildrop. */
void lmtp_idle(struct lmtp *l);
/* Give back what is held; legal when nothing is. */
void lmtp_release(struct lmtp *l);

#endif
