/*
 * worker_harness.h - plays the master, auth and the client against a real nursery and a real worker
 * in its real sandbox, with a real maildrop. For tests; runs as whoever runs the tests.
 *
 * A test is written from the client's side: say() something, expect() lines. While it waits for the
 * client's lines, the harness answers the worker as the master and auth would, by what `auth` of
 * the struct harness says, and notes what it was asked. expect_end() checks how the session ended.
 *
 *     struct harness h;
 *     harness_start(&h, (const char *[]){"tls.required=no", NULL});
 *     harness_deliver(&h, "Subject: x\r\n\r\nbody\r\n");
 *     harness_connect(&h, DOOR_POP3, "192.0.2.1");
 *     expect(&h, "+OK Poplar at ");
 *     say(&h, "USER alice\r\nPASS secret\r\n");
 *     ...
 *     harness_stop(&h);
 */
#ifndef POPLAR_TESTS_UNIT_WORKER_HARNESS_H
#define POPLAR_TESTS_UNIT_WORKER_HARNESS_H

#include "test_store.h"

#include "certificates.h"
#include "daemon/base.h"
#include "daemon/channel.h"
#include "tests/support/remembers.h"
#include "worker/nursery.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pwd.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HARNESS_PATIENCE_MS = 30000 };

/* Played auth and master: what they answer, and what they saw. */
struct harness;

struct played {
    void (*while_deciding)(struct harness *h); /* called with the credentials in hand */
    uint32_t verdict;                          /* enum login_outcome, for every login */
    uint32_t refusal; /* enum login_refusal instead of an exchange; 0: none */
    bool dies;        /* the exchange ends without a verdict */
    bool told;        /* then: the master was told that the login is good */
    bool traced;      /* and tells of a trace, and nothing else */
    int short_by;     /* files that are not there with a yes */
    bool last;        /* PROTO_SETTLED says so */
    int stale;        /* grants to hand out with an unlinked -wal */

    uint32_t verdict_again, refusal_again; /* for a grant that is asked for again */

    unsigned asked; /* exchanges begun */
    unsigned again; /* grants asked for again */
    char user[PROTO_USER_MAX + 1], mechanism[32];
    char secret[32768 + 1]; /* the most that token_max can be */
    size_t secret_size;
    bool refuses_address; /* the answer to PROTO_REAL_ADDRESS */
    const char *taken;    /* and the address in it; NULL: what was said */
    char real_peer[PROTO_ADDRESS_MAX];
};

/* PROTO_SUMMARY, and how the process ended. */
struct summary {
    bool given;
    uint32_t end;
    uint64_t retrieved, deleted, deferred, in, out;
    char tls[16], cipher[64], detail[300], error[300];
};

struct harness {
    struct channel nursery;
    pid_t nursery_pid;
    int certificates;      /* that it was given */
    struct test_drop drop; /* the one maildrop */
    bool proxied;          /* the next client comes through a proxy */
    int room;              /* octets the kernel takes of what it is told; 0: as it likes */
    X509 *certificate;     /* the client's, if it has one */
    EVP_PKEY *certificate_key;

    struct channel worker;
    pid_t worker_pid;
    struct channel exchange; /* auth's end */
    struct played auth;
    struct summary summary;

    int client;
    SSL *tls;
    SSL_CTX *tls_context;
    char input[1 << 16];
    size_t held;
    bool closed; /* the worker closed the connection */
    bool reset;  /* and not in order: what it said last may have been lost */
    struct message m;
};

/* ---- the maildrop ---- */

static inline int harness_file(const struct harness *h, enum maildrop_file file, int flags)
{
    char path[80];
    test_drop_path(&h->drop, file, path);
    int fd = open(path, flags | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    return fd;
}

/* What auth would grant; false when another session holds the lock. */
static inline bool harness_grant(const struct harness *h, bool session, int files[MAILDROP_FILES])
{
    struct flock byte = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = MAILDROP_LOCK_SESSION, .l_len = 1};
    test_drop_grant(&h->drop, files);
    if (!session || fcntl(files[MAILDROP_LOCK], F_OFD_SETLK, &byte) == 0)
        return true;
    test_drop_give_back(files);
    return false;
}

/* Somebody changes the database with a plain SQLite, which leaves -wal and -shm behind. */
static inline void harness_sql(const struct harness *h, const char *sql)
{
    char path[80], *error = NULL;
    int keep = 1;
    sqlite3 *db;
    test_drop_path(&h->drop, MAILDROP_DB, path);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
    if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
    sqlite3_close(db);
}

/* What a plain SQLite does that closes a maildrop last: -wal and -shm are unlinked. The next opener
 * makes new ones. */
static inline void harness_replace_wal(const struct harness *h)
{
    char path[80];
    test_drop_path(&h->drop, MAILDROP_DB, path);
    assert_int_equal(test_outside_sqlite(path, "PRAGMA wal_checkpoint(TRUNCATE)"), 0);
    test_drop_path(&h->drop, MAILDROP_WAL, path);
    assert_int_equal(access(path, F_OK), -1);
    close(harness_file(h, MAILDROP_WAL, O_RDWR | O_CREAT));
    close(harness_file(h, MAILDROP_SHM, O_RDWR | O_CREAT));
}

/* Put a message into the maildrop; the two below it as LMTP does. */
static inline void harness_deliver_as(const struct harness *h,
                                      const struct maildrop_delivery *delivery, const void *octets,
                                      size_t size)
{
    struct maildrop *maildrop = test_drop_open(&h->drop);
    struct test_text text = {.octets = octets, .size = size};
    assert_int_equal(maildrop_deliver(maildrop, delivery, test_text_read, &text, NULL), STORE_OK);
    maildrop_close(maildrop);
}

static inline void harness_deliver_octets(const struct harness *h, const void *octets, size_t size)
{
    harness_deliver_as(h, &(struct maildrop_delivery){.utf8_headers = true}, octets, size);
}

static inline void harness_deliver(const struct harness *h, const char *text)
{
    harness_deliver_octets(h, text, strlen(text));
}

/* Visible messages, read by somebody else than the worker. */
static inline uint64_t harness_count(const struct harness *h)
{
    struct maildrop *maildrop = test_drop_open(&h->drop);
    const uint64_t messages = test_totals(maildrop).messages;
    maildrop_close(maildrop);
    return messages;
}

/* ---- the nursery ---- */

/* Sends; closes the descriptors that went with it. */
static inline void harness_send(struct channel *c, struct message *m)
{
    assert_int_equal(channel_send(c, m, true), CHANNEL_OK);
    message_clear(m);
}

/* "section.key=value" */
static inline void harness_send_setting(struct harness *h, const char *setting)
{
    char section[32], key[64];
    const char *dot = strchr(setting, '.'), *equals = strchr(setting, '=');
    snprintf(section, sizeof section, "%.*s", (int)(dot - setting), setting);
    snprintf(key, sizeof key, "%.*s", (int)(equals - dot - 1), dot + 1);
    message_begin(&h->m, PROTO_SETTING);
    message_put_text(&h->m, "test");
    message_put_text(&h->m, section);
    message_put_text(&h->m, "");
    message_put_text(&h->m, key);
    message_put_text(&h->m, equals + 1);
    harness_send(&h->nursery, &h->m);
}

/* The names of [tls NAME]; the second host needs a certificate of its own. */
static inline void harness_send_certificate(struct harness *h, const char *name, const char *host)
{
    char chain_path[128], key_path[128];
    int fds[2];
    certificate_make(host, fds);
    snprintf(chain_path, sizeof chain_path, "/test/%s.pem", host);
    snprintf(key_path, sizeof key_path, "/test/%s.key", host);
    const char *const settings[][2] = {{"certificate", chain_path}, {"key", key_path}};
    for (int i = 0; i < 2; i++) {
        message_begin(&h->m, PROTO_SETTING);
        message_put_text(&h->m, "test");
        message_put_text(&h->m, "tls");
        message_put_text(&h->m, name);
        message_put_text(&h->m, settings[i][0]);
        message_put_text(&h->m, settings[i][1]);
        harness_send(&h->nursery, &h->m);
    }
    h->certificates++;
    message_begin(&h->m, PROTO_CERTIFICATE);
    message_put_text(&h->m, name);
    message_put_text(&h->m, chain_path);
    message_put_fd(&h->m, fds[0]);
    message_put_fd(&h->m, fds[1]);
    harness_send(&h->nursery, &h->m);
}

/* Set to start the next nursery without root. */
static bool harness_as_nobody;
/* And so that it cannot fork. */
static bool harness_barren;

/* The nursery's last line for the log. */
static char harness_log[1024];

/* The next record of a type from nursery or worker; log lines before it are printed. */
static inline void harness_receive(struct channel *c, struct message *m, enum proto_type type)
{
    for (;;) {
        struct pollfd readable = {.fd = c->fd, .events = POLLIN};
        const char *fault = "";
        assert_int_equal(poll(&readable, 1, HARNESS_PATIENCE_MS), 1);
        enum channel_outcome outcome = channel_receive(c, m, true, &fault);
        if (outcome != CHANNEL_OK)
            print_message("channel: %d %s\n", (int)outcome, fault);
        assert_int_equal(outcome, CHANNEL_OK);
        if (m->rule->type == type)
            return;
        assert_int_equal(m->rule->type, PROTO_LOG);
        message_get_u32(m);
        assert_true(message_get_text(m, harness_log, sizeof harness_log));
        print_message("nursery: %s\n", harness_log);
        message_clear(m);
    }
}

static inline void harness_begin(struct harness *h, const char *const *settings)
{
    int ends[2];
    memset(h, 0, sizeof *h);
    h->client = h->worker.fd = h->exchange.fd = -1;
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(maildrop_library_init(false), STORE_OK);
    test_drop_make(&h->drop);
    assert_int_equal(channel_pair(ends, true), 0);
    h->nursery_pid = fork();
    if (h->nursery_pid == 0) {
        dup2(ends[1], PROTO_FD_CONTROL);
        close_range(PROTO_FD_CLIENT, ~0U, 0);
        if (harness_as_nobody &&
            (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
            _exit(99);
        if (harness_barren)
            setrlimit(RLIMIT_NPROC, &(struct rlimit){1, 1});
        nursery_live();
    }
    close(ends[1]);
    channel_open(&h->nursery, ends[0], ROLE_MASTER, ROLE_NURSERY, STATE_STARTING);
    const struct passwd *self = getpwuid(geteuid());
    char user[64];
    snprintf(user, sizeof user, "server.worker_user=%s",
             geteuid() != 0 && self ? self->pw_name : "nobody");
    harness_send_setting(h, user);
    harness_send_setting(h, "server.hostname=mail.example.org");
    harness_send_setting(h, "server.run_dir=/tmp");
    for (; *settings; settings++)
        harness_send_setting(h, *settings);
}

/* No more settings: the nursery makes itself ready, or gives up. */
static inline void harness_send_start(struct harness *h)
{
    message_begin(&h->m, PROTO_START);
    message_put_u32(&h->m, 1);
    message_put_octets(&h->m, "", 0);
    harness_send(&h->nursery, &h->m);
}

static inline void harness_finish_start(struct harness *h)
{
    harness_send_start(h);
    for (int i = 0; i < h->certificates; i++) {
        harness_receive(&h->nursery, &h->m, PROTO_EXPIRES);
        assert_int_equal(message_get_u32(&h->m), i);
        assert_true(message_get_u64(&h->m) > 0);
        message_clear(&h->m);
    }
    harness_receive(&h->nursery, &h->m, PROTO_READY);
    assert_int_equal(message_get_u64(&h->m), proto_fingerprint());
    message_clear(&h->m);
    h->nursery.state = STATE_IDLE;
}

/* A nursery with certificates for mail.example.org and *.example.net. */
static inline void harness_start(struct harness *h, const char *const *settings)
{
    harness_begin(h, settings);
    harness_send_certificate(h, "", "mail.example.org");
    harness_send_certificate(h, "net", "*.example.net");
    harness_finish_start(h);
}

/* One without any certificate. */
static inline void harness_start_clear(struct harness *h, const char *const *settings)
{
    harness_begin(h, settings);
    harness_finish_start(h);
}

/* Have the nursery fork a worker: h->worker is its channel, on which it has said nothing yet. */
static inline void harness_order_worker(struct harness *h)
{
    int ends[2];
    assert_int_equal(channel_pair(ends, true), 0);
    message_begin(&h->m, PROTO_FORK);
    message_put_fd(&h->m, ends[1]);
    harness_send(&h->nursery, &h->m);
    channel_open(&h->worker, ends[0], ROLE_MASTER, ROLE_WORKER, STATE_STARTING);
}

/* A worker that is ready, without a client. */
static inline void harness_make_worker(struct harness *h)
{
    harness_order_worker(h);
    harness_receive(&h->worker, &h->m, PROTO_READY);
    assert_int_equal(message_get_u64(&h->m), proto_fingerprint());
    h->worker_pid = h->m.sender;
    message_clear(&h->m);
    h->worker.state = STATE_IDLE;
}

/* ---- master and auth, while the client waits ---- */

static inline void played_verdict(struct harness *h)
{
    int files[MAILDROP_FILES];
    uint32_t verdict = h->auth.verdict;
    if (h->auth.dies) {
        channel_close(&h->exchange);
        if (h->auth.told)
            h->worker.state = STATE_MAIL;
        if (h->auth.traced) {
            message_begin(&h->m, PROTO_TRACE);
            message_put_u32(&h->m, TRACE_ON);
            harness_send(&h->worker, &h->m);
        }
        return;
    }
    if (verdict == LOGIN_OK && !harness_grant(h, true, files))
        verdict = LOGIN_IN_USE;
    if (verdict == LOGIN_OK && h->auth.stale > 0) {
        h->auth.stale--;
        harness_replace_wal(h);
    }
    message_begin(&h->m, PROTO_VERDICT);
    message_put_u32(&h->m, verdict);
    message_put_text(&h->m, h->auth.user);
    for (int i = 0; verdict == LOGIN_OK && i < MAILDROP_FILES - h->auth.short_by; i++)
        message_put_fd(&h->m, files[i]);
    assert_int_equal(channel_send(&h->exchange, &h->m, true), CHANNEL_OK);
    if (verdict == LOGIN_OK)
        test_drop_give_back(files);
    h->m.n_fds = 0;
    channel_close(&h->exchange);
    if (verdict == LOGIN_OK && h->auth.short_by == 0) /* else it has told the master nothing */
        h->worker.state = STATE_MAIL;
}

static inline void played_begin(struct harness *h)
{
    size_t size;
    assert_int_equal(channel_receive(&h->exchange, &h->m, true, NULL), CHANNEL_OK);
    assert_int_equal(h->m.rule->type, PROTO_BEGIN);
    assert_true(message_get_text(&h->m, h->auth.mechanism, sizeof h->auth.mechanism));
    assert_true(message_get_text(&h->m, h->auth.user, sizeof h->auth.user));
    const unsigned char *secret = message_get_octets(&h->m, &size);
    assert_true(size < sizeof h->auth.secret);
    memcpy(h->auth.secret, secret, size);
    h->auth.secret[size] = '\0';
    h->auth.secret_size = size;
    message_clear(&h->m);
    h->auth.asked++;
    if (h->auth.while_deciding)
        h->auth.while_deciding(h);
    played_verdict(h);
    if (h->worker.state != STATE_LOGIN)
        return;
    message_begin(&h->m, PROTO_SETTLED);
    message_put_u32(&h->m, h->auth.last);
    harness_send(&h->worker, &h->m);
    h->worker.state = STATE_CLIENT;
}

static inline void played_exchange(struct harness *h)
{
    int ends[2];
    assert_int_equal(channel_pair(ends, false), 0);
    message_begin(&h->m, PROTO_EXCHANGE);
    message_put_fd(&h->m, ends[0]);
    harness_send(&h->worker, &h->m);
    channel_open(&h->exchange, ends[1], ROLE_AUTH, ROLE_WORKER, STATE_EXCHANGE);
    if (h->worker.state == STATE_MAIL)
        played_verdict(h);
    else
        played_begin(h);
}

static inline void played_login(struct harness *h)
{
    if (h->worker.state == STATE_CLIENT) {
        h->worker.state = STATE_LOGIN;
    } else {
        h->auth.again++;
        h->auth.refusal = h->auth.refusal_again;
        h->auth.verdict = h->auth.verdict_again;
    }
    if (h->auth.refusal == 0) {
        played_exchange(h);
        return;
    }
    message_begin(&h->m, PROTO_LOGIN_REFUSED);
    message_put_u32(&h->m, h->auth.refusal);
    harness_send(&h->worker, &h->m);
    if (h->worker.state == STATE_LOGIN)
        h->worker.state = STATE_CLIENT;
}

static inline void played_summary(struct harness *h)
{
    struct summary *s = &h->summary;
    s->given = true;
    s->end = message_get_u32(&h->m);
    s->retrieved = message_get_u64(&h->m);
    s->deleted = message_get_u64(&h->m);
    s->deferred = message_get_u64(&h->m);
    s->in = message_get_u64(&h->m);
    s->out = message_get_u64(&h->m);
    assert_true(message_get_text(&h->m, s->tls, sizeof s->tls));
    assert_true(message_get_text(&h->m, s->cipher, sizeof s->cipher));
    assert_true(message_get_text(&h->m, s->detail, sizeof s->detail));
    assert_true(message_get_text(&h->m, s->error, sizeof s->error));
}

static inline void played_address(struct harness *h)
{
    struct played *p = &h->auth;
    assert_true(h->proxied);
    assert_true(message_get_text(&h->m, p->real_peer, sizeof p->real_peer));
    message_begin(&h->m, PROTO_ADDRESS_TAKEN);
    message_put_u32(&h->m, !p->refuses_address);
    message_put_text(&h->m, p->taken ? p->taken : p->real_peer);
    harness_send(&h->worker, &h->m);
}

/* One record from the worker, answered. */
static inline void played_master(struct harness *h)
{
    const char *fault = "";
    enum channel_outcome outcome = channel_receive(&h->worker, &h->m, false, &fault);
    if (outcome == CHANNEL_END)
        channel_close(&h->worker);
    if (outcome == CHANNEL_BAD)
        fail_msg("the worker sent a record %s", fault);
    if (outcome != CHANNEL_OK)
        return;
    enum proto_type type = h->m.rule->type;
    if (type == PROTO_SUMMARY)
        played_summary(h);
    if (type == PROTO_REAL_ADDRESS)
        played_address(h);
    message_clear(&h->m);
    if (type == PROTO_LOGIN_WANTED || type == PROTO_GRANT_AGAIN)
        played_login(h);
}

/* ---- the client ---- */

static const unsigned char harness_ticket_key[PROTO_TICKET_KEY_SIZE] =
    "a ticket key, for tests only";

/* A new worker with a new client. */
static inline void harness_connect(struct harness *h, enum proto_door door, const char *peer)
{
    int sockets[2];
    harness_make_worker(h);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets),
                     0);
    if (h->room > 0)
        assert_int_equal(setsockopt(sockets[1], SOL_SOCKET, SO_SNDBUF, &h->room, sizeof h->room),
                         0);
    h->client = sockets[0];
    message_begin(&h->m, PROTO_ASSIGN);
    message_put_u64(&h->m, 1);
    message_put_u32(&h->m, door);
    message_put_text(&h->m, peer);
    message_put_octets(&h->m, harness_ticket_key, sizeof harness_ticket_key);
    message_put_octets(&h->m, "", 0);
    message_put_u32(&h->m, h->proxied);
    message_put_fd(&h->m, sockets[1]);
    harness_send(&h->worker, &h->m);
    h->worker.state = STATE_CLIENT;
    h->auth = (struct played){0};
    h->summary = (struct summary){0};
    h->held = 0;
    h->closed = h->reset = false;
}

/* Let master and auth act, and wait for the client's socket, once. */
static inline void harness_pump(struct harness *h, short events)
{
    struct pollfd watched[] = {{.fd = h->client, .events = events},
                               {.fd = h->worker.fd, .events = POLLIN}};
    if (poll(watched, 2, HARNESS_PATIENCE_MS) < 1)
        fail_msg("nothing happens; held: '%.*s'", (int)h->held, h->input);
    if (watched[1].revents)
        played_master(h);
}

static inline void say_octets(struct harness *h, const void *octets, size_t size)
{
    const char *at = octets;
    while (size > 0 && !h->closed) {
        ssize_t done = h->tls ? SSL_write(h->tls, at, (int)size) : write(h->client, at, size);
        if (done > 0) {
            at += done;
            size -= (size_t)done;
        } else if (!h->tls && errno != EAGAIN) {
            return; /* the worker closed; what it said first can still be read */
        } else {
            harness_pump(h, POLLOUT);
        }
    }
}

static inline void say(struct harness *h, const char *text)
{
    say_octets(h, text, strlen(text));
}

/* Take in what the worker sent; notes when it closed. */
static inline void harness_take(struct harness *h)
{
    size_t space = sizeof h->input - h->held;
    char *to = h->input + h->held;
    ssize_t got = h->tls ? SSL_read(h->tls, to, (int)space) : read(h->client, to, space);
    if (got > 0) {
        h->held += (size_t)got;
        return;
    }
    bool again = h->tls ? SSL_get_error(h->tls, (int)got) == SSL_ERROR_WANT_READ
                        : got < 0 && errno == EAGAIN;
    if (again) {
        harness_pump(h, POLLIN);
        return;
    }
    h->closed = true;
    h->reset = !h->tls && got < 0;
}

/* The next line with its end, NUL-ended; "" when the connection was closed instead. */
static inline const char *hear(struct harness *h, char *line, size_t size)
{
    for (;;) {
        char *end = memchr(h->input, '\n', h->held);
        size_t length = end ? (size_t)(end - h->input) + 1 : 0;
        if (length > 0) {
            assert_true(length < size);
            memcpy(line, h->input, length);
            line[length] = '\0';
            h->held -= length;
            memmove(h->input, h->input + length, h->held);
            return line;
        }
        if (h->closed) {
            line[0] = '\0';
            return line;
        }
        harness_take(h);
    }
}

/* The next line begins like this. */
static inline void expect_at(struct harness *h, const char *beginning, const char *file, int where)
{
    char line[4096];
    hear(h, line, sizeof line);
    if (strncmp(line, beginning, strlen(beginning)) != 0 || line[0] == '\0') {
        print_error("%s:%d: expected '%s', heard '%s'\n", file, where, beginning, line);
        fail();
    }
}
#define expect(h, beginning) expect_at(h, beginning, __FILE__, __LINE__)

/* A multi-line reply up to its ".", as it came, without its first line. Freed by the caller. */
static inline char *hear_lines(struct harness *h, size_t *size)
{
    char line[sizeof h->input];
    char *all = NULL;
    *size = 0;
    for (;;) {
        hear(h, line, sizeof line);
        assert_true(line[0] != '\0');
        if (strcmp(line, ".\r\n") == 0)
            break;
        size_t length = strlen(line);
        all = base_realloc(all, *size + length + 1);
        memcpy(all + *size, line, length + 1);
        *size += length;
    }
    return all ? all : base_strdup("");
}

static inline void expect_lines(struct harness *h, const char *expected)
{
    size_t size;
    char *all = hear_lines(h, &size);
    assert_string_equal(all, expected);
    free(all);
}

/* Begin TLS as a client; the server's name by SNI, or NULL. */
static inline void harness_start_tls(struct harness *h, const char *name, int version)
{
    h->tls_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(h->tls_context, SSL_MODE_AUTO_RETRY | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_max_proto_version(h->tls_context, version);
    if (h->certificate)
        SSL_CTX_use_cert_and_key(h->tls_context, h->certificate, h->certificate_key, NULL, 1);
    h->tls = SSL_new(h->tls_context);
    SSL_set_fd(h->tls, h->client);
    if (name)
        SSL_set_tlsext_host_name(h->tls, name);
    for (;;) {
        int result = SSL_connect(h->tls);
        if (result == 1)
            return;
        if (SSL_get_error(h->tls, result) != SSL_ERROR_WANT_READ) {
            h->closed = true;
            return;
        }
        harness_pump(h, POLLIN);
    }
}

/* A new session in the clear, greeted. */
static inline void harness_greeted(struct harness *h)
{
    harness_connect(h, DOOR_POP3, "192.0.2.1");
    expect(h, "+OK Poplar at mail.example.org ready\r\n");
}

static inline void harness_log_in(struct harness *h)
{
    say(h, "USER alice\r\nPASS secret\r\n");
    expect(h, "+OK");
    expect(h, "+OK");
}

static inline void harness_logged_in(struct harness *h)
{
    harness_greeted(h);
    harness_log_in(h);
}

/* All of CAPA's answer, but for what depends on the session and its TLS. */
#define CAPABILITIES(of_session)                                                                   \
    "TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\n" of_session                     \
    "EXPIRE NEVER\r\nUTF8 USER\r\nLANG\r\nIMPLEMENTATION Poplar-" POPLAR_VERSION "\r\n"

/* Whether CAPA's answer has this in it. */
static inline void expect_capability_at(struct harness *h, const char *part, bool there,
                                        const char *file, int where)
{
    size_t size;
    say(h, "CAPA\r\n");
    expect_at(h, "+OK", file, where);
    char *lines = hear_lines(h, &size);
    if ((strstr(lines, part) != NULL) != there) {
        print_error("%s:%d: '%s' is %s in %s\n", file, where, part, there ? "not" : "there", lines);
        fail();
    }
    free(lines);
}
#define expect_capability(h, part, there) expect_capability_at(h, part, there, __FILE__, __LINE__)

static inline void harness_hang_up(struct harness *h)
{
    SSL_free(h->tls);
    SSL_CTX_free(h->tls_context);
    h->tls = NULL;
    h->tls_context = NULL;
    base_close(h->client);
    h->client = -1;
}

/* The worker's summary says why it ended, and it exited by itself. */
static inline void expect_end_at(struct harness *h, enum session_end end, const char *file,
                                 int where)
{
    int status;
    harness_hang_up(h);
    while (h->worker.fd >= 0)
        harness_pump(h, 0);
    assert_int_equal(waitpid(h->worker_pid, &status, 0), h->worker_pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || !h->summary.given ||
        h->summary.end != (uint32_t)end) {
        print_error("%s:%d: expected end %s, got %s (%s), wait status %x\n", file, where,
                    proto_end_name(end), proto_end_name(h->summary.end), h->summary.detail,
                    (unsigned)status);
        fail();
    }
}
#define expect_end(h, end) expect_end_at(h, end, __FILE__, __LINE__)

/* The worker has nothing more to say and closes; then as expect_end(). */
static inline void expect_close_at(struct harness *h, enum session_end end, const char *file,
                                   int where)
{
    char line[4096];
    hear(h, line, sizeof line);
    if (line[0] != '\0' || h->held > 0) {
        print_error("%s:%d: expected the end, heard '%s'\n", file, where, line);
        fail();
    }
    expect_end_at(h, end, file, where);
}
#define expect_close(h, end) expect_close_at(h, end, __FILE__, __LINE__)

/* QUIT is answered with a yes, and the session ends by it. */
static inline void expect_quit_at(struct harness *h, const char *file, int where)
{
    say(h, "QUIT\r\n");
    expect_at(h, "+OK", file, where);
    expect_close_at(h, END_QUIT, file, where);
}
#define expect_quit(h) expect_quit_at(h, __FILE__, __LINE__)

/* Let go of the session that a failed test has left behind, if it has. */
static inline void harness_abandon(struct harness *h)
{
    harness_hang_up(h);
    channel_close(&h->worker);
    channel_close(&h->exchange);
}

static inline void harness_stop(struct harness *h)
{
    int status;
    harness_abandon(h);
    channel_close(&h->nursery);
    assert_int_equal(waitpid(h->nursery_pid, &status, 0), h->nursery_pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    test_drop_remove(&h->drop);
}

#endif
