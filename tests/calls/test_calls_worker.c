/*
 * test_calls_worker.c - each call of the nursery and of a worker's beginning fails at each of its
 * places in turn, those of libseccomp and OpenSSL with them: nobody is served by less of a sandbox
 * or of TLS than was asked for, and it is told why.
 */
#include "daemon/base.h"
#include "daemon/setup.h"
#include "tests/calls/calls.h"
#include "tests/support/place.h"
#include "worker/client_ca.h"
#include "worker/confine.h"
#include "worker/filter.h"
#include "worker/nursery.h"
#include "worker/spool.h"
#include "worker/stream.h"
#include "worker/ticket.h"
#include "worker/tls.h"
#include "worker/utf8.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/certificates.h"

static int chain_fd, key_fd, ca_fd; /* PEM, in memory */

static struct config *config_with(const char *const *settings)
{
    struct config *config = config_new();
    config_at(config, "test");
    for (; *settings; settings += 3)
        must_set(config, settings[0], "", settings[1], settings[2]);
    return config;
}

static struct config *usual_config(void)
{
    const struct passwd *me = getpwuid(geteuid());
    struct config *config = config_with(
        (const char *[]){"server", "worker_user", geteuid() == 0 ? "nobody" : me->pw_name, "server",
                         "store_user", geteuid() == 0 ? "mail" : me->pw_name, "server", "run_dir",
                         place, "server", "hostname", "pop.example.test", "tls", "certificate",
                         in_place("chain.pem"), "tls", "key", in_place("key.pem"), NULL});
    return config;
}

/* TLS. */

static int make_tls(void)
{
    char error[600] = "", text[600];
    struct tls *tls = tls_new();
    struct config *config = usual_config();
    lseek(chain_fd, 0, SEEK_SET);
    lseek(key_fd, 0, SEEK_SET);
    lseek(ca_fd, 0, SEEK_SET);
    tls_add(tls, "", "chain", chain_fd, key_fd, error, sizeof error);
    tls_add(tls, CLIENT_CA_NAME, "ca", ca_fd, -1, error, sizeof error);
    if (!tls_complete(tls, config, error, sizeof error))
        return calls_say(error);
    if (tls_expires(tls, 0) == 0)
        return calls_say("no end");
    int status = tls_is_untimely(tls, 0, text, sizeof text) ? CALLS_DONE_WRONG : 0;
    tls_free(tls);
    config_free(config);
    return status;
}

static void test_tls(void **state)
{
    (void)state;
    unsigned failed = calls_walk(make_tls, calls_told_or_done);
    print_message("%u calls failed\n", failed);
    assert_true(failed > 40);
}

/* Not one certificate less is used than the file has, nor a client's checked against less. */
static void test_tls_is_whole(void **state)
{
    static const struct {
        const char *name, *said;
    } needed[] = {
        {"pread", "holds no PEM certificate"},
        {"BIO_new_mem_buf", "holds no PEM certificate"},
        {"OPENSSL_sk_new_null", "holds no PEM certificate"},
        {"OPENSSL_sk_push", "holds no PEM certificate"},
        {"X509_STORE_new", "[tls] client_ca="},
        {"X509_STORE_add_cert", "[tls] client_ca="},
        {"X509_digest", "[tls] client_ca="},
        {"EVP_DigestInit", "[tls] client_ca="},
        {"EVP_DigestUpdate", "[tls] client_ca="},
        {"EVP_DigestFinal", "[tls] client_ca="},
        {"EVP_MD_CTX_new", "[tls] client_ca="},
        {"SSL_CTX_new", "OpenSSL refuses to start"},
        {"SSL_CTX_use_certificate", "[tls] certificate="},
        {"SSL_CTX_use_PrivateKey", "[tls] certificate="},
        {"SSL_CTX_add_client_CA", "[tls] client_ca="},
    };
    struct calls_end end;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        calls_break(needed[i].name, 1, 0);
        calls_try(make_tls, &end);
        if (!end.met || WEXITSTATUS(end.status) != CALLS_NOT_DONE ||
            !strstr(end.said, needed[i].said))
            fail_msg("%s: wait status %x: %s", needed[i].name, (unsigned)end.status, end.said);
    }
}

static int shake_no_hands(void)
{
    calls_break_from("SSL_do_handshake", 1, 0);
    return make_tls();
}

static void test_no_handshake(void **state)
{
    struct calls_end end;
    (void)state;
    calls_try(shake_no_hands, &end);
    assert_non_null(strstr(end.said, "no handshake succeeds with it"));
}

static void test_tickets(void **state)
{
    struct tls_ticket_keys keys = {.n = 1, .octets = {"a name, 16 octet and more of it"}};
    unsigned char name[16], iv[16] = {0};
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    SSL *ssl = SSL_new(context);
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    EVP_MAC *kind = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *mac = EVP_MAC_CTX_new(kind);
    (void)state;
    SSL_set_app_data(ssl, &keys);
    assert_int_equal(ticket_crypt(ssl, name, iv, cipher, mac, 1), 1);
    assert_int_equal(ticket_crypt(ssl, name, iv, cipher, mac, 0), 1);
    calls_break("RAND_bytes", 1, 0);
    assert_int_equal(ticket_crypt(ssl, name, iv, cipher, mac, 1), 0);
    assert_true(calls_mend());
    for (int encrypt = 0; encrypt < 2; encrypt++) {
        calls_break("EVP_CipherInit_ex", 1, 0);
        assert_int_equal(ticket_crypt(ssl, name, iv, cipher, mac, encrypt), -1);
        assert_true(calls_mend());
        calls_break("EVP_MAC_CTX_set_params", 1, 0);
        assert_int_equal(ticket_crypt(ssl, name, iv, cipher, mac, encrypt), -1);
        assert_true(calls_mend());
    }
    keys.n = 0; /* nothing to seal one with */
    assert_int_equal(ticket_crypt(ssl, name, iv, cipher, mac, 1), 0);
    assert_int_equal(ticket_crypt(ssl, name, iv, cipher, mac, 0), 0);
    EVP_MAC_CTX_free(mac);
    EVP_MAC_free(kind);
    EVP_CIPHER_CTX_free(cipher);
    SSL_free(ssl);
    SSL_CTX_free(context);
}

/* The sandbox. */

static int compile_filter(void)
{
    char error[300] = "";
    struct filter *filter = filter_compile(false, error, sizeof error);
    filter_free(filter);
    return filter ? 0 : calls_say(error);
}

static void is_whole(const char *what, const struct calls_end *end)
{
    /* A name that is not resolved is one that this architecture does not have. */
    if (!strstr(what, "resolve_name"))
        calls_told(what, end);
}

static int resolve_nothing(void)
{
    int number;
    const char *name;
    bool before_login;
    return filter_call(0, &number, &name, &before_login) || filter_count() > 0 ? CALLS_DONE_WRONG
                                                                               : 0;
}

static void test_filter(void **state)
{
    struct calls_end end;
    (void)state;
    unsigned failed = calls_walk(compile_filter, is_whole);
    print_message("%u calls failed\n", failed);
    assert_true(failed > 100);
    calls_answer("pread", 1, 8); /* half of it */
    calls_try(compile_filter, &end);
    calls_told("a short read", &end);
    calls_break_from("seccomp_syscall_resolve_name", 1, 0);
    calls_try(resolve_nothing, &end);
    assert_true(end.met);
    assert_int_equal(end.status, 0);
}

static const char *landlock = "auto";

static int confine(void)
{
    char missing[256] = "", error[600] = "", set[100];
    struct config *config = usual_config();
    if (!config_set(config, "workers", "", "landlock", landlock, set, sizeof set))
        return CALLS_DONE_WRONG;
    if (!confine_process(config, missing, sizeof missing, error, sizeof error))
        return calls_say(error);
    if (*missing) {
        fprintf(stderr, "without: %s\n", missing);
        return open("/etc/passwd", O_RDONLY) >= 0 && geteuid() == 0 ? CALLS_DONE_WRONG
                                                                    : CALLS_NOT_DONE;
    }
    if (!confine_worker())
        return calls_say("no limits");
    return open("/etc/passwd", O_RDONLY) < 0 && geteuid() != 0 ? 0 : CALLS_DONE_WRONG;
}

static void is_confined(const char *what, const struct calls_end *end)
{
    if (WIFSIGNALED(end->status) && WTERMSIG(end->status) == SIGABRT)
        return; /* test_calls_master.c has these */
    calls_told_or_done(what, end);
}

/* A directory that nobody can be confined to, or a kernel that knows less, is told. */
static void test_confine(void **state)
{
    const unsigned landlock_call = geteuid() == 0 ? 3 : 1; /* capget and capset are before it */
    const long known = syscall(444 /* landlock_create_ruleset */, NULL, 0, 1 /* its version */);
    struct calls_end end;
    (void)state;
    if (geteuid() == 0)
        assert_true(calls_walk(confine, is_confined) > 15);
    for (int version = 1; version <= 6 && version <= known; version++) {
        calls_answer("syscall", landlock_call, version);
        calls_try(confine, &end);
        assert_true(end.met);
        if (geteuid() == 0)
            assert_int_equal(end.status, 0);
    }
    calls_break_from("syscall", landlock_call, 0);
    calls_try(confine, &end);
    assert_non_null(strstr(end.said, "without: "));
    assert_non_null(strstr(end.said, "Landlock"));
    landlock = "require";
    calls_break_from("syscall", landlock_call, 0);
    calls_try(confine, &end);
    assert_non_null(strstr(end.said, "landlock=require: this kernel offers no Landlock"));
    landlock = "auto";
}

static int confine_by_landlock_alone(void)
{
    calls_break_from("chroot", 1, 0);
    return confine();
}

static bool become_nobody(void)
{
    return geteuid() != 0 ||
           (setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
}

static int confine_by_nothing(void)
{
    char missing[256] = "", error[600];
    struct config *config =
        config_with((const char *[]){"server", "worker_user", getpwuid(65534)->pw_name, NULL});
    if (!become_nobody())
        return CALLS_DONE_WRONG;
    calls_break_from("syscall", 1, 0);
    return confine_process(config, missing, sizeof missing, error, sizeof error)
               ? calls_say(missing)
               : CALLS_DONE_WRONG;
}

static int confine_without_landlock(void)
{
    calls_break_from("syscall", 3, 0); /* after capget and capset */
    return confine();
}

static int confine_to_roots_group(void)
{
    static struct passwd account = {.pw_uid = 65534, .pw_gid = 0};
    calls_answer("getpwnam", 1, (long)&account);
    return confine();
}

static int confine_as_nobody_known(void)
{
    if (!become_nobody())
        return CALLS_DONE_WRONG;
    char missing[256], error[600];
    struct config *config =
        config_with((const char *[]){"server", "worker_user", "nobody-at-all", NULL});
    return confine_process(config, missing, sizeof missing, error, sizeof error) ? CALLS_DONE_WRONG
                                                                                 : calls_say(error);
}

static void test_what_is_missing(void **state)
{
    struct calls_end end;
    (void)state;
    calls_try(confine_as_nobody_known, &end);
    assert_non_null(strstr(end.said, "worker_user=nobody-at-all"));
    if (geteuid() != 0)
        skip();
    calls_try(confine_by_landlock_alone, &end); /* it is enough */
    assert_int_equal(end.status, 0);
    calls_try(confine_without_landlock, &end);
    assert_non_null(strstr(end.said, "without: Landlock"));
    assert_null(strstr(end.said, "empty root"));
    calls_try(confine_by_nothing, &end);
    assert_non_null(strstr(end.said, "Landlock (not offered by this kernel), an empty root"));
    calls_try(confine_to_roots_group, &end);
    assert_non_null(strstr(end.said, "in root's group"));
}

/* A process under a channel: what it tells its master is put on stderr. */

static int tell_end_of(pid_t pid, int fd)
{
    siginfo_t info = {0};
    struct channel master;
    struct message m;
    if (pid < 0)
        return CALLS_DONE_WRONG;
    waitid(P_PID, (id_t)pid, &info, WEXITED);
    channel_open(&master, fd, ROLE_MASTER, ROLE_NURSERY, STATE_STARTING);
    while (channel_receive(&master, &m, false, NULL) == CHANNEL_OK) {
        char text[1024];
        if (m.rule->type == PROTO_LOG && message_get_u32(&m) <= 7 &&
            message_get_text(&m, text, sizeof text))
            fprintf(stderr, "log: %s\n", text);
        if (m.rule->type == PROTO_READY)
            master.state = STATE_IDLE;
        message_clear(&m);
    }
    if (info.si_code != CLD_EXITED)
        return info.si_status == SIGABRT ? CALLS_NOT_DONE : CALLS_DONE_WRONG;
    if (info.si_status == 0 && master.state != STATE_IDLE)
        fprintf(stderr, "not ready\n");
    return info.si_status == 0 && master.state != STATE_IDLE ? CALLS_NOT_DONE : info.si_status;
}

/* Nursery: set up, and asked for nothing but its end. */
static int live_as_nursery(void)
{
    char error[600] = "";
    int ends[2];
    struct channel master;
    calls_hold(true);
    struct config *config = usual_config();
    if (!config_complete(config, error, sizeof error))
        return CALLS_DONE_WRONG;
    if (channel_pair(ends, true) < 0)
        return calls_say("no pair");
    channel_open(&master, ends[0], ROLE_MASTER, ROLE_NURSERY, STATE_STARTING);
    struct setup setup = {.config = config, .strict = true};
    if (!setup_keep(config, error, sizeof error) ||
        setup_send(&setup, &master, error, sizeof error) != SETUP_DONE)
        return calls_say(error);
    config_free(config);
    shutdown(ends[0], SHUT_WR);
    pid_t pid = _Fork();
    if (pid == 0) {
        if (ends[1] != PROTO_FD_CONTROL)
            dup3(ends[1], PROTO_FD_CONTROL, 0);
        calls_hold(false);
        nursery_live();
    }
    close(ends[1]);
    return tell_end_of(pid, ends[0]);
}

static void is_no_nursery(const char *what, const struct calls_end *end)
{
    if (!strstr(what, "resolve_name")) /* as above; what is not allowed then kills */
        calls_told_or_done(what, end);
}

static void test_nursery(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    unsigned failed = calls_walk(live_as_nursery, is_no_nursery);
    print_message("%u calls failed\n", failed);
    assert_true(failed > 100);
}

/* A worker that is told something, or nothing; then its master has gone. */

static void (*tell_worker)(struct channel *master);

static int live_as_worker(void)
{
    char error[300];
    int ends[2];
    struct channel master;
    calls_hold(true);
    struct config *config = usual_config();
    struct heritage heritage = {.config = config, .tls = tls_new(), .master = getpid()};
    heritage.filter = filter_compile(false, error, sizeof error);
    if (!config_set(config, "server", "", "log_level", "info", error, sizeof error) ||
        !heritage.filter || channel_pair(ends, true) < 0)
        return CALLS_DONE_WRONG;
    channel_open(&master, ends[0], ROLE_MASTER, ROLE_WORKER, STATE_IDLE);
    if (tell_worker)
        tell_worker(&master);
    shutdown(ends[0], SHUT_WR);
    pid_t pid = _Fork();
    if (pid == 0) {
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        calls_hold(false);
        worker_live(&heritage, ends[1]);
    }
    close(ends[1]);
    return tell_end_of(pid, ends[0]);
}

static void is_no_worker(const char *what, const struct calls_end *end)
{
    if (!WIFEXITED(end->status) || WEXITSTATUS(end->status) == 0 ||
        WEXITSTATUS(end->status) == CALLS_DONE_WRONG)
        fail_msg("%s: wait status %x: %s", what, (unsigned)end->status, end->said);
}

static void test_worker_begins(void **state)
{
    (void)state;
    tell_worker = NULL;
    unsigned failed = calls_walk(live_as_worker, is_no_worker);
    print_message("%u calls failed\n", failed);
    assert_true(failed >= 8);
}

static void assign(struct channel *master, enum proto_door door, const char *peer)
{
    struct message m;
    message_begin(&m, PROTO_ASSIGN);
    message_put_u64(&m, 1);
    message_put_u32(&m, door);
    message_put_text(&m, peer);
    message_put_octets(&m, "", 0);
    message_put_octets(&m, "", 0);
    message_put_u32(&m, 0);
    message_put_fd(&m, STDERR_FILENO);
    assert_int_equal(channel_send(master, &m, true), CHANNEL_OK);
}

static char too_long[PROTO_ADDRESS_MAX + 1];

static void assign_long_peer(struct channel *master)
{
    assign(master, DOOR_POP3, too_long);
}

/* Not told that it is alone with its client. */
static void assign_not_over(struct channel *master)
{
    struct message m;
    assign(master, DOOR_LMTP, "unix:0");
    master->state = STATE_LOGIN;
    message_begin(&m, PROTO_TRACE);
    message_put_u32(&m, TRACE_OFF);
    assert_int_equal(channel_send(master, &m, true), CHANNEL_OK);
    master->state = STATE_IDLE;
}

static void assign_nonsense(struct channel *master)
{
    assert_int_equal(send(master->fd, "\xff", 1, 0), 1);
}

/* What the contract has no room for, its master must not say either. */
static void test_worker_is_told_nonsense(void **state)
{
    static void (*const nonsense[])(struct channel *) = {assign_long_peer, assign_not_over,
                                                         assign_nonsense};
    struct calls_end end;
    (void)state;
    memset(too_long, '1', sizeof too_long - 1);
    for (size_t i = 0; i < ARRAY_SIZE(nonsense); i++) {
        tell_worker = nonsense[i];
        calls_try(live_as_worker, &end);
        if (!WIFEXITED(end.status) || WEXITSTATUS(end.status) != PROTO_EXIT_CONTRACT)
            fail_msg("nonsense %zu: wait status %x: %s", i, (unsigned)end.status, end.said);
    }
    tell_worker = NULL;
}

/* A message on its way in. */

static void test_spool(void **state)
{
    static unsigned char buffer[SPOOL_BUFFER_SIZE], octets[SPOOL_BUFFER_SIZE];
    static const int errors[] = {EINTR, ENOSPC, EDQUOT, EIO};
    struct spool spool;
    char name[] = "/tmp/poplar-spool-XXXXXX";
    int fd = mkstemp(name);
    (void)state;
    unlink(name);
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        spool_open(&spool, fd, buffer);
        calls_break("pwrite", 1, errors[i]);
        memset(octets, 'a' + (int)i, sizeof octets);
        spool_add(&spool, octets, sizeof octets);
        assert_true(calls_mend());
        assert_int_equal(spool.error, errors[i] == EINTR ? 0 : errors[i]);
        spool_clear(&spool);
        assert_int_equal(spool.error, 0);
    }
    calls_answer("pwrite", 1, 0); /* no octet, and no reason */
    spool_add(&spool, octets, sizeof octets);
    assert_int_equal(spool.error, EIO);
    assert_true(calls_mend());
    spool_clear(&spool);

    spool_add(&spool, octets, sizeof octets);
    spool_add(&spool, "tail", 4);
    assert_int_equal(spool_size(&spool), SPOOL_BUFFER_SIZE + 4);
    calls_break("pread", 1, EINTR);
    assert_int_equal(spool_read(&spool, 0, octets, 10), 10);
    assert_true(calls_mend());
    calls_break("pread", 1, EIO);
    assert_int_equal(spool_read(&spool, 0, octets, 10), -1);
    assert_true(calls_mend());
    calls_answer("pread", 1, 0); /* it was cut behind our back: no message ends so */
    assert_int_equal(spool_read(&spool, 0, octets, 10), -1);
    assert_true(calls_mend());
    assert_int_equal(spool_read(&spool, SPOOL_BUFFER_SIZE, octets, 10), 4);
    assert_int_equal(spool_read(&spool, SPOOL_BUFFER_SIZE + 4, octets, 10), 0);
    calls_break("ftruncate", 1, 0); /* the next message overwrites it */
    spool_clear(&spool);
    assert_true(calls_mend());
    spool_add(&spool, "next", 4);
    assert_int_equal(spool_size(&spool), 4);
    assert_int_equal(spool_read(&spool, 0, octets, 10), 4);
    assert_memory_equal(octets, "next", 4);
    close(fd);
}

/* The connection to the client. */

static struct stream stream;
static int client;

static void open_stream(void)
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    stream = (struct stream){0};
    stream_open(&stream, ends[0], -1, 1000);
    client = ends[1];
}

static void close_stream(void)
{
    stream_close(&stream);
    stream_close(&stream); /* once more is as good */
    close(client);
}

static enum stream_outcome read_octet(void)
{
    char octet;
    size_t got;
    assert_int_equal(send(client, ".", 1, 0), 1);
    return stream_read(&stream, &octet, 1, 0, &got);
}

static enum stream_outcome write_octet(void)
{
    char octet;
    stream_put(&stream, ".", 1);
    if (stream_flush(&stream) == STREAM_OK)
        assert_int_equal(recv(client, &octet, 1, MSG_DONTWAIT), 1);
    return stream.failure;
}

static void test_stream(void **state)
{
    static const struct {
        const char *name;
        int error;
        enum stream_outcome (*act)(void), outcome;
    } cases[] = {
        {"read", EAGAIN, read_octet, STREAM_OK},
        {"read", EINTR, read_octet, STREAM_OK},
        {"read", ECONNRESET, read_octet, STREAM_CLOSED},
        {"write", EAGAIN, write_octet, STREAM_OK},
        {"write", EINTR, write_octet, STREAM_OK},
        {"write", EPIPE, write_octet, STREAM_CLOSED},
        {"poll", EINTR, read_octet, STREAM_OK},
        {"poll", ENOMEM, read_octet, STREAM_CLOSED},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        open_stream();
        calls_break(cases[i].name, 1, cases[i].error);
        enum stream_outcome outcome = cases[i].act();
        if (!calls_mend() || outcome != cases[i].outcome)
            fail_msg("%s %s: outcome %d", cases[i].name, strerror(cases[i].error), outcome);
        if (outcome != STREAM_OK) /* it stays so */
            assert_int_equal(cases[i].act(), outcome);
        close_stream();
    }
    calls_answer("write", 1, 0);
    open_stream();
    assert_int_equal(write_octet(), STREAM_CLOSED);
    assert_true(calls_mend());
    close_stream();

    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    open_stream();
    calls_break("BIO_new", 1, 0);
    assert_int_equal(stream_start_tls(&stream, SSL_new(context)), STREAM_TLS_FAILED);
    assert_true(calls_mend());
    close_stream();
    SSL_CTX_free(context);
}

/* With no memory to wipe what libidn left, a password is prepared all the same. */
static void test_prepare(void **state)
{
    char to[100];
    size_t size;
    (void)state;
    calls_break_from("malloc", 1, 0);
    assert_true(utf8_prepare("\xc3\xa9\xe2\x82\xac\xf0\x90\x8c\xb0 a", 11, to, sizeof to, &size));
    assert_true(calls_mend());
    assert_int_equal(size, 11);
    assert_memory_equal(to, "\xc3\xa9\xe2\x82\xac\xf0\x90\x8c\xb0 a", 11);
}

static void keep(const char *path, int fd)
{
    char octets[8192];
    ssize_t got = pread(fd, octets, sizeof octets, 0);
    int file = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(got > 0 && write(file, octets, (size_t)got) == got);
    close(file);
}

static int set_up(void **state)
{
    (void)state;
    EVP_PKEY *key = EVP_EC_gen("P-256"), *issuer_key = EVP_EC_gen("P-256");
    if (!place_make("/tmp", 0711))
        return -1;
    struct certificate chain[2] = {{0}, certificate_authority("an issuer", issuer_key)};
    chain[0] = certificate_issue(&chain[1], key, -3600, 86400,
                                 (const char *[]){"CN=pop.example.test", NULL});
    BIO *secret = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(secret, key, NULL, NULL, 0, NULL, NULL);
    chain_fd = certificate_pem(chain, 2);
    key_fd = certificate_file(secret);
    ca_fd = certificate_pem(&chain[1], 1);
    keep(in_place("chain.pem"), chain_fd);
    keep(in_place("key.pem"), key_fd);
    certificate_release(&chain[0]);
    certificate_release(&chain[1]);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(chain_fd);
    close(key_fd);
    close(ca_fd);
    return place_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_tls_is_whole),
        cmocka_unit_test(test_no_handshake),
        cmocka_unit_test(test_tickets),
        cmocka_unit_test(test_filter),
        cmocka_unit_test(test_confine),
        cmocka_unit_test(test_what_is_missing),
        cmocka_unit_test(test_nursery),
        cmocka_unit_test(test_worker_begins),
        cmocka_unit_test(test_worker_is_told_nonsense),
        cmocka_unit_test(test_spool),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_prepare),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
