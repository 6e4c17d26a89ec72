/*
 * client_ca.c - client certificates. Loading and set-up run in the nursery, before it confines
 * itself; the check of a certificate and the look at its name run in a worker, inside its sandbox,
 * on what anybody may send. Opens no file.
 *
 * A certificate that does not verify is no reason to refuse the connection: mail programs present
 * whatever they have to whoever asks, and their users log in by password all the same. The fault is
 * kept as the connection's verify result, and EXTERNAL is not offered to it.
 */
#include "worker/client_ca.h"
#include "daemon/base.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

enum { CHAIN_MAX = 32768 }; /* octets of certificates that a client may send */

struct client_ca {
    STACK_OF(X509) * issuers;
    X509_STORE *store;
    unsigned char id[EVP_MAX_MD_SIZE]; /* of just these issuers */
    unsigned id_size;
};

void client_ca_free(struct client_ca *ca)
{
    if (!ca)
        return;
    sk_X509_pop_free(ca->issuers, X509_free);
    X509_STORE_free(ca->store);
    free(ca);
}

/* Owns the certificate. */
static bool add_issuer(struct client_ca *ca, X509 *issuer, EVP_MD_CTX *id)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size;
    if (X509_STORE_add_cert(ca->store, issuer) != 1 ||
        X509_digest(issuer, EVP_sha256(), digest, &size) != 1 ||
        EVP_DigestUpdate(id, digest, size) != 1 || sk_X509_push(ca->issuers, issuer) <= 0) {
        X509_free(issuer);
        return false;
    }
    /* For its answer there is no use: what a check needs must be loaded before the sandbox is. */
    X509_self_signed(issuer, 1);
    ERR_clear_error();
    return true;
}

struct client_ca *client_ca_load(BIO *pem)
{
    struct client_ca *ca = base_alloc(sizeof *ca);
    EVP_MD_CTX *id = EVP_MD_CTX_new();
    X509 *issuer;
    ca->issuers = sk_X509_new_null();
    ca->store = X509_STORE_new();
    bool good = id && ca->issuers && ca->store && EVP_DigestInit(id, EVP_sha256()) == 1;
    while (good && (issuer = PEM_read_bio_X509(pem, NULL, NULL, NULL)) != NULL)
        good = add_issuer(ca, issuer, id);
    /* Reading ends with an error in any case; one certificate and the end of the file are good. */
    unsigned long why = ERR_peek_last_error();
    good = good && sk_X509_num(ca->issuers) > 0 && ERR_GET_REASON(why) == PEM_R_NO_START_LINE &&
           EVP_DigestFinal(id, ca->id, &ca->id_size) == 1;
    EVP_MD_CTX_free(id);
    if (good) {
        ERR_clear_error();
        return ca;
    }
    client_ca_free(ca);
    return NULL;
}

static int check(X509_STORE_CTX *chain, void *context)
{
    (void)context;
    if (X509_verify_cert(chain) != 1 && X509_STORE_CTX_get_error(chain) == X509_V_OK)
        X509_STORE_CTX_set_error(chain, X509_V_ERR_UNSPECIFIED);
    ERR_clear_error();
    return 1; /* the handshake goes on, see above */
}

bool client_ca_use(const struct client_ca *ca, SSL_CTX *context)
{
    for (int i = 0; i < sk_X509_num(ca->issuers); i++)
        if (SSL_CTX_add_client_CA(context, sk_X509_value(ca->issuers, i)) != 1)
            return false;
    /* Whoever stands in the file is trusted, also where a root of its own is missing. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(context, check, NULL);
    SSL_CTX_set_max_cert_list(context, CHAIN_MAX);
    /* A ticket carries the client's certificate and what came of checking it. It opens no session
     * where the issuers are others: the certificate is then asked for and checked anew. */
    return SSL_CTX_set1_verify_cert_store(context, ca->store) == 1 &&
           SSL_CTX_set_session_id_context(context, ca->id, ca->id_size) == 1;
}

/* Text of a certificate, as UTF-8. False if it holds a NUL or is too long. */
static bool copy_name(const ASN1_STRING *from, char *name, size_t size)
{
    unsigned char *text = NULL;
    int length = ASN1_STRING_to_UTF8(&text, from);
    bool good = length > 0 && (size_t)length < size && !memchr(text, '\0', (size_t)length);
    if (good) {
        memcpy(name, text, (size_t)length);
        name[length] = '\0';
    }
    OPENSSL_free(text);
    return good;
}

/* The only value of this kind in the subject: of several, none is more the client than another. */
static bool copy_subject(X509 *certificate, int kind, char *name, size_t size)
{
    const X509_NAME *subject = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(subject, kind, -1);
    if (at < 0 || X509_NAME_get_index_by_NID(subject, kind, at) >= 0)
        return false;
    return copy_name(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)), name, size);
}

/* The first mail address: those of one certificate are of one person. */
static bool copy_address(X509 *certificate, char *name, size_t size)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    bool there = false, good = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && !there; i++) {
        const GENERAL_NAME *one = sk_GENERAL_NAME_value(names, i);
        there = one->type == GEN_EMAIL;
        good = there && copy_name(one->d.rfc822Name, name, size);
    }
    GENERAL_NAMES_free(names);
    return there ? good : copy_subject(certificate, NID_pkcs9_emailAddress, name, size);
}

bool client_ca_name(SSL *ssl, bool common_name, char *name, size_t size)
{
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    /* A ticket may be younger than the end of the certificate in it. */
    bool valid = certificate && SSL_get_verify_result(ssl) == X509_V_OK &&
                 X509_cmp_current_time(X509_get0_notAfter(certificate)) > 0;
    bool good = valid && (common_name ? copy_subject(certificate, NID_commonName, name, size)
                                      : copy_address(certificate, name, size));
    ERR_clear_error();
    return good;
}
