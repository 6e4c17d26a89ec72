/*
 * session.h - what one worker knows about its one client, and the replies it can give.
 */
#ifndef POPLAR_WORKER_SESSION_H
#define POPLAR_WORKER_SESSION_H

#include "daemon/channel.h"
#include "daemon/config.h"
#include "worker/line.h"
#include "worker/stream.h"
#include "worker/text.h"
#include "worker/view.h"

enum {
    SESSION_BAD_BEFORE_LOGIN = 3, /* bad commands that end a session */
    SESSION_BAD_AFTER_LOGIN = 20,
    SESSION_COMMANDS_BEFORE_LOGIN = 100, /* good ones as well */
};

/* The extended response codes in use (RFC 2449 section 8, RFC 3206). */
enum session_code {
    CODE_NONE,
    CODE_AUTH,
    CODE_IN_USE,
    CODE_LOGIN_DELAY,
    CODE_SYS_TEMP,
    CODE_SYS_PERM,
    CODE_UTF8, /* RFC 6856 section 5 */
};

struct session {
    const struct config *config;
    struct tls *tls;        /* the certificates */
    struct channel control; /* to the master */

    uint64_t number; /* by which the log names this session */
    unsigned door;   /* enum proto_door */
    char peer[PROTO_ADDRESS_MAX];
    bool proxied;   /* the peer is a proxy: its header comes before anything else */
    bool proxy_tls; /* and it has ended TLS for the client */
    bool far;       /* the client is not on this machine, even if `peer` looks so */
    struct tls_ticket_keys ticket_keys;

    bool spoke;                    /* the client has sent a whole line */
    bool unended;                  /* but the end of its last may still come */
    unsigned bad;                  /* bad commands so far */
    unsigned commands;             /* of any kind, before login */
    char user[PROTO_USER_MAX + 1]; /* from USER, waiting for PASS; "" none */

    bool utf8;                   /* UTF8 was given (worker/utf8.h) */
    bool accents;                /* UTF8 or LANG was: texts may leave ASCII */
    enum text_language language; /* of texts */

    bool logged_in;
    struct view view;

    bool reading;       /* waiting for a command */
    unsigned finishing; /* enum session_end: asked to end, and why; 0: not */
    bool last;          /* the process ends with this session */
    bool trace_comes;   /* TRACE_LATER: whether it is traced is not known yet */

    unsigned end;                /* enum session_end; 0: goes on */
    char detail[256];            /* more about the end, for the log */
    enum text error;             /* the last -ERR while not logged in, for it, too; 0: none */
    uint64_t retrieved, deleted; /* LMTP: recipients served, refused */
    uint64_t deferred;           /* LMTP: recipients whose mail is to come again */
    char tls_version[16], cipher[64];
    char client_name[PROTO_USER_MAX + 1]; /* by a certificate that was verified; "" none */

    /* Last what is large, each a buffer behind a few numbers: what a session uses of it all is then
     * on three pages or four. */
    struct stream stream;
    struct line_input input;
    struct message record;                    /* the one being sent or received */
    unsigned char chunk[MAILDROP_CHUNK_SIZE]; /* of a message on its way */
};

/* A text alone, in the session's language. */
void session_put_text(struct session *s, enum text text);
/* "+OK text" and "-ERR [CODE] text". */
void session_ok(struct session *s, enum text text);
void session_error(struct session *s, enum session_code code, enum text text);
/* "+OK n m", RFC 1939's drop and scan listings, without line end. */
void session_numbers(struct session *s, const char *before, uint64_t first, uint64_t second);

/* End the session, if nothing has ended it yet. */
void session_end(struct session *s, enum session_end why);

/* End it because of the store: what the client is told, and in detail what the log is. */
enum session_code session_store_failed(struct session *s, enum store_outcome outcome);
/* The same, and tell the client. Always false. */
bool session_refuse_store(struct session *s, enum store_outcome outcome);

/* End it because the stream failed, if it did. */
void session_check_stream(struct session *s);

/* End it because the master broke the contract or is gone; the worker has no other use. */
void session_lost_master(struct session *s, enum channel_outcome outcome, const char *fault);

/* The master has something to say: a trace to begin or end, or that the session must end at its
 * next command. False when waiting for the client has no more use. */
bool session_hear_master(struct session *s);
/* Wait for the master's answer, which is in s->record then. Not for ever: an auth process that died
 * between telling the master and telling us leaves nobody to answer. False when the session is
 * over. */
bool session_hear_answer(struct session *s);

/* After a login: what the master said to come comes before the first command. */
void session_await_trace(struct session *s);

/* Tell the log of one command and the first line of its reply, when the session is traced. */
void session_trace(struct session *s, const char *command);

/* Send the replies that wait, then read what the client says: only here, so that replies to
 * pipelined commands leave together. The session may have ended afterwards. */
void session_read_more(struct session *s);

/* Whether the client's end of the connection is TLS, ours or that of a proxy we believe. */
bool session_has_tls(const struct session *s);

/* Whether a printed address, with or without port and brackets, is this machine's to itself. */
bool session_is_loopback(const char *address);

/* Whether this client may send credentials now: [tls] required. */
bool session_may_log_in(const struct session *s);

/* From the clear to TLS on the client's socket, ends the session if that fails. */
void session_start_tls(struct session *s);

/* Tell the master the totals. */
void session_report(struct session *s);

#endif
