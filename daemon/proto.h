/*
 * proto.h - the whole contract between Poplar's processes.
 *
 * Who may say what to whom, in which state, how large, with how many descriptors, once or often;
 * which descriptor a child finds its channel on; what its exit status means. Every process runs
 * by this one table: channel.c checks each record against it on receipt, logs take the names from
 * it, tests/unit walks every row, tests/fuzz feeds it. Nothing else may cross between processes.
 *
 * A record is one SOCK_SEQPACKET datagram: a one-octet type, then the row's fields in order, each
 * a four-octet little-endian length and that many octets.
 */
#ifndef POPLAR_DAEMON_PROTO_H
#define POPLAR_DAEMON_PROTO_H

#include <stddef.h>
#include <stdint.h>

/* Descriptors at a child's start: 0, 1 and 2 as usual, the channel to the master on 3. A worker
 * meets the rest in this order because recvmsg() hands out the lowest free number, and its
 * sandbox ties the store's system calls to the numbers from PROTO_FD_GRANT on. A worker that takes
 * mail in has its spool file there, which moves its grants up by one. */
enum proto_fd {
    PROTO_FD_CONTROL = 3,
    PROTO_FD_CLIENT = 4,   /* worker: the client's socket, from PROTO_ASSIGN */
    PROTO_FD_EXCHANGE = 5, /* worker: its end of one exchange with auth */
    PROTO_FD_GRANT = 6,    /* worker: lock, database, -wal, -shm (order: store/files.h) */
    PROTO_FD_SPOOL = 6,    /* LMTP worker: an unlinked file; its grants begin at 7 */
    PROTO_FD_END = 11,     /* a worker has no descriptor from here on */
};

/* A set of roles: who may send or receive a row. */
enum proto_role {
    ROLE_MASTER = 1 << 0,
    ROLE_NURSERY = 1 << 1,
    ROLE_WORKER = 1 << 2,
    ROLE_AUTH = 1 << 3,
    ROLE_CTL = 1 << 4, /* poplarctl, on the control socket */
};

/* The states of a channel, a set in each row: when the row may be sent. Both ends keep the state
 * themselves, from what they sent and received; nobody is told a state. */
enum proto_state {
    STATE_STARTING = 1 << 0, /* exec'd or forked, PROTO_READY not seen */
    STATE_IDLE = 1 << 1,     /* nursery: serving; worker: no client; auth: no exchange; ctl: open */
    STATE_CLIENT = 1 << 2,   /* worker: a client, not logged in */
    STATE_LOGIN = 1 << 3,    /* worker: a login is under way */
    STATE_MAIL = 1 << 4,     /* worker: logged in */
    STATE_BUSY = 1 << 5,     /* auth: an exchange is under way */
    STATE_DONE = 1 << 6,     /* worker: summary sent, the end follows */
    STATE_EXCHANGE = 1 << 7, /* the channel of one exchange: nothing decided */
    STATE_DELIVERY = 1 << 8, /* worker: a client that delivers by LMTP; it never logs in */
};

enum proto_type {
    PROTO_SETTING = 1,   /* one key of the configuration that differs from its default */
    PROTO_CERTIFICATE,   /* a certificate chain and its key, open */
    PROTO_START,         /* configuration complete */
    PROTO_READY,         /* the child is set up */
    PROTO_PING,          /* */
    PROTO_PONG,          /* */
    PROTO_LOG,           /* a line for the master's log */
    PROTO_FORK,          /* make a worker around this channel */
    PROTO_FORK_FAILED,   /* could not; the channel is closed */
    PROTO_ASSIGN,        /* here is a client */
    PROTO_LOGIN_WANTED,  /* the client gave credentials */
    PROTO_GRANT_AGAIN,   /* the granted files had been replaced: open the maildrop once more */
    PROTO_EXCHANGE,      /* here is an auth process to talk to */
    PROTO_LOGIN_REFUSED, /* here is none */
    PROTO_SETTLED,       /* the failed login may now be answered */
    PROTO_SUMMARY,       /* the session's totals, its last word */
    PROTO_SERVE,         /* serve this exchange */
    PROTO_OUTCOME,       /* how it ended, told to the master before the worker */
    PROTO_VACANT,        /* the exchange is over, the auth process is free */
    PROTO_BEGIN,         /* exchange: the credentials */
    PROTO_VERDICT,       /* exchange: the outcome, and the maildrop's files */
    PROTO_REAL_ADDRESS,  /* a proxy's header: whom the client really is */
    PROTO_ADDRESS_TAKEN, /* the master's yes or no to it */
    PROTO_FINISH,        /* end at the next command */
    PROTO_TRACE,         /* tell the log what is said in this session, or stop it */
    PROTO_LOCKED,        /* auth: the maildrop is in use; may that session be ended? */
    PROTO_RETRY,         /* master: it is, or it may not be */
    PROTO_DEBUG,         /* poplarctl: trace the sessions of one user, or stop it */
    PROTO_STATUS,        /* poplarctl asks for the next entry of a part of the master's state */
    PROTO_RELOAD,        /* poplarctl asks for a reload and waits */
    PROTO_REPLY,         /* how an order ended; to PROTO_STATUS: there is no further entry */
    PROTO_RECIPIENT,     /* an LMTP client named a recipient, or its mail is ready for it */
    PROTO_EXPIRES,       /* the nursery read when a certificate expires */
    PROTO_COUNT,         /* an entry of the status: a number */
    PROTO_SESSION,       /* the same: a session */
    PROTO_ITEM,          /* the same: something that has a name */
    PROTO_KICK,          /* poplarctl: end a session */
    PROTO_HANDED_OVER,   /* the client's socket is the worker's alone: serve it */
    PROTO_TYPES          /* one past the last */
};

enum {
    PROTO_MESSAGE_MAX = 40960, /* octets in a record; every row's own cap is at most this */
    PROTO_FDS_MAX = 5,         /* descriptors in a record */

    PROTO_VALUE_MAX = 32000,   /* octets in the value of a setting */
    PROTO_USER_MAX = 250,      /* octets in a user name */
    PROTO_RECIPIENT_MAX = 320, /* octets in a recipient's address, RFC 5321 section 4.5.3.1 */
    PROTO_PEM_MAX = 1 << 20,   /* octets that are read of a certificate's file, or a key's */
    PROTO_PASSWORD_MAX = 500,  /* octets in a password; a token may have [auth] token_max */
    PROTO_ADDRESS_MAX = 64,    /* octets of a printed address, with port and brackets */
    PROTO_LATENCIES = 12,      /* classes of the histogram of logins; the last has no bound */

    PROTO_TICKET_KEY_SIZE = 80 /* octets of TLS ticket key: name 16, HMAC 32, AES 32 */
};

/* One row of the contract. */
struct proto_rule {
    enum proto_type type;
    const char *name;
    unsigned from, to; /* sets of enum proto_role */
    unsigned states;   /* set of enum proto_state, of the child's channel */
    size_t max_size;   /* octets of the whole record */
    unsigned min_fds, max_fds;
    int once;           /* at most once on a channel */
    const char *fields; /* u: 32 bits; q: 64 bits; s: text without NUL; b: octets */
};

/* What PROTO_SERVE asks for; PROTO_RECIPIENT for those of LMTP. */
enum proto_service {
    SERVE_LOGIN = 1, /* check credentials, then open the maildrop */
    SERVE_GRANT,     /* open the maildrop of a user who is logged in already */
    SERVE_CHECK,     /* LMTP: may this peer deliver to this recipient, and is there one? */
    SERVE_TAKE,      /* LMTP: the same, and open the maildrop, if there is one yet */
    SERVE_DELIVER,   /* LMTP: the same, and open the maildrop, made if need be */
    SERVE_FIRST,     /* LMTP: as SERVE_TAKE, for a session that has no spool file yet */
    SERVICES         /* one past the last */
};

/* How a login ended (PROTO_OUTCOME, PROTO_VERDICT). Texts for people are the worker's. */
enum login_outcome {
    LOGIN_OK = 0,
    LOGIN_DENIED,        /* unknown user, wrong password, refused uid: not told apart */
    LOGIN_EXPIRED,       /* the password was right, but must be changed first */
    LOGIN_ACCOUNT,       /* the password was right, but the account may not log in (now) */
    LOGIN_UNAVAILABLE,   /* PAM, the directory or the time allowed failed; try later */
    LOGIN_MISCONFIGURED, /* no PAM service file, a module that cannot be loaded */
    LOGIN_IN_USE,        /* another session holds the maildrop */
    LOGIN_NO_MAILDROP,   /* none there, and [store] create=no */
    LOGIN_STORE_TEMP,    /* the maildrop could not be opened: disk full, out of descriptors */
    LOGIN_STORE_PERM,    /* the maildrop is not what it must be: ownership, links, file types */
    LOGIN_BROKEN,        /* the worker broke the contract; the master only hears this */
    LOGIN_NO_USER,       /* delivery: there is no such recipient */
    LOGIN_FORBIDDEN,     /* delivery: not into this maildrop, not by this peer */
    LOGIN_NO_ROOM,       /* delivery: what is left under state_dir is for deleting */
    LOGIN_CRASHED,       /* auth ended over it; no record says this */
    LOGIN_OUTCOMES
};

/* Whether a session is traced (PROTO_TRACE). */
enum proto_trace {
    TRACE_OFF,
    TRACE_ON,
    TRACE_LATER, /* one of the two follows when the login has succeeded, and is waited for */
};

/* Why the master refuses PROTO_LOGIN_WANTED or PROTO_GRANT_AGAIN. */
enum login_refusal {
    REFUSED_BUSY = 1,  /* no auth process became free in time */
    REFUSED_THROTTLED, /* too many failures from this source or for this user */
    REFUSED_LAST,      /* the same, and this connection has no attempt left */
};

/* Which door the client came through (PROTO_ASSIGN). */
enum proto_door {
    DOOR_POP3 = 1,
    DOOR_POP3S = 2,
    DOOR_LMTP = 3, /* a unix socket */
    DOORS
};

/* Why a session ended (PROTO_SUMMARY). */
enum session_end {
    END_QUIT = 1,
    END_DISCONNECT, /* the client left without QUIT */
    END_IDLE,       /* idle_timeout */
    END_LOGIN_TIMEOUT,
    END_WRITE_TIMEOUT,
    END_BAD_COMMANDS,
    END_LINE_TOO_LONG,
    END_LOGIN_FAILURES,
    END_TLS,         /* handshake or record failure */
    END_STORE,       /* the store failed under the session */
    END_SHUTDOWN,    /* the master ended it */
    END_FOREIGN,     /* the client speaks another protocol */
    END_LOGIN_DELAY, /* logged in too soon after the last time, [session] login_delay */
    END_TAKEOVER,    /* the user logged in elsewhere, [session] lock=takeover */
    END_KICKED,      /* an administrator ended it */
    END_POP3_OFF,    /* POP3 is switched off for this maildrop */
    END_REASONS
};

/* Which part of its state the master is asked for (PROTO_STATUS): the entry at `from`, or the next
 * after it. Each entry says from where to ask for the one that follows. */
enum status_part {
    STATUS_COUNTS = 1,   /* PROTO_COUNT; from: an enum proto_count */
    STATUS_SESSIONS,     /* PROTO_SESSION; from: a session's number */
    STATUS_CERTIFICATES, /* PROTO_ITEM: [tls NAME], file, when it expires (epoch; 0: unknown) */
    STATUS_SOURCES,      /* PROTO_ITEM: a source whose logins are refused, "", ms left */
    STATUS_USERS,        /* PROTO_ITEM: a user many fail to log in as, "", ms left */
    STATUS_TRACED,       /* PROTO_ITEM: a user whose sessions are traced, "", 0 */
};

/* Why a generation was replaced. */
enum retirement {
    RETIRED_RELOAD,
    RETIRED_AGE,      /* layout_max_age */
    RETIRED_SESSIONS, /* sessions_per_layout */
    RETIRED_CRASH,    /* one of its workers crashed */
    RETIRED_LOST,     /* the nursery ended */
    RETIREMENTS
};

/* The master's numbers (PROTO_COUNT). Those up to COUNT_NOW are counted since its start. What
 * sessions did is their workers' word, told at their end. */
enum proto_count {
    COUNT_CONNECTIONS,      /* given to a worker */
    COUNT_REFUSED,          /* connections that were not */
    COUNT_LOGINS_THROTTLED, /* refused without asking auth */
    COUNT_LOGINS_BUSY,      /* no auth process became free in time */
    COUNT_MESSAGES_RETRIEVED,
    COUNT_MESSAGES_DELETED,
    COUNT_COPIES_DELIVERED, /* messages, a copy a recipient */
    COUNT_COPIES_REFUSED,   /* recipients, for good */
    COUNT_COPIES_DEFERRED,  /* recipients, to be tried again later */
    COUNT_OCTETS_IN,
    COUNT_OCTETS_OUT,
    COUNT_CRASHES, /* workers ended by a signal that nobody sent */
    COUNT_RELOADS,
    COUNT_RELOADS_FAILED,
    COUNT_LOGIN_MS,                                 /* the sum of what the histogram counts */
    COUNT_LOGIN,                                    /* logins by enum login_outcome */
    COUNT_RECIPIENT = COUNT_LOGIN + LOGIN_OUTCOMES, /* look-ups and grants for LMTP, the same */
    COUNT_ENDED = COUNT_RECIPIENT + LOGIN_OUTCOMES, /* sessions by enum session_end; 0: no word */
    COUNT_RETIRED = COUNT_ENDED + END_REASONS,      /* generations by enum retirement */
    COUNT_LATENCY = COUNT_RETIRED + RETIREMENTS,    /* logins by proto_latency_bound() */
    COUNT_NOW = COUNT_LATENCY + PROTO_LATENCIES,    /* from here on: as it is now */

    COUNT_STARTED = COUNT_NOW, /* when the master started, seconds since the epoch */
    COUNT_PID,
    COUNT_STOPPING,
    COUNT_GENERATION,    /* the number of the present one */
    COUNT_GENERATION_MS, /* its age */
    COUNT_SESSIONS,
    COUNT_SESSIONS_MAX,
    COUNT_LOGGED_IN,
    COUNT_DELIVERING,
    COUNT_WAITING, /* connections without a worker yet */
    COUNT_WORKERS_IDLE,
    COUNT_WORKERS_STARTING,
    COUNT_AUTHS,
    COUNT_AUTHS_BUSY,
    COUNT_AUTHS_MAX,
    COUNT_LOGINS_QUEUED, /* wait for an auth process, deliveries included */
    COUNTS
};

/* Where in them the one of a kind stands: proto_count_of(COUNT_LOGIN, LOGIN_OK). */
static inline unsigned proto_count_of(enum proto_count first, unsigned which)
{
    return first + which;
}

/* Exit statuses of children; beside these, sysexits.h. The status is the verdict: the master
 * reads nothing else of an ended child. */
enum proto_exit {
    PROTO_EXIT_DONE = 0,
    PROTO_EXIT_RECYCLE = 3,  /* auth: served enough, or found itself changed by a module */
    PROTO_EXIT_CONTRACT = 4, /* the peer broke the contract */
};

/* The rule of a type; NULL for a type that is none. */
const struct proto_rule *proto_rule(unsigned type);

/* A name for logs; "unknown" for what is none. Never NULL. */
const char *proto_end_name(unsigned end);
const char *proto_door_name(unsigned door);
const char *proto_outcome_name(unsigned outcome);
const char *proto_retirement_name(unsigned retirement);

/* The most milliseconds of the n-th class of the histogram; 0 for the last, which has no bound. */
unsigned proto_latency_bound(unsigned n);

/* A fingerprint of the whole table, sent with PROTO_READY: processes of different builds that
 * meet (a package was upgraded under a running master) find out before anything else is said. */
uint64_t proto_fingerprint(void);

#endif
