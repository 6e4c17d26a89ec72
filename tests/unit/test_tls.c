/*
 * test_tls.c - certificates, names, protocols and tickets, over pairs of memory BIOs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "certificates.h"
#include "daemon/base.h"
#include "worker/tls.h"
#include <openssl/err.h>
#include <openssl/ssl.h>

static char error[512];

static struct config *configure(const char *key, const char *value)
{
    struct config *config = config_new();
    config_at(config, "poplar.conf:7");
    const char *const settings[][3] = {{"", "certificate", "/etc/a.pem"},
                                       {"", "key", "/etc/a.key"},
                                       {"net", "certificate", "/etc/net.pem"},
                                       {"net", "key", "/etc/net.key"}};
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
        assert_true(config_set(config, "tls", settings[i][0], settings[i][1], settings[i][2], error,
                               sizeof error));
    if (key)
        assert_true(config_set(config, "tls", "", key, value, error, sizeof error));
    return config;
}

static void add(struct tls *tls, const char *name, const char *path, const int fds[2])
{
    assert_true(tls_add(tls, name, path, fds[0], fds[1], error, sizeof error));
}

/* mail.example.org by default, *.example.net beside it. */
static struct tls *serve(const char *key, const char *value)
{
    int fds[2];
    struct tls *tls = tls_new();
    struct config *config = configure(key, value);
    certificate_make("mail.example.org", fds);
    add(tls, "", "/etc/a.pem", fds);
    certificate_make("*.example.net", fds);
    add(tls, "net", "/etc/net.pem", fds);
    if (!tls_complete(tls, config, error, sizeof error))
        fail_msg("%s", error);
    config_free(config);
    return tls;
}

/* One connection between an OpenSSL client and our server's side. */
struct connection {
    SSL_CTX *context;
    SSL *client, *server;
    struct tls_ticket_keys keys;
    bool done;
};

static void open_connection(struct connection *c, struct tls *tls, int version)
{
    BIO *near, *far;
    c->context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(c->context, version);
    SSL_CTX_set_security_level(c->context, 0);
    SSL_CTX_set_min_proto_version(c->context, 0);
    c->client = SSL_new(c->context);
    c->server = tls_session(tls, &c->keys);
    assert_int_equal(BIO_new_bio_pair(&near, 0, &far, 0), 1);
    SSL_set_bio(c->client, near, near);
    SSL_set_bio(c->server, far, far);
    SSL_set_connect_state(c->client);
}

/* Shake hands and exchange an octet, so that the client has its ticket. */
static void shake_hands(struct connection *c)
{
    char octet = '+';
    int client = 0, server = 0;
    for (int turn = 0; turn < 20 && !(client == 1 && server == 1); turn++) {
        client = SSL_do_handshake(c->client);
        server = SSL_do_handshake(c->server);
    }
    c->done = client == 1 && server == 1 && SSL_write(c->server, &octet, 1) == 1 &&
              SSL_read(c->client, &octet, 1) == 1;
}

static void close_connection(struct connection *c)
{
    SSL_free(c->client);
    SSL_free(c->server);
    SSL_CTX_free(c->context);
    ERR_clear_error();
}

static void test_names(void **state)
{
    static const struct {
        const char *asked, *served;
    } names[] = {
        {NULL, "mail.example.org"},
        {"mail.example.org", "mail.example.org"},
        {"MAIL.Example.ORG", "mail.example.org"},
        {"pop.example.net", "*.example.net"},
        {"a.b.example.net", "mail.example.org"},
        {"example.net", "mail.example.org"},
        {"other.example.com", "mail.example.org"},
        {".example.net", "mail.example.org"},
    };
    struct tls *tls = serve(NULL, NULL);
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char served[100] = "";
        struct connection c = {0};
        open_connection(&c, tls, 0);
        if (names[i].asked)
            SSL_set_tlsext_host_name(c.client, names[i].asked);
        shake_hands(&c);
        assert_true(c.done);
        X509_NAME_get_text_by_NID(X509_get_subject_name(SSL_get0_peer_certificate(c.client)),
                                  NID_commonName, served, sizeof served);
        assert_string_equal(served, names[i].served);
        close_connection(&c);
    }
    tls_free(tls);
}

static void offer(struct tls *tls, const char *protocols, bool good, const char *chosen)
{
    const unsigned char *selected = NULL;
    unsigned size = 0;
    struct connection c = {0};
    open_connection(&c, tls, 0);
    if (*protocols)
        SSL_set_alpn_protos(c.client, (const unsigned char *)protocols,
                            (unsigned)strlen(protocols));
    shake_hands(&c);
    assert_int_equal(c.done, good);
    if (!good)
        assert_int_equal(ERR_GET_REASON(ERR_peek_last_error()),
                         SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL);
    SSL_get0_alpn_selected(c.client, &selected, &size);
    assert_int_equal(size, strlen(chosen));
    if (size > 0)
        assert_memory_equal(selected, chosen, size);
    close_connection(&c);
}

static void test_protocols(void **state)
{
    struct tls *strict = serve(NULL, NULL), *lenient = serve("alpn", "ignore");
    (void)state;
    offer(strict, "", true, "");
    offer(strict, "\4pop3", true, "pop3");
    offer(strict, "\2h2\4pop3", true, "pop3");
    offer(strict, "\2h2", false, "");
    offer(strict, "\2h2\10http/1.1", false, "");
    offer(lenient, "\2h2", true, "");
    offer(lenient, "\4pop3", true, "pop3");
    tls_free(strict);
    tls_free(lenient);
}

static bool connects(struct tls *tls, int version, const char *ciphers)
{
    struct connection c = {0};
    open_connection(&c, tls, version);
    if (ciphers && SSL_set_cipher_list(c.client, ciphers) != 1)
        fail_msg("no ciphers %s", ciphers);
    shake_hands(&c);
    close_connection(&c);
    return c.done;
}

static void test_versions_and_ciphers(void **state)
{
    struct tls *tls = serve(NULL, NULL), *newest = serve("minimum", "TLSv1.3");
    (void)state;
    assert_true(connects(tls, TLS1_3_VERSION, NULL));
    assert_true(connects(tls, TLS1_2_VERSION, NULL));
    assert_true(connects(tls, TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256"));
    assert_false(connects(tls, TLS1_2_VERSION, "ECDHE-ECDSA-AES128-SHA256"));
    assert_false(connects(tls, TLS1_2_VERSION, "AES128-GCM-SHA256"));
    assert_false(connects(tls, TLS1_2_VERSION, "ECDHE-ECDSA-NULL-SHA@SECLEVEL=0"));
    assert_false(connects(tls, TLS1_1_VERSION, "ALL@SECLEVEL=0"));
    assert_false(connects(tls, TLS1_VERSION, "ALL@SECLEVEL=0"));
    assert_true(connects(newest, TLS1_3_VERSION, NULL));
    assert_false(connects(newest, TLS1_2_VERSION, NULL));
    tls_free(tls);
    tls_free(newest);
}

/* Connect with keys and perhaps a ticket; the ticket for next time is handed out. */
static bool resumes(struct tls *tls, int version, const struct tls_ticket_keys *keys,
                    SSL_SESSION **ticket)
{
    struct connection c = {.keys = *keys};
    open_connection(&c, tls, version);
    if (*ticket)
        SSL_set_session(c.client, *ticket);
    shake_hands(&c);
    assert_true(c.done);
    bool resumed = SSL_session_reused(c.client);
    assert_int_equal(resumed, SSL_session_reused(c.server));
    SSL_SESSION_free(*ticket);
    *ticket = SSL_get1_session(c.client);
    SSL_shutdown(c.server);
    SSL_shutdown(c.client);
    close_connection(&c);
    return resumed;
}

static struct tls_ticket_keys keys_of(char current, char previous)
{
    struct tls_ticket_keys keys = {.n = previous ? 2 : 1};
    memset(keys.octets[0], current, sizeof keys.octets[0]);
    memset(keys.octets[1], previous, sizeof keys.octets[1]);
    return keys;
}

/* Two sets of contexts stand for two workers of different generations. */
static void test_tickets(void **state)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    const struct tls_ticket_keys first = keys_of('a', 0), second = keys_of('b', 'a'),
                                 third = keys_of('c', 'b'), other = keys_of('x', 'y'),
                                 none = {.n = 0};
    struct tls *tls = serve(NULL, NULL);
    struct tls *again = serve(NULL, NULL);
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
        SSL_SESSION *ticket = NULL;
        assert_false(resumes(tls, versions[i], &first, &ticket));
        assert_true(resumes(again, versions[i], &first, &ticket));
        assert_true(resumes(tls, versions[i], &second, &ticket)); /* old key, new ticket */
        assert_true(resumes(tls, versions[i], &third, &ticket));  /* which b made */
        assert_false(resumes(tls, versions[i], &first, &ticket)); /* a does not open c's */
        assert_false(resumes(tls, versions[i], &other, &ticket));
        assert_false(resumes(tls, versions[i], &none, &ticket));
        assert_int_equal(SSL_SESSION_has_ticket(ticket), 0);
        SSL_SESSION_free(ticket);
    }
    tls_free(tls);
    tls_free(again);
}

/* What is in these descriptors is refused, and the line says what, where, and what to do. */
static void refused(int fds[2], const char *key, const char *value, const char *const *words)
{
    struct config *config = configure(key, value);
    struct tls *tls = tls_new();
    add(tls, "", "/etc/a.pem", fds);
    assert_false(tls_complete(tls, config, error, sizeof error));
    for (; *words; words++)
        if (!strstr(error, *words))
            fail_msg("no '%s' in: %s", *words, error);
    tls_free(tls);
    config_free(config);
}

static int text_file(const char *text)
{
    BIO *bio = BIO_new(BIO_s_mem());
    BIO_puts(bio, text);
    return certificate_file(bio);
}

static void test_bad_files(void **state)
{
    int fds[2], other[2];
    (void)state;
    certificate_make("a.example.org", fds);
    certificate_make("a.example.org", other);
    refused((int[]){fds[0], other[1]}, NULL, NULL,
            (const char *[]){"poplar.conf:7: [tls] key=/etc/a.key: ", "does not belong", NULL});
    refused((int[]){text_file("rubbish\n"), fds[1]}, NULL, NULL,
            (const char *[]){"poplar.conf:7: [tls] certificate=/etc/a.pem: ", "no PEM certificate",
                             NULL});
    close(other[0]);
    certificate_make("a.example.org", fds);
    refused((int[]){fds[0], text_file("")}, NULL, NULL,
            (const char *[]){"[tls] key=/etc/a.key: ", "no PEM private key", NULL});
    close(fds[1]);
    certificate_make_as("a.example.org", 86400, "passphrase", fds);
    refused(fds, NULL, NULL, (const char *[]){"key=/etc/a.key", "openssl pkey", NULL});
    certificate_make("a.example.org", fds);
    refused(fds, "ciphers", "NO-SUCH", (const char *[]){"[tls] ciphers=NO-SUCH: ", NULL});
}

static void test_an_expired_certificate_serves(void **state)
{
    int fds[2];
    struct tls *tls = tls_new();
    struct config *config = configure(NULL, NULL);
    (void)state;
    certificate_make_as("a.example.org", -60, NULL, fds);
    add(tls, "", "/etc/a.pem", fds);
    certificate_make("b.example.org", fds);
    add(tls, "net", "/etc/net.pem", fds);
    assert_true(tls_complete(tls, config, error, sizeof error));
    assert_true(tls_expired(tls, 0, error, sizeof error));
    assert_non_null(strstr(error, "/etc/a.pem: the certificate expired on "));
    assert_false(tls_expired(tls, 1, error, sizeof error));
    assert_true(connects(tls, 0, NULL));
    tls_free(tls);
    config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_protocols),
        cmocka_unit_test(test_versions_and_ciphers),
        cmocka_unit_test(test_tickets),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_an_expired_certificate_serves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
