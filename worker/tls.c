/*
 * tls.c - certificates, contexts, SNI, ALPN. Contexts are made in the nursery before it confines
 * itself; the callbacks run in a worker, inside its sandbox, on what a client sent. Opens no file.
 */
#include "worker/tls.h"
#include "daemon/base.h"
#include "worker/client_ca.h"
#include "worker/ticket.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct identity {
    char *name, *path;
    X509 *leaf;
    STACK_OF(X509) * chain; /* what follows the leaf */
    EVP_PKEY *key;
    SSL_CTX *context;
    char fault[256]; /* why it cannot be used; "" if it can */
    bool key_at_fault;
    bool exposed; /* everybody may read its key */
};

struct tls {
    size_t n;
    struct identity *identities;
    bool strict_alpn;
    struct client_ca *client_ca;
    char client_ca_fault[256]; /* why it cannot be used; "" if it can */
};

struct tls *tls_new(void)
{
    return base_alloc(sizeof(struct tls));
}

static void clear_identity(struct identity *id)
{
    SSL_CTX_free(id->context);
    EVP_PKEY_free(id->key);
    X509_free(id->leaf);
    sk_X509_pop_free(id->chain, X509_free);
    free(id->name);
    free(id->path);
}

void tls_free(struct tls *tls)
{
    if (!tls)
        return;
    for (size_t i = 0; i < tls->n; i++)
        clear_identity(&tls->identities[i]);
    free(tls->identities);
    client_ca_free(tls->client_ca);
    free(tls);
}

bool tls_available(const struct tls *tls)
{
    return tls->n > 0;
}

const char *tls_error(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return reason ? reason : "no reason given";
}

/* The whole file behind a descriptor as a memory BIO, its pages in `octets` for wiping. */
static BIO *read_pem(int fd, unsigned char **octets, size_t *size)
{
    *octets = base_alloc(PROTO_PEM_MAX);
    *size = 0;
    while (*size < PROTO_PEM_MAX) { /* not from where a nursery before us ended */
        ssize_t got = pread(fd, *octets + *size, PROTO_PEM_MAX - *size, (off_t)*size);
        if (got < 0)
            return NULL;
        if (got == 0)
            break;
        *size += (size_t)got;
    }
    return BIO_new_mem_buf(*octets, (int)*size);
}

static void free_pem(BIO *bio, unsigned char *octets, size_t size)
{
    BIO_free(bio);
    explicit_bzero(octets, size);
    free(octets);
}

/* All of the file, or none of it: of a chain with a gap not every client can make sense. */
static bool load_chain(struct identity *id, int fd)
{
    unsigned char *octets = NULL;
    size_t size;
    X509 *next;
    BIO *bio = read_pem(fd, &octets, &size);
    if (bio)
        id->leaf = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
    id->chain = sk_X509_new_null();
    bool good = id->leaf && id->chain;
    while (good && (next = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
        good = sk_X509_push(id->chain, next) > 0;
        if (!good)
            X509_free(next);
    }
    free_pem(bio, octets, size);
    /* Reading ends with an error in any case; the end of the file is the good one. */
    return good && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
}

/* Asked for the passphrase of an encrypted key: there is nobody to ask. */
static int no_passphrase(char *buffer, int size, int writing, void *context)
{
    (void)buffer, (void)size, (void)writing;
    *(bool *)context = true;
    return -1;
}

static bool load_key(struct identity *id, int fd, bool *encrypted)
{
    unsigned char *octets = NULL;
    size_t size;
    BIO *bio = read_pem(fd, &octets, &size);
    if (bio)
        id->key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, encrypted);
    free_pem(bio, octets, size);
    return id->key != NULL;
}

/* Fills in the fault when there is one; tls_complete() tells it, with the place in the file. */
static void load_identity(struct identity *id, int chain_fd, int key_fd)
{
    bool encrypted = false;
    const size_t size = sizeof id->fault;
    if (!load_chain(id, chain_fd)) {
        snprintf(id->fault, size,
                 "holds no PEM certificate that can be read, or another that cannot (%s); it must "
                 "begin with the server's own, the issuers' follow",
                 tls_error());
        return;
    }
    ERR_clear_error(); /* the end of the chain leaves "no start line" behind */
    id->key_at_fault = true;
    if (!load_key(id, key_fd, &encrypted))
        snprintf(id->fault, size, "holds no PEM private key that can be read (%s)%s", tls_error(),
                 encrypted ? "; it has a passphrase: remove it with `openssl pkey`" : "");
    else if (X509_check_private_key(id->leaf, id->key) != 1)
        snprintf(id->fault, size,
                 "does not belong to the first certificate in %s; the server's own must come first",
                 id->path);
    ERR_clear_error();
}

/* Its fault is told as that of an identity. */
static void load_client_ca(struct tls *tls, int fd)
{
    unsigned char *octets = NULL;
    size_t size;
    BIO *bio = read_pem(fd, &octets, &size);
    if (bio)
        tls->client_ca = client_ca_load(bio);
    if (!tls->client_ca)
        snprintf(tls->client_ca_fault, sizeof tls->client_ca_fault,
                 "holds no PEM certificate that can be read (%s); put those there that issue the "
                 "clients'",
                 tls_error());
    free_pem(bio, octets, size);
}

bool tls_add(void *context, const char *name, const char *path, int chain_fd, int key_fd,
             char *error, size_t error_size)
{
    struct tls *tls = context;
    (void)error, (void)error_size;
    if (strcmp(name, CLIENT_CA_NAME) == 0) {
        load_client_ca(tls, chain_fd);
        base_close(chain_fd);
        base_close(key_fd);
        return true;
    }
    struct identity id = {.name = base_strdup(name), .path = base_strdup(path)};
    struct stat st;
    id.exposed = fstat(key_fd, &st) == 0 && st.st_mode & S_IROTH;
    load_identity(&id, chain_fd, key_fd);
    base_close(chain_fd);
    base_close(key_fd);
    tls->identities = base_grow(tls->identities, tls->n, sizeof id);
    tls->identities[tls->n++] = id;
    return true;
}

/* What is wrong with a certificate or key, with the line of the configuration that names it. */
static bool refuse_identity(const struct identity *id, const struct config *config, bool key,
                            const char *fault, char *error, size_t size)
{
    const char *path = id->path;
    for (size_t i = 0; key && i < config->tls.n_certificates; i++)
        if (strcmp(config->tls.certificates[i].name, id->name) == 0)
            path = config->tls.certificates[i].key;
    const char *setting = key ? "key" : "certificate";
    return config_refuse(config, "tls", id->name, setting, path, error, size, "%s", fault);
}

bool tls_is_untimely(const struct tls *tls, size_t n, char *text, size_t size)
{
    const struct identity *id = &tls->identities[n];
    const ASN1_TIME *begin = X509_get0_notBefore(id->leaf), *end = X509_get0_notAfter(id->leaf);
    bool early = X509_cmp_current_time(begin) > 0, late = X509_cmp_current_time(end) < 0;
    struct tm when;
    if ((!early && !late) || ASN1_TIME_to_tm(early ? begin : end, &when) != 1)
        return false;
    snprintf(text, size,
             "%s: the certificate %s %04d-%02d-%02d; it is used, but clients will refuse it: %s",
             id->path, early ? "is not valid before" : "expired on", when.tm_year + 1900,
             when.tm_mon + 1, when.tm_mday,
             early ? "see whether the clock is right" : "renew it, then reload");
    return true;
}

bool tls_is_exposed(const struct tls *tls, size_t n, char *text, size_t size)
{
    const struct identity *id = &tls->identities[n];
    if (id->exposed)
        snprintf(text, size, "%s: everybody may read the key of this certificate; chmod o-r it",
                 id->path);
    return id->exposed;
}

uint64_t tls_expires(const struct tls *tls, size_t n)
{
    struct tm when;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(tls->identities[n].leaf), &when) != 1)
        return 0;
    time_t end = timegm(&when);
    return end > 0 ? (uint64_t)end : 0;
}

size_t tls_count(const struct tls *tls)
{
    return tls->n;
}

/* SNI: the first certificate that is good for the name; the default when none is. */
static int choose_identity(SSL *ssl, int *alert, void *context)
{
    const struct tls *tls = context;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    (void)alert;
    /* To OpenSSL a leading dot asks for "any name below". */
    if (!name || *name == '\0' || *name == '.')
        return SSL_TLSEXT_ERR_NOACK;
    for (size_t i = 0; i < tls->n; i++)
        if (X509_check_host(tls->identities[i].leaf, name, 0, 0, NULL) == 1) {
            SSL_set_SSL_CTX(ssl, tls->identities[i].context);
            return SSL_TLSEXT_ERR_OK;
        }
    ERR_clear_error();
    return SSL_TLSEXT_ERR_NOACK;
}

/* ALPN (RFC 7301): only called when the client offers something. Refusing what is not for us
 * keeps a browser from being talked into sending its requests here. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_size,
                           const unsigned char *in, unsigned in_size, void *context)
{
    static const unsigned char ours[] = {4, 'p', 'o', 'p', '3'};
    const struct tls *tls = context;
    unsigned char *chosen;
    (void)ssl;
    if (SSL_select_next_proto(&chosen, out_size, ours, sizeof ours, in, in_size) ==
        OPENSSL_NPN_NEGOTIATED) {
        *out = chosen;
        return SSL_TLSEXT_ERR_OK;
    }
    return tls->strict_alpn ? SSL_TLSEXT_ERR_ALERT_FATAL : SSL_TLSEXT_ERR_NOACK;
}

static void set_options(SSL_CTX *c)
{
    /* openssl.cnf may set it; the sandbox forbids what it takes. */
    SSL_CTX_clear_options(c, SSL_OP_ENABLE_KTLS);
    SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_CLEANSE_PLAINTEXT |
                               SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                               SSL_OP_PRIORITIZE_CHACHA);
    /* Not SSL_MODE_RELEASE_BUFFERS: before each release the whole buffer is wiped, used or not. */
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* Each worker is one connection: nothing could be found in a cache, tickets do it all. */
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_session_id_context(c, (const unsigned char *)"poplar", 6);
    SSL_CTX_set_num_tickets(c, 1);
    SSL_CTX_set_dh_auto(c, 1);    /* or ciphers= with DHE would be none */
    SSL_CTX_set_read_ahead(c, 1); /* one read(2) a record, not two */
}

static bool use_certificate(SSL_CTX *c, const struct identity *id)
{
    if (SSL_CTX_use_certificate(c, id->leaf) != 1 || SSL_CTX_use_PrivateKey(c, id->key) != 1)
        return false;
    for (int i = 0; i < sk_X509_num(id->chain); i++)
        if (SSL_CTX_add1_chain_cert(c, sk_X509_value(id->chain, i)) != 1)
            return false;
    return true;
}

/* For TLS 1.2. */
static const char *ciphers_of(const struct config *config)
{
    return config->tls.ciphers ? config->tls.ciphers : "ECDHE+AESGCM:ECDHE+CHACHA20";
}

static bool make_context(struct tls *tls, struct identity *id, const struct config *config,
                         char *error, size_t size)
{
    int minimum = config->tls.minimum == TLS_MINIMUM_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION;
    SSL_CTX *c = id->context = SSL_CTX_new(TLS_server_method());
    if (!c || SSL_CTX_set_min_proto_version(c, minimum) != 1)
        return base_refuse(error, size, "[tls]: OpenSSL refuses to start: %s", tls_error());
    set_options(c);
    if (SSL_CTX_set_cipher_list(c, ciphers_of(config)) != 1)
        return config_refuse(config, "tls", "", "ciphers", ciphers_of(config), error, size,
                             "%s; see `openssl ciphers -v`", tls_error());
    if (!use_certificate(c, id))
        return refuse_identity(id, config, false, tls_error(), error, size);
    if (tls->client_ca && !client_ca_use(tls->client_ca, c))
        return config_refuse(config, "tls", "", "client_ca", config->tls.client_ca, error, size,
                             "%s", tls_error());
    SSL_CTX_set_tlsext_servername_callback(c, choose_identity);
    SSL_CTX_set_tlsext_servername_arg(c, tls);
    SSL_CTX_set_alpn_select_cb(c, choose_protocol, tls);
    SSL_CTX_set_tlsext_ticket_key_evp_cb(c, ticket_crypt);
    return true;
}

static bool shake_hands(SSL *client, SSL *server)
{
    for (int turns = 0; turns < 20; turns++) {
        int a = SSL_do_handshake(client);
        int b = SSL_do_handshake(server);
        if (a == 1 && b == 1)
            return true;
    }
    return false;
}

/* One octet each way, the client takes its ticket, both say goodbye. */
static bool talk(SSL *client, SSL *server)
{
    char octet = '.';
    bool good = SSL_write(server, &octet, 1) == 1 && SSL_read(client, &octet, 1) == 1 &&
                SSL_write(client, &octet, 1) == 1 && SSL_read(server, &octet, 1) == 1;
    SSL_shutdown(server);
    return good;
}

/* One connection to ourselves in memory, of just this version. */
static bool warm_up(struct tls *tls, const struct identity *id, const struct config *config,
                    int version)
{
    struct tls_ticket_keys keys = {.n = 1};
    BIO *near = NULL, *far = NULL;
    SSL *client = NULL;
    SSL_CTX *client_context = SSL_CTX_new(TLS_client_method());
    SSL *server = tls_session(tls, &keys);
    bool good = false;

    base_random(keys.octets[0], sizeof keys.octets[0]);
    if (!client_context || !server || BIO_new_bio_pair(&near, 0, &far, 0) != 1)
        goto out;
    SSL_set_SSL_CTX(server, id->context);
    /* openssl.cnf may have less for clients. */
    SSL_CTX_set_min_proto_version(client_context, version);
    SSL_CTX_set_max_proto_version(client_context, version);
    SSL_CTX_set_cipher_list(client_context, ciphers_of(config));
    client = SSL_new(client_context);
    if (!client)
        goto out;
    SSL_set_bio(client, near, near);
    SSL_set_bio(server, far, far);
    near = far = NULL;
    SSL_set_connect_state(client);
    SSL_set_alpn_protos(client, (const unsigned char *)"\4pop3", 5);
    if (tls->client_ca) /* not one that verifies, but all the same it is taken apart and checked */
        SSL_use_cert_and_key(client, id->leaf, id->key, NULL, 1);
    good = shake_hands(client, server) && talk(client, server);
out:
    BIO_free(near);
    BIO_free(far);
    SSL_free(client);
    SSL_free(server);
    SSL_CTX_free(client_context);
    explicit_bzero(&keys, sizeof keys);
    return good;
}

/* Shake hands in each version; a fault if the oldest that is spoken is not. */
static const char *try_out(struct tls *tls, const struct identity *id, const struct config *config)
{
    bool wants_old = config->tls.minimum == TLS_MINIMUM_1_2;
    bool new = warm_up(tls, id, config, TLS1_3_VERSION);
    bool old = wants_old && warm_up(tls, id, config, TLS1_2_VERSION);
    ERR_clear_error();
    if (!new && !old)
        return "no handshake succeeds with it; TLS clients know RSA and P-256 keys, for instance";
    if (wants_old && !old)
        return "no handshake of TLS 1.2 succeeds with it; ciphers= must have some for its kind of "
               "key, or set minimum=TLSv1.3";
    return NULL;
}

bool tls_complete(struct tls *tls, const struct config *config, char *error, size_t error_size)
{
    tls->strict_alpn = config->tls.alpn == 0;
    if (*tls->client_ca_fault)
        return config_refuse(config, "tls", "", "client_ca", config->tls.client_ca, error,
                             error_size, "%s", tls->client_ca_fault);
    for (size_t i = 0; i < tls->n; i++) {
        struct identity *id = &tls->identities[i];
        if (*id->fault)
            return refuse_identity(id, config, id->key_at_fault, id->fault, error, error_size);
        if (!make_context(tls, id, config, error, error_size))
            return false;
    }
    for (size_t i = 0; i < tls->n; i++) {
        struct identity *id = &tls->identities[i];
        const char *fault = try_out(tls, id, config);
        if (fault)
            return refuse_identity(id, config, false, fault, error, error_size);
    }
    return true;
}

SSL *tls_session(struct tls *tls, const struct tls_ticket_keys *keys)
{
    SSL *ssl = SSL_new(tls->identities[0].context);
    if (!ssl)
        return NULL;
    /* What sets the state has no way to say that it failed. Without memory it does, and OpenSSL 3.5
     * crashes over what it leaves when the socket is put there. */
    ERR_clear_error();
    SSL_set_accept_state(ssl);
    if (ERR_peek_error() != 0 || SSL_set_app_data(ssl, (void *)(uintptr_t)keys) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    if (keys->n == 0) {
        SSL_set_options(ssl, SSL_OP_NO_TICKET);
        SSL_set_num_tickets(ssl, 0);
    }
    return ssl;
}
