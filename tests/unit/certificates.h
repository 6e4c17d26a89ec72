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

static inline void certificate_make(const char *host, int fds[2])
{
    certificate_make_as(host, 86400, NULL, fds);
}

#endif
