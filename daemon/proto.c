/*
 * proto.c - the rows of the contract in proto.h. Data and look-ups; runs in every process.
 */
#include "daemon/proto.h"

#define CHILD   (ROLE_NURSERY | ROLE_WORKER | ROLE_AUTH)
#define SESSION (STATE_CLIENT | STATE_LOGIN | STATE_MAIL | STATE_DELIVERY)
#define ASKING  (STATE_LOGIN | STATE_MAIL | STATE_DELIVERY)

/* clang-format off */
static const struct proto_rule rules[PROTO_TYPES] = {
    /* type, name, from, to, states, octets, fds, once, fields */

    /* Set-up: where it was read (file:line), section, name ([tls NAME]; may be empty), key, value. */
    [PROTO_SETTING] = {PROTO_SETTING, "setting", ROLE_MASTER, ROLE_NURSERY | ROLE_AUTH, STATE_STARTING, 36864, 0, 0, 0, "sssss"},
    /* name ([tls NAME]; empty for [tls]), certificate path for messages; descriptors: chain, key. By
     * the name " ca", which no section can have, both are the file of [tls] client_ca. */
    [PROTO_CERTIFICATE] = {PROTO_CERTIFICATE, "certificate", ROLE_MASTER, ROLE_NURSERY, STATE_STARTING, 8192, 2, 2, 0, "ss"},
    /* 1 on trial: what is missing is then a reason not to start; key of auth's digests (none for the
     * nursery) */
    [PROTO_START] = {PROTO_START, "start", ROLE_MASTER, ROLE_NURSERY | ROLE_AUTH, STATE_STARTING, 64, 0, 0, 1, "ub"},
    /* fingerprint */
    [PROTO_READY] = {PROTO_READY, "ready", CHILD, ROLE_MASTER, STATE_STARTING, 64, 0, 0, 1, "q"},
    [PROTO_PING] = {PROTO_PING, "ping", ROLE_MASTER, ROLE_NURSERY | ROLE_AUTH, STATE_IDLE | STATE_BUSY, 16, 0, 0, 0, ""},
    [PROTO_PONG] = {PROTO_PONG, "pong", ROLE_NURSERY | ROLE_AUTH, ROLE_MASTER, STATE_IDLE | STATE_BUSY, 16, 0, 0, 0, ""},
    /* priority as in syslog(3), text */
    [PROTO_LOG] = {PROTO_LOG, "log", CHILD, ROLE_MASTER, STATE_STARTING | STATE_IDLE | STATE_BUSY | SESSION, 1024, 0, 0, 0, "us"},

    /* which, in the order in which they were sent; seconds since the epoch */
    [PROTO_EXPIRES] = {PROTO_EXPIRES, "expires", ROLE_NURSERY, ROLE_MASTER, STATE_STARTING, 64, 0, 0, 0, "uq"},

    /* Workers are made. Descriptor: the new worker's end of its channel. */
    [PROTO_FORK] = {PROTO_FORK, "fork", ROLE_MASTER, ROLE_NURSERY, STATE_IDLE, 16, 1, 1, 0, ""},
    /* errno */
    [PROTO_FORK_FAILED] = {PROTO_FORK_FAILED, "fork-failed", ROLE_NURSERY, ROLE_MASTER, STATE_IDLE, 64, 0, 0, 0, "u"},

    /* A session. session, door, peer address, ticket keys: current, previous; 1 when the peer is a
     * proxy whose header comes first. Descriptor: the client; not of LMTP, the master may have a copy
     * until the worker speaks. */
    [PROTO_ASSIGN] = {PROTO_ASSIGN, "assign", ROLE_MASTER, ROLE_WORKER, STATE_IDLE, 512, 1, 1, 1, "qusbbu"},
    /* For LMTP, after it: the master has closed its own end of that socket. Not before is it served:
     * who closes last has to wait for what a local client can put into it. */
    [PROTO_HANDED_OVER] = {PROTO_HANDED_OVER, "handed-over", ROLE_MASTER, ROLE_WORKER, STATE_DELIVERY, 16, 0, 0, 1, ""},
    /* TLS version (empty: none) and the name that the client gave; both for people to see */
    [PROTO_LOGIN_WANTED] = {PROTO_LOGIN_WANTED, "login-wanted", ROLE_WORKER, ROLE_MASTER, STATE_CLIENT, 512, 0, 0, 0, "ss"},
    [PROTO_GRANT_AGAIN] = {PROTO_GRANT_AGAIN, "grant-again", ROLE_WORKER, ROLE_MASTER, STATE_MAIL, 16, 0, 0, 0, ""},
    /* the recipient's address without brackets and quotes, enum proto_service */
    [PROTO_RECIPIENT] = {PROTO_RECIPIENT, "recipient", ROLE_WORKER, ROLE_MASTER, STATE_DELIVERY, 512, 0, 0, 0, "su"},
    /* Descriptor: the worker's end of the exchange. */
    [PROTO_EXCHANGE] = {PROTO_EXCHANGE, "exchange", ROLE_MASTER, ROLE_WORKER, ASKING, 16, 1, 1, 0, ""},
    /* enum login_refusal */
    [PROTO_LOGIN_REFUSED] = {PROTO_LOGIN_REFUSED, "login-refused", ROLE_MASTER, ROLE_WORKER, ASKING, 64, 0, 0, 0, "u"},
    /* 1 when this was the last attempt of the connection */
    [PROTO_SETTLED] = {PROTO_SETTLED, "settled", ROLE_MASTER, ROLE_WORKER, STATE_LOGIN, 64, 0, 0, 0, "u"},
    /* enum session_end, messages retrieved, deleted (LMTP: recipients served, refused), recipients
     * put off (LMTP), octets in, out, TLS version, cipher, more about the end, the last error of who
     * did not log in */
    [PROTO_SUMMARY] = {PROTO_SUMMARY, "summary", ROLE_WORKER, ROLE_MASTER, SESSION, 1024, 0, 0, 1, "uqqqqqssss"},

    /* the peer's address with port, as printed */
    [PROTO_REAL_ADDRESS] = {PROTO_REAL_ADDRESS, "real-address", ROLE_WORKER, ROLE_MASTER, STATE_CLIENT, 128, 0, 0, 1, "s"},
    /* 1 yes, 0 no; the peer address as the log will show it */
    [PROTO_ADDRESS_TAKEN] = {PROTO_ADDRESS_TAKEN, "address-taken", ROLE_MASTER, ROLE_WORKER, STATE_CLIENT, 128, 0, 0, 1, "us"},
    /* enum session_end */
    [PROTO_FINISH] = {PROTO_FINISH, "finish", ROLE_MASTER, ROLE_WORKER, STATE_MAIL | STATE_DONE, 64, 0, 0, 1, "u"},
    /* enum proto_trace */
    [PROTO_TRACE] = {PROTO_TRACE, "trace", ROLE_MASTER, ROLE_WORKER, STATE_LOGIN | STATE_MAIL | STATE_DONE, 64, 0, 0, 0, "u"},

    /* An exchange. session, enum proto_service, user (SERVE_GRANT) or recipient, peer address without
     * port, the peer's uid (LMTP), the digest of what was refused last on this connection (0: nothing).
     * Descriptor: auth's end, of which the master has a copy until the exchange is over. */
    [PROTO_SERVE] = {PROTO_SERVE, "serve", ROLE_MASTER, ROLE_AUTH, STATE_IDLE, 512, 1, 1, 0, "qussuq"},
    /* session, enum login_outcome, canonical user (also of a failure, as far as known), keyed digest of a refused name and secret */
    [PROTO_OUTCOME] = {PROTO_OUTCOME, "outcome", ROLE_AUTH, ROLE_MASTER, STATE_BUSY, 512, 0, 0, 0, "qusq"},
    /* session, canonical user */
    [PROTO_LOCKED] = {PROTO_LOCKED, "locked", ROLE_AUTH, ROLE_MASTER, STATE_BUSY, 512, 0, 0, 0, "qs"},
    /* 1: its holder is gone, try once more; 0: it stays */
    [PROTO_RETRY] = {PROTO_RETRY, "retry", ROLE_MASTER, ROLE_AUTH, STATE_BUSY, 64, 0, 0, 0, "u"},
    [PROTO_VACANT] = {PROTO_VACANT, "vacant", ROLE_AUTH, ROLE_MASTER, STATE_BUSY, 16, 0, 0, 0, ""},
    /* mechanism, user, secret */
    [PROTO_BEGIN] = {PROTO_BEGIN, "begin", ROLE_WORKER, ROLE_AUTH, STATE_EXCHANGE, 36864, 0, 0, 1, "ssb"},
    /* enum login_outcome, canonical user. Descriptors: to SERVE_FIRST a spool file; all or none: lock,
     * database, -wal, -shm. Auth has its copies for a moment longer: the session gives its lock back
     * itself. */
    [PROTO_VERDICT] = {PROTO_VERDICT, "verdict", ROLE_AUTH, ROLE_WORKER, STATE_EXCHANGE, 512, 0, 5, 1, "us"},

    /* poplarctl */
    /* fingerprint, enum status_part, from */
    [PROTO_STATUS] = {PROTO_STATUS, "status", ROLE_CTL, ROLE_MASTER, STATE_IDLE, 64, 0, 0, 0, "quq"},
    /* next, enum proto_count, value */
    [PROTO_COUNT] = {PROTO_COUNT, "count", ROLE_MASTER, ROLE_CTL, STATE_IDLE, 64, 0, 0, 0, "quq"},
    /* next, number, pid, enum proto_state, enum proto_door, canonical user, peer, TLS version,
     * milliseconds since it began */
    [PROTO_SESSION] = {PROTO_SESSION, "session", ROLE_MASTER, ROLE_CTL, STATE_IDLE, 1024, 0, 0, 0, "qquuusssq"},
    /* next, name, detail, value: by enum status_part */
    [PROTO_ITEM] = {PROTO_ITEM, "item", ROLE_MASTER, ROLE_CTL, STATE_IDLE, 8192, 0, 0, 0, "qssq"},
    /* session */
    [PROTO_KICK] = {PROTO_KICK, "kick", ROLE_CTL, ROLE_MASTER, STATE_IDLE, 64, 0, 0, 0, "q"},
    [PROTO_RELOAD] = {PROTO_RELOAD, "reload", ROLE_CTL, ROLE_MASTER, STATE_IDLE, 16, 0, 0, 0, ""},
    /* user, 1 on, 0 off */
    [PROTO_DEBUG] = {PROTO_DEBUG, "debug", ROLE_CTL, ROLE_MASTER, STATE_IDLE, 512, 0, 0, 0, "su"},
    /* exit status for poplarctl, text */
    [PROTO_REPLY] = {PROTO_REPLY, "reply", ROLE_MASTER, ROLE_CTL, STATE_IDLE, 8192, 0, 0, 0, "us"},
};
/* clang-format on */

const struct proto_rule *proto_rule(unsigned type)
{
    return type > 0 && type < PROTO_TYPES ? &rules[type] : NULL;
}

const char *proto_end_name(unsigned end)
{
    static const char *const names[END_REASONS] = {
        [END_QUIT] = "quit",
        [END_DISCONNECT] = "disconnect",
        [END_IDLE] = "idle",
        [END_LOGIN_TIMEOUT] = "login-timeout",
        [END_WRITE_TIMEOUT] = "write-timeout",
        [END_BAD_COMMANDS] = "bad-commands",
        [END_LINE_TOO_LONG] = "line-too-long",
        [END_LOGIN_FAILURES] = "login-failures",
        [END_TLS] = "tls",
        [END_STORE] = "store",
        [END_SHUTDOWN] = "shutdown",
        [END_FOREIGN] = "foreign-protocol",
        [END_LOGIN_DELAY] = "login-delay",
        [END_TAKEOVER] = "takeover",
        [END_KICKED] = "kicked",
        [END_POP3_OFF] = "pop3-off",
    };
    return end < END_REASONS && names[end] ? names[end] : "unknown";
}

const char *proto_door_name(unsigned door)
{
    static const char *const names[DOORS] = {
        [DOOR_POP3] = "pop3",
        [DOOR_POP3S] = "pop3s",
        [DOOR_LMTP] = "lmtp",
    };
    return door < DOORS && names[door] ? names[door] : "unknown";
}

const char *proto_outcome_name(unsigned outcome)
{
    static const char *const names[LOGIN_OUTCOMES] = {
        [LOGIN_OK] = "ok",
        [LOGIN_DENIED] = "denied",
        [LOGIN_EXPIRED] = "password-expired",
        [LOGIN_ACCOUNT] = "account-refused",
        [LOGIN_UNAVAILABLE] = "unavailable",
        [LOGIN_MISCONFIGURED] = "misconfigured",
        [LOGIN_IN_USE] = "in-use",
        [LOGIN_NO_MAILDROP] = "no-maildrop",
        [LOGIN_STORE_TEMP] = "store-temporary",
        [LOGIN_STORE_PERM] = "store-permanent",
        [LOGIN_BROKEN] = "contract-broken",
        [LOGIN_NO_USER] = "no-such-user",
        [LOGIN_FORBIDDEN] = "not-by-this-peer",
        [LOGIN_NO_ROOM] = "no-room",
        [LOGIN_CRASHED] = "crashed",
    };
    return outcome < LOGIN_OUTCOMES ? names[outcome] : "unknown";
}

const char *proto_retirement_name(unsigned retirement)
{
    static const char *const names[RETIREMENTS] = {
        [RETIRED_RELOAD] = "reload", [RETIRED_AGE] = "age",   [RETIRED_SESSIONS] = "sessions",
        [RETIRED_CRASH] = "crash",   [RETIRED_LOST] = "lost",
    };
    return retirement < RETIREMENTS ? names[retirement] : "unknown";
}

unsigned proto_latency_bound(unsigned n)
{
    static const unsigned bounds[PROTO_LATENCIES] = {1,   5,   10,   25,   50,    100,
                                                     250, 500, 1000, 2500, 10000, 0};
    return n < PROTO_LATENCIES ? bounds[n] : 0;
}

/* FNV-1a: this tells builds apart, it keeps nobody out. */
static uint64_t mix(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * UINT64_C(0x100000001b3);
}

static uint64_t mix_text(uint64_t hash, const char *text)
{
    for (; *text; text++)
        hash = mix(hash, (unsigned char)*text);
    return mix(hash, 0);
}

static uint64_t fingerprint(void)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *r = &rules[type];
        hash = mix_text(mix_text(mix(hash, type), r->name), r->fields);
        hash = mix(mix(mix(hash, r->from), r->to), r->states);
        hash = mix(mix(hash, r->max_size), (r->min_fds << 8) | (r->max_fds << 1) | (r->once != 0));
    }
    return mix(mix(mix(mix(mix(hash, LOGIN_OUTCOMES), END_REASONS), PROTO_FD_GRANT), COUNTS),
               SERVICES);
}

uint64_t proto_fingerprint(void)
{
    static uint64_t known; /* to workers from their nursery */
    if (known == 0)
        known = fingerprint();
    return known;
}
