/*
 * config.h - the configuration: one table of settings, read by inih in the master and poplarctl,
 * sent setting by setting to nursery and auth (PROTO_SETTING), which run the same table over it.
 *
 * Times are seconds, sizes are octets, unless a name says otherwise. Everything here is owned by
 * the struct config and freed with it.
 */
#ifndef POPLAR_DAEMON_CONFIG_H
#define POPLAR_DAEMON_CONFIG_H

#include "daemon/textlist.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Their values are in the order of the words in config.c's table. */
enum session_lock { LOCK_REFUSE, LOCK_TAKEOVER };
enum log_to { LOG_TO_AUTO, LOG_TO_JOURNAL, LOG_TO_SYSLOG, LOG_TO_STDERR };
enum tls_required { TLS_REQUIRED_YES, TLS_REQUIRED_NOT_ON_LOOPBACK, TLS_REQUIRED_NO };
enum tls_minimum { TLS_MINIMUM_1_2, TLS_MINIMUM_1_3 };
enum canonical_by { CANONICAL_NSS, CANONICAL_PAM };
enum username_case { USERNAME_LOWERCASE, USERNAME_KEEP };
enum strip_domain { STRIP_LOCAL, STRIP_ALWAYS, STRIP_NEVER };
enum over_quota { OVER_QUOTA_DEFER, OVER_QUOTA_REJECT };
/* What makes a recipient: an account in NSS, a maildrop that is there, any name that may be one. */
enum delivery_accept { ACCEPT_ACCOUNT, ACCEPT_MAILDROP, ACCEPT_ANY };

/* [tls NAME]: one more certificate, chosen by SNI. */
struct config_certificate {
    char *name; /* "" for [tls] itself */
    char *certificate, *key;
    int certificate_fd, key_fd; /* what setup_keep() keeps of both; -1: nothing */
};

/* [domain NAME] */
struct config_domain {
    char *name;
    char *pam_service;
};

/* One key that was given, as it was given, to be sent on to the children. */
struct config_given {
    char *where, *section, *name, *key, *value;
};

struct config {
    struct {
        char *hostname;                 /* the system's, when not set */
        struct text_list local_domains; /* hostname and localhost, when not set */
        char *state_dir, *run_dir;
        char *program_dir; /* NULL: where the running program is */
        char *worker_user, *store_user;
        struct text_list languages; /* of LANG: en, fr; the first is the default */
        unsigned log_to;            /* enum log_to */
        unsigned log_level;         /* a syslog priority */
        uint64_t stop_grace;
    } server;
    struct {
        struct text_list pop3, pop3s;
        struct text_list lmtp;       /* paths of unix sockets; RUN_DIR/lmtp.sock, when not set */
        struct text_list proxy_from; /* addresses and prefixes whose PROXY header is believed */
        unsigned proxy_tls; /* 0 header: TLS if it says so; 1 assume: the proxy ended TLS */
    } listen;
    struct {
        uint64_t idle_min, idle_max, max_sessions, max_per_source, sessions_per_layout;
        uint64_t layout_max_age;
        unsigned landlock; /* 0 auto, 1 require */
        unsigned seccomp;  /* 0 kill, 1 log */
    } workers;
    struct {
        struct config_certificate *certificates; /* [0] is [tls]; n_certificates >= 1 */
        size_t n_certificates;
        unsigned required;    /* enum tls_required */
        unsigned minimum;     /* enum tls_minimum */
        char *ciphers;        /* OpenSSL names for TLS 1.2; NULL: ECDHE with AEAD */
        unsigned alpn;        /* 0 strict, 1 ignore */
        char *client_ca;      /* NULL: no client certificates, no EXTERNAL */
        int client_ca_fd;     /* as of a certificate */
        unsigned client_name; /* 0 email, 1 cn: where a client certificate has its user */
    } tls;
    struct {
        struct text_list mechanisms; /* of AUTH: plain, login, external, xoauth2, oauthbearer */
        char *pam_service;
        char *pam_confdir; /* NULL: the system's */
        uint64_t processes_min, processes_max, requests_per_process;
        uint64_t timeout;
        uint64_t failure_delay;
        uint64_t first_uid;
        unsigned canonical; /* enum canonical_by */
        bool require_nss;
        unsigned username;     /* enum username_case */
        unsigned strip_domain; /* enum strip_domain */
        bool session;
        uint64_t token_max;
        struct text_list throttle_exempt; /* addresses or prefixes, 192.0.2.0/24 */
        struct config_domain *domains;
        size_t n_domains;
    } auth;
    struct {
        uint64_t login_timeout, idle_timeout;
        unsigned lock; /* enum session_lock */
        bool last;
        uint64_t login_delay; /* 0: none */
        unsigned nul;         /* 0 pass, 1 replace */
    } session;
    struct {
        bool create;
        uint64_t quota_octets, quota_messages; /* 0: none */
        unsigned over_quota;                   /* enum over_quota */
        uint64_t max_message;
        uint64_t undelete_for;
        uint64_t expire_after; /* 0: never */
    } store;
    struct {
        unsigned accept;                      /* enum delivery_accept */
        unsigned nul;                         /* 0 keep, 1 reject the message */
        struct text_list recipient_delimiter; /* any character of these begins a detail */
        struct text_list trusted;             /* accounts that may deliver to every maildrop */
    } delivery;

    char *where; /* where the next config_set() was read; after the last one, the file */
    struct config_given *given;
    size_t n_given;
};

/* Everything at its default. Release with config_free(). */
struct config *config_new(void);
void config_free(struct config *config); /* NULL is legal */

/* Set one key from its text. `name` is the NAME of [tls NAME] and [domain NAME], else "".
 * True, or false with one line in `error` that says what is wrong with which key. */
bool config_set(struct config *config, const char *section, const char *name, const char *key,
                const char *value, char *error, size_t error_size);

/* Where the keys set from now on were read ("FILE:LINE"), for later complaints. */
void config_at(struct config *config, const char *where);

/* Whether a file says it; what is built in may be left out where it cannot be. */
bool config_is_given(const struct config *config, const char *section, const char *name,
                     const char *key);

/* Where a key was set: "FILE:LINE", or "built-in default". Valid until the next config_set(). */
const char *config_where(const struct config *config, const char *section, const char *name,
                         const char *key);

/* Complain of a value: "WHERE: [SECTION NAME] KEY=VALUE: ", and what is wrong with it, cut where it
 * does not fit. Always false, as base_refuse(). */
bool config_refuse(const struct config *config, const char *section, const char *name,
                   const char *key, const char *value, char *error, size_t size, const char *format,
                   ...) __attribute__((format(printf, 8, 9)));

/* After the last key: fill what depends on others and on the system (hostname), check what
 * belongs together. As config_set(), but the line says where. */
bool config_complete(struct config *config, char *error, size_t error_size);

/* Walk the table, for the man page's test and for --help: one line a key. */
struct config_key {
    const char *section, *key, *standard; /* the default, as it would be written in a file */
    bool list;                            /* its value may go on on further lines */
};
/* The n-th key; false past the last. */
bool config_key(size_t n, struct config_key *key);

#endif
