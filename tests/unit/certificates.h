/*
 * certificates.h - self-signed certificates for tests, made on the spot and never on disk.
 */
#ifndef POPLAR_TESTS_UNIT_CERTIFICATES_H
#define POPLAR_TESTS_UNIT_CERTIFICATES_H

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static inline X509 *certificate_sign(const char *host, EVP_PKEY *key, long seconds)
{
    char names[300];
    X509 *leaf = X509_new();
    X509_set_version(leaf, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(leaf), 1);
    X509_gmtime_adj(X509_getm_notBefore(leaf), -864000);
    X509_gmtime_adj(X509_getm_notAfter(leaf), seconds);
    X509_set_pubkey(leaf, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(leaf), "CN", MBSTRING_ASC,
                               (const unsigned char *)host, -1, -1, 0);
    X509_set_issuer_name(leaf, X509_get_subject_name(leaf));
    snprintf(names, sizeof names, "DNS:%s", host);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, names);
    X509_add_ext(leaf, extension, -1);
    X509_EXTENSION_free(extension);
    X509_sign(leaf, key, EVP_sha256());
    return leaf;
}

/* A descriptor with what a BIO holds, at its start. */
static inline int certificate_file(BIO *bio)
{
    char *octets;
    long size = BIO_get_mem_data(bio, &octets);
    int fd = memfd_create("pem", MFD_CLOEXEC);
    if (write(fd, octets, (size_t)size) != size)
        abort();
    lseek(fd, 0, SEEK_SET);
    BIO_free(bio);
    return fd;
}

/* A certificate for a host (or *.domain), good for so many seconds, and its key, P-256, in PEM:
 * fds[0] and fds[1]. With a passphrase the key is encrypted. */
static inline void certificate_make_as(const char *host, long seconds, const char *passphrase,
                                       int fds[2])
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *leaf = certificate_sign(host, key, seconds);
    BIO *chain = BIO_new(BIO_s_mem()), *secret = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(chain, leaf);
    PEM_write_bio_PrivateKey(secret, key, passphrase ? EVP_aes_128_cbc() : NULL,
                             (const unsigned char *)passphrase,
                             passphrase ? (int)strlen(passphrase) : 0, NULL, NULL);
    fds[0] = certificate_file(chain);
    fds[1] = certificate_file(secret);
    X509_free(leaf);
    EVP_PKEY_free(key);
}

/* A certificate and its key, in memory. */
struct certificate {
    X509 *x509;
    EVP_PKEY *key;
};

static inline void certificate_release(struct certificate *c)
{
    X509_free(c->x509);
    EVP_PKEY_free(c->key);
    *c = (struct certificate){0};
}

/* One signed by `issuer`, or by itself, good from now + `from` to now + `to` seconds. `parts` are
 * "CN=alice" or "emailAddress=…" for the subject, "subjectAltName=email:…" and the like for
 * extensions; a NULL ends them. */
static inline struct certificate certificate_issue(const struct certificate *issuer, EVP_PKEY *key,
                                                   long from, long to, const char *const *parts)
{
    static long serial = 100;
    struct certificate c = {X509_new(), key};
    X509V3_CTX context;
    X509_set_version(c.x509, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(c.x509), serial++);
    X509_gmtime_adj(X509_getm_notBefore(c.x509), from);
    X509_gmtime_adj(X509_getm_notAfter(c.x509), to);
    X509_set_pubkey(c.x509, key);
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer ? issuer->x509 : c.x509, c.x509, NULL, NULL, 0);
    for (; *parts; parts++) {
        char name[40];
        const char *value = strchr(*parts, '=') + 1;
        snprintf(name, sizeof name, "%.*s", (int)(value - *parts - 1), *parts);
        X509_EXTENSION *extension = NULL;
        if (strcmp(name, "CN") != 0 && strcmp(name, "emailAddress") != 0)
            extension = X509V3_EXT_conf(NULL, &context, name, value);
        if (extension)
            X509_add_ext(c.x509, extension, -1);
        else if (X509_NAME_add_entry_by_txt(X509_get_subject_name(c.x509), name, MBSTRING_UTF8,
                                            (const unsigned char *)value, -1, -1, 0) != 1)
            abort();
        X509_EXTENSION_free(extension);
    }
    X509_set_issuer_name(c.x509, X509_get_subject_name(issuer ? issuer->x509 : c.x509));
    X509_sign(c.x509, issuer ? issuer->key : key, EVP_sha256());
    return c;
}

static inline struct certificate certificate_authority(const char *name, EVP_PKEY *key)
{
    char subject[100];
    snprintf(subject, sizeof subject, "CN=%s", name);
    return certificate_issue(NULL, key, -3600, 86400,
                             (const char *[]){subject, "basicConstraints=critical,CA:TRUE",
                                              "keyUsage=critical,keyCertSign", NULL});
}

/* A descriptor with these certificates in PEM. */
static inline int certificate_pem(const struct certificate *all, size_t n)
{
    BIO *bio = BIO_new(BIO_s_mem());
    for (size_t i = 0; i < n; i++)
        PEM_write_bio_X509(bio, all[i].x509);
    return certificate_file(bio);
}

static inline void certificate_make(const char *host, int fds[2])
{
    certificate_make_as(host, 86400, NULL, fds);
}

#endif
