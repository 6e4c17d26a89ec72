/*
 * test_tls.c - certificates, names, protocols and tickets, over pairs of memory BIOs.
 */
#include "tests/support/place.h"

#include "certificates.h"
#include "worker/client_ca.h"
#include "worker/stream.h"
#include "worker/tls.h"
#include <malloc.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

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
        must_set(config, "tls", settings[i][0], settings[i][1], settings[i][2]);
    if (key)
        must_set(config, "tls", "", key, value);
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

static const char broken[] = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";

static void append(int fd, const char *text, size_t size)
{
    lseek(fd, 0, SEEK_END);
    assert_int_equal(write(fd, text, size), size);
    lseek(fd, 0, SEEK_SET);
}

/* What else is in a file with the certificates, as with HAProxy, is passed over. */
static void test_key_in_the_same_file(void **state)
{
    char key[2000];
    int fds[2];
    struct tls *tls = tls_new();
    struct config *config = configure(NULL, NULL);
    (void)state;
    certificate_make("a.example.org", fds);
    ssize_t size = pread(fds[1], key, sizeof key, 0);
    append(fds[0], key, (size_t)size);
    add(tls, "", "/etc/a.pem", fds);
    assert_true(tls_complete(tls, config, error, sizeof error));
    tls_free(tls);
    config_free(config);
}

static void test_bad_files(void **state)
{
    int fds[2], other[2];
    (void)state;
    certificate_make("a.example.org", fds);
    append(fds[0], broken, sizeof broken - 1); /* an issuer's, after a good one */
    refused(fds, NULL, NULL,
            (const char *[]){"poplar.conf:7: [tls] certificate=/etc/a.pem: ", "no PEM certificate",
                             NULL});
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
    certificate_make("a.example.org", fds);
    refused(fds, "ciphers", "ECDHE-RSA-AES256-GCM-SHA384",
            (const char *[]){"[tls] certificate=/etc/a.pem: ", "TLS 1.2", "ciphers=", NULL});
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
    assert_true(tls_is_untimely(tls, 0, error, sizeof error));
    assert_non_null(strstr(error, "/etc/a.pem: the certificate expired on "));
    assert_false(tls_is_untimely(tls, 1, error, sizeof error));
    assert_true(connects(tls, 0, NULL));
    tls_free(tls);
    config_free(config);
}

/* As after a start with a clock that is behind. */
static void test_a_certificate_of_tomorrow_serves(void **state)
{
    int fds[2];
    struct tls *tls = tls_new();
    struct config *config = configure(NULL, NULL);
    (void)state;
    struct certificate c = certificate_issue(NULL, EVP_EC_gen("P-256"), 3600, 86400,
                                             (const char *[]){"CN=a.example.org", NULL});
    BIO *secret = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(secret, c.key, NULL, NULL, 0, NULL, NULL);
    fds[0] = certificate_pem(&c, 1);
    fds[1] = certificate_file(secret);
    add(tls, "", "/etc/a.pem", fds);
    assert_true(tls_complete(tls, config, error, sizeof error));
    assert_true(tls_is_untimely(tls, 0, error, sizeof error));
    assert_non_null(strstr(error, "/etc/a.pem: the certificate is not valid before "));
    assert_true(connects(tls, 0, NULL));
    certificate_release(&c);
    tls_free(tls);
    config_free(config);
}

/* ---- names without end ---- */

/* Each connection asks for another name, and is refused right after its hello (by ALPN), which is
 * all that a name has to do with. */
static void test_ten_thousand_names(void **state)
{
    struct tls *tls = serve(NULL, NULL);
    size_t before = 0;
    (void)state;
    for (int i = 0; i < 10000; i++) {
        char name[80];
        struct connection c = {0};
        snprintf(name, sizeof name, "host%d.%.40d.example.net", i, i);
        open_connection(&c, tls, 0);
        SSL_set_tlsext_host_name(c.client, name);
        SSL_set_alpn_protos(c.client, (const unsigned char *)"\2h2", 3);
        assert_int_equal(SSL_do_handshake(c.client), -1);
        assert_int_equal(SSL_do_handshake(c.server), -1);
        close_connection(&c);
        if (i == 5000) /* OpenSSL's own tables have grown to what they need by then */
            before = mallinfo2().uordblks;
    }
    assert_true(mallinfo2().uordblks < before + 16384);
    tls_free(tls);
}

/* ---- certificates of clients ---- */

static struct certificate ca, other_ca;

static int make_authorities(void **state)
{
    (void)state;
    ca = certificate_authority("Clients CA", EVP_EC_gen("P-256"));
    other_ca = certificate_authority("Other CA", EVP_RSA_gen(2048));
    return 0;
}

static int free_authorities(void **state)
{
    (void)state;
    certificate_release(&ca);
    certificate_release(&other_ca);
    return 0;
}

static struct tls *serve_clients_of(const struct certificate *authorities, size_t n)
{
    int fds[2];
    struct tls *tls = tls_new();
    struct config *config = configure("client_ca", "/etc/ca.pem");
    certificate_make("mail.example.org", fds);
    add(tls, "", "/etc/a.pem", fds);
    certificate_make("*.example.net", fds);
    add(tls, "net", "/etc/net.pem", fds);
    fds[0] = certificate_pem(authorities, n);
    add(tls, CLIENT_CA_NAME, "/etc/ca.pem", (int[]){fds[0], dup(fds[0])});
    if (!tls_complete(tls, config, error, sizeof error))
        fail_msg("%s", error);
    config_free(config);
    return tls;
}

/* Connect with a certificate, which may be none; its name as the server takes it, or "". Nothing
 * that is wrong with it ends the handshake. */
static const char *named_by(struct tls *tls, const struct certificate *own, bool common_name,
                            int version)
{
    static char name[251];
    struct connection c = {0};
    open_connection(&c, tls, version);
    if (own && SSL_use_cert_and_key(c.client, own->x509, own->key, NULL, 1) != 1)
        fail_msg("a certificate cannot be used");
    if (common_name) /* as good an occasion as any to meet the second certificate */
        SSL_set_tlsext_host_name(c.client, "pop.example.net");
    shake_hands(&c);
    assert_true(c.done);
    if (!client_ca_name(c.server, common_name, name, sizeof name))
        name[0] = '\0';
    assert_int_equal(ERR_peek_error(), 0);
    close_connection(&c);
    return name;
}

static void test_client_names(void **state)
{
    static const struct {
        const char *parts[6];
        const char *address, *common;
    } cases[] = {
        {{"CN=Alice", "subjectAltName=email:alice@example.org"}, "alice@example.org", "Alice"},
        {{"CN=alice", "emailAddress=old@example.org"}, "old@example.org", "alice"},
        {{"CN=a", "emailAddress=old@example.org", "subjectAltName=DNS:h,email:new@example.org"},
         "new@example.org",
         "a"},
        {{"CN=a", "subjectAltName=email:one@example.org,email:two@example.org"},
         "one@example.org",
         "a"},
        {{"CN=a", "subjectAltName=DNS:alice.example.org"}, "", "a"},
        {{"CN=\303\251lodie"}, "", "\303\251lodie"},
        {{"CN=alice", "CN=bob"}, "", ""},
        {{"CN=a", "emailAddress=alice@x.org", "emailAddress=bob@x.org"}, "", "a"},
        {{"emailAddress=alice@x.org"}, "alice@x.org", ""},
        {{"subjectAltName=email:alice@x.org"}, "alice@x.org", ""},
    };
    struct tls *tls = serve_clients_of(&ca, 1);
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct certificate own =
            certificate_issue(&ca, EVP_EC_gen("P-256"), -60, 3600, cases[i].parts);
        assert_string_equal(named_by(tls, &own, false, 0), cases[i].address);
        assert_string_equal(named_by(tls, &own, true, TLS1_2_VERSION), cases[i].common);
        certificate_release(&own);
    }
    assert_string_equal(named_by(tls, NULL, false, 0), "");
    tls_free(tls);
}

/* A name with a NUL in it would be read as a shorter one. */
static void test_client_name_with_nul(void **state)
{
    struct tls *tls = serve_clients_of(&ca, 1);
    struct certificate own = {X509_new(), EVP_EC_gen("P-256")};
    (void)state;
    X509_set_version(own.x509, 2);
    X509_gmtime_adj(X509_getm_notBefore(own.x509), -60);
    X509_gmtime_adj(X509_getm_notAfter(own.x509), 3600);
    X509_set_pubkey(own.x509, own.key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(own.x509), "CN", V_ASN1_UTF8STRING,
                               (const unsigned char *)"alice\0.example.org", 18, -1, 0);
    X509_set_issuer_name(own.x509, X509_get_subject_name(ca.x509));
    X509_sign(own.x509, ca.key, EVP_sha256());
    assert_string_equal(named_by(tls, &own, true, 0), "");
    certificate_release(&own);
    tls_free(tls);
}

/* With one mail address, of any octets. */
static struct certificate issue_to(const char *octets, size_t size)
{
    struct certificate own =
        certificate_issue(&ca, EVP_EC_gen("P-256"), -60, 3600, (const char *[]){"CN=a", NULL});
    GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();
    ASN1_STRING_set(text, octets, (int)size);
    GENERAL_NAME_set0_value(name, GEN_EMAIL, text);
    sk_GENERAL_NAME_push(names, name);
    assert_int_equal(X509_add1_ext_i2d(own.x509, NID_subject_alt_name, names, 0, 0), 1);
    GENERAL_NAMES_free(names);
    X509_sign(own.x509, ca.key, EVP_sha256());
    return own;
}

/* None is cut to fit, or made of nothing. */
static void test_client_names_that_do_not_fit(void **state)
{
    struct tls *tls = serve_clients_of(&ca, 1);
    char longest[252] = "";
    (void)state;
    memset(longest, 'x', 250);
    static const struct {
        size_t size;
        bool good;
    } cases[] = {{0, false}, {1, true}, {250, true}, {251, false}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct certificate own = issue_to(longest, cases[i].size);
        assert_int_equal(strlen(named_by(tls, &own, false, 0)), cases[i].good ? cases[i].size : 0);
        certificate_release(&own);
    }
    struct certificate own = issue_to("alice\0@example.org", 18);
    assert_string_equal(named_by(tls, &own, false, 0), "");
    certificate_release(&own);
    tls_free(tls);
}

static void test_clients_that_do_not_verify(void **state)
{
    static const char *const alice[] = {"CN=alice", NULL};
    static const char *const server_only[] = {"CN=alice", "extendedKeyUsage=serverAuth", NULL};
    static const char *const client_only[] = {"CN=alice", "extendedKeyUsage=clientAuth", NULL};
    struct tls *tls = serve_clients_of(&ca, 1);
    (void)state;
    struct {
        struct certificate own;
        const char *name;
    } cases[] = {
        {certificate_issue(&ca, EVP_EC_gen("P-256"), -60, 3600, alice), "alice"},
        {certificate_issue(&ca, EVP_RSA_gen(2048), -60, 3600, client_only), "alice"},
        {certificate_issue(&ca, EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), -60, 3600, alice),
         "alice"},
        {certificate_issue(NULL, EVP_EC_gen("P-256"), -60, 3600, alice), ""},
        {certificate_issue(&other_ca, EVP_EC_gen("P-256"), -60, 3600, alice), ""},
        {certificate_issue(&ca, EVP_EC_gen("P-256"), -7200, -60, alice), ""},
        {certificate_issue(&ca, EVP_EC_gen("P-256"), 3600, 7200, alice), ""},
        {certificate_issue(&ca, EVP_EC_gen("P-256"), -60, 3600, server_only), ""},
    };
    /* By the right name, but not by its key. */
    struct certificate namesake = certificate_authority("Clients CA", EVP_EC_gen("P-256"));
    struct certificate forged = certificate_issue(&namesake, EVP_EC_gen("P-256"), -60, 3600, alice);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_string_equal(named_by(tls, &cases[i].own, true, TLS1_2_VERSION), cases[i].name);
        assert_string_equal(named_by(tls, &cases[i].own, true, TLS1_3_VERSION), cases[i].name);
        certificate_release(&cases[i].own);
    }
    assert_string_equal(named_by(tls, &forged, true, 0), "");
    certificate_release(&forged);
    certificate_release(&namesake);
    tls_free(tls);
}

/* The file may name several issuers, and one that is not its own; the client is told which. */
static void test_issuers(void **state)
{
    struct certificate below =
        certificate_issue(&other_ca, EVP_EC_gen("P-256"), -60, 3600,
                          (const char *[]){"CN=Below", "basicConstraints=critical,CA:TRUE", NULL});
    struct certificate both[] = {ca, below};
    struct tls *tls = serve_clients_of(both, 2);
    struct certificate by_ca =
        certificate_issue(&ca, EVP_EC_gen("P-256"), -60, 3600, (const char *[]){"CN=alice", NULL});
    struct certificate by_below =
        certificate_issue(&below, EVP_EC_gen("P-256"), -60, 3600, (const char *[]){"CN=bob", NULL});
    struct certificate by_other = certificate_issue(&other_ca, EVP_EC_gen("P-256"), -60, 3600,
                                                    (const char *[]){"CN=carol", NULL});
    struct connection c = {0};
    (void)state;
    assert_string_equal(named_by(tls, &by_ca, true, 0), "alice");
    assert_string_equal(named_by(tls, &by_below, true, 0), "bob");
    assert_string_equal(named_by(tls, &by_other, true, 0), "");
    open_connection(&c, tls, 0);
    shake_hands(&c);
    const STACK_OF(X509_NAME) *told = SSL_get0_peer_CA_list(c.client);
    assert_int_equal(sk_X509_NAME_num(told), 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(
            X509_NAME_cmp(sk_X509_NAME_value(told, i), X509_get_subject_name(both[i].x509)), 0);
    close_connection(&c);
    certificate_release(&by_ca);
    certificate_release(&by_below);
    certificate_release(&by_other);
    certificate_release(&below);
    tls_free(tls);
}

/* Without client_ca nobody is asked. */
static void test_no_issuers(void **state)
{
    struct tls *tls = serve(NULL, NULL);
    struct certificate own =
        certificate_issue(&ca, EVP_EC_gen("P-256"), -60, 3600, (const char *[]){"CN=alice", NULL});
    (void)state;
    assert_string_equal(named_by(tls, &own, true, 0), "");
    certificate_release(&own);
    tls_free(tls);
}

/* As resumes(), and the name that the server takes. */
static bool resumes_as(struct tls *tls, int version, const struct certificate *own,
                       SSL_SESSION **ticket, const char *expected)
{
    char name[251] = "";
    struct connection c = {.keys = keys_of('a', 0)};
    open_connection(&c, tls, version);
    if (*ticket)
        SSL_set_session(c.client, *ticket);
    if (own)
        SSL_use_cert_and_key(c.client, own->x509, own->key, NULL, 1);
    shake_hands(&c);
    assert_true(c.done);
    bool resumed = SSL_session_reused(c.server);
    client_ca_name(c.server, true, name, sizeof name);
    assert_string_equal(name, expected);
    SSL_SESSION_free(*ticket);
    *ticket = SSL_get1_session(c.client);
    SSL_shutdown(c.server);
    SSL_shutdown(c.client);
    close_connection(&c);
    return resumed;
}

/* A ticket keeps the name, but not where others are trusted; and none comes of a bad one. */
static void test_tickets_of_clients(void **state)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    static const char *const alice[] = {"CN=alice", NULL};
    struct certificate more[] = {ca, other_ca};
    struct tls *tls = serve_clients_of(&ca, 1), *same = serve_clients_of(&ca, 1),
               *other = serve_clients_of(&other_ca, 1), *both = serve_clients_of(more, 2),
               *none = serve(NULL, NULL);
    struct certificate good = certificate_issue(&ca, EVP_EC_gen("P-256"), -60, 3600, alice);
    struct certificate bad = certificate_issue(NULL, EVP_EC_gen("P-256"), -60, 3600, alice);
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
        struct tls *const elsewhere[] = {other, both, none};
        SSL_SESSION *ticket = NULL;
        for (size_t j = 0; j < ARRAY_SIZE(elsewhere); j++) {
            assert_false(resumes_as(tls, versions[i], &good, &ticket, "alice"));
            assert_true(resumes_as(same, versions[i], NULL, &ticket, "alice"));
            assert_false(resumes_as(elsewhere[j], versions[i], NULL, &ticket, ""));
            SSL_SESSION_free(ticket);
            ticket = NULL;
        }
        assert_false(resumes_as(tls, versions[i], &bad, &ticket, ""));
        resumes_as(same, versions[i], NULL, &ticket, "");
        assert_false(resumes_as(none, versions[i], &good, &ticket, ""));
        assert_false(resumes_as(tls, versions[i], NULL, &ticket, ""));
        SSL_SESSION_free(ticket);
    }
    certificate_release(&good);
    certificate_release(&bad);
    tls_free(tls);
    tls_free(same);
    tls_free(other);
    tls_free(both);
    tls_free(none);
}

/* The certificate ends before the ticket that it came by. */
static void test_ticket_of_an_expired_client(void **state)
{
    struct tls *tls = serve_clients_of(&ca, 1);
    struct certificate own =
        certificate_issue(&ca, EVP_EC_gen("P-256"), -60, 2, (const char *[]){"CN=alice", NULL});
    SSL_SESSION *ticket = NULL;
    (void)state;
    assert_false(resumes_as(tls, 0, &own, &ticket, "alice"));
    while (X509_cmp_current_time(X509_get0_notAfter(own.x509)) > 0)
        usleep(10000);
    assert_true(resumes_as(tls, 0, NULL, &ticket, ""));
    SSL_SESSION_free(ticket);
    certificate_release(&own);
    tls_free(tls);
}

static void test_bad_issuers(void **state)
{
    static const char *const files[] = {"", "rubbish\n", broken};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        struct config *config = configure("client_ca", "/etc/ca.pem");
        struct tls *tls = tls_new();
        int fds[2];
        certificate_make("a.example.org", fds);
        add(tls, "", "/etc/a.pem", fds);
        fds[0] = text_file(files[i]);
        add(tls, CLIENT_CA_NAME, "/etc/ca.pem", (int[]){fds[0], dup(fds[0])});
        assert_false(tls_complete(tls, config, error, sizeof error));
        assert_non_null(strstr(error, "poplar.conf:7: [tls] client_ca=/etc/ca.pem: "));
        assert_non_null(strstr(error, "no PEM certificate"));
        tls_free(tls);
        config_free(config);
    }
}

/* ---- the stream ---- */

/* A stream over TLS whose client said all it has to say, and a master that never stops speaking. */
struct flood {
    struct tls *tls;
    struct connection c;
    struct stream *stream;
    int client[2], control[2];
    int looks; /* at the master */
};

static bool count_look(void *looks)
{
    ++*(int *)looks;
    return true;
}

/* From here on it is kept what the client says. */
static void flood_begin(struct flood *f)
{
    *f = (struct flood){.c.keys.n = 1, .stream = base_alloc(sizeof *f->stream)};
    f->tls = serve(NULL, NULL);
    open_connection(&f->c, f->tls, TLS1_3_VERSION);
    shake_hands(&f->c);
    assert_true(f->c.done);
    SSL_set0_wbio(f->c.client, BIO_new(BIO_s_mem()));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, f->client), 0);
    assert_int_equal(pipe(f->control), 0);
    assert_int_equal(write(f->control[1], "", 1), 1);
    stream_open(f->stream, f->client[0], f->control[0], 1000);
    f->stream->on_control = count_look;
    f->stream->control_context = &f->looks;
    SSL_up_ref(f->c.server);
    assert_int_equal(stream_start_tls(f->stream, f->c.server), STREAM_OK);
}

/* All of it at once; returns the octets. */
static long flood_send(struct flood *f)
{
    char *records;
    long size = BIO_get_mem_data(SSL_get_wbio(f->c.client), &records);
    assert_int_equal(write(f->client[1], records, (size_t)size), size);
    (void)BIO_reset(SSL_get_wbio(f->c.client));
    return size;
}

static void flood_end(struct flood *f)
{
    stream_close(f->stream);
    free(f->stream);
    close(f->client[1]);
    close(f->control[0]);
    close(f->control[1]);
    close_connection(&f->c);
    tls_free(f->tls);
}

/* Changes of keys are nothing that the client says: OpenSSL goes on to the next record by itself,
 * for as long as there are any. Between reads of the socket the deadline and the master count. */
static void test_records_that_say_nothing(void **state)
{
    enum { AT_ONCE = 18000 }; /* octets are read by OpenSSL, or fewer */
    struct flood f;
    char word[8];
    size_t got;
    (void)state;
    flood_begin(&f);
    for (int i = 0; i < 4000; i++) {
        assert_int_equal(SSL_key_update(f.c.client, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        assert_int_equal(SSL_do_handshake(f.c.client), 1);
    }
    assert_int_equal(SSL_write(f.c.client, "NOOP\r\n", 6), 6);
    long size = flood_send(&f);
    assert_int_equal(stream_read(f.stream, word, sizeof word, 0, &got), STREAM_OK);
    assert_int_equal(got, 6);
    if (f.looks < size / AT_ONCE)
        fail_msg("%d looks in %ld octets", f.looks, size);
    flood_end(&f);
}

/* Nor does it matter how much OpenSSL has read already. */
static void test_records_that_are_there(void **state)
{
    struct flood f;
    char word[8];
    size_t got;
    (void)state;
    flood_begin(&f);
    for (int i = 0; i < 10; i++)
        assert_int_equal(SSL_write(f.c.client, "NOOP\r\n", 6), 6);
    flood_send(&f);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(stream_read(f.stream, word, sizeof word, 0, &got), STREAM_OK);
        assert_int_equal(f.looks, i + 1);
    }
    SSL_write(f.c.client, "NOOP\r\n", 6);
    SSL_write(f.c.client, "NOOP\r\n", 6);
    flood_send(&f);
    assert_int_equal(stream_read(f.stream, word, sizeof word, 0, &got), STREAM_OK);
    assert_int_equal(stream_read(f.stream, word, sizeof word, 1, &got), STREAM_READ_TIMEOUT);
    flood_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_protocols),
        cmocka_unit_test(test_versions_and_ciphers),
        cmocka_unit_test(test_tickets),
        cmocka_unit_test(test_key_in_the_same_file),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_an_expired_certificate_serves),
        cmocka_unit_test(test_a_certificate_of_tomorrow_serves),
        cmocka_unit_test(test_ten_thousand_names),
        cmocka_unit_test(test_client_names),
        cmocka_unit_test(test_client_name_with_nul),
        cmocka_unit_test(test_client_names_that_do_not_fit),
        cmocka_unit_test(test_clients_that_do_not_verify),
        cmocka_unit_test(test_issuers),
        cmocka_unit_test(test_no_issuers),
        cmocka_unit_test(test_tickets_of_clients),
        cmocka_unit_test(test_ticket_of_an_expired_client),
        cmocka_unit_test(test_bad_issuers),
        cmocka_unit_test(test_records_that_say_nothing),
        cmocka_unit_test(test_records_that_are_there),
    };
    return cmocka_run_group_tests(tests, make_authorities, free_authorities);
}
