/*
 * tls.h - the server's certificates and what a TLS connection may be.
 *
 * The nursery loads and warms up everything once, from descriptors the master opened; workers
 * inherit it and make one SSL each. Ticket keys are the master's and come with the client.
 */
#ifndef POPLAR_WORKER_TLS_H
#define POPLAR_WORKER_TLS_H

#include "daemon/config.h"
#include "daemon/proto.h"
#include <openssl/ssl.h>

struct tls; /* the certificates, each with its context; the first is the default */

/* Keys for session tickets: [0] makes them, both open them. Without any there are no tickets. */
struct tls_ticket_keys {
    size_t n;
    unsigned char octets[2][PROTO_TICKET_KEY_SIZE];
};

struct tls *tls_new(void);
void tls_free(struct tls *tls); /* NULL is legal */

/* Add a certificate chain and its key, both PEM, or by the name CLIENT_CA_NAME the file of [tls]
 * client_ca, twice (worker/client_ca.h). A child_certificate, `context` is the struct tls.
 * Owns both descriptors. What is wrong with them tls_complete() tells, which knows the line of the
 * configuration they come from. */
bool tls_add(void *context, const char *name, const char *path, int chain_fd, int key_fd,
             char *error, size_t error_size);

/* After the last certificate: make the contexts as configured, then shake hands with ourselves, so
 * that nothing is loaded or computed for the first time inside a sandbox. False with one line in
 * `error`. */
bool tls_complete(struct tls *tls, const struct config *config, char *error, size_t error_size);

/* How many certificates there are; when the n-th, from 0, expires, in seconds since the epoch (0:
 * it does not say); and whether it has, or is not valid yet, with a line about it: such a one is
 * still served, for not to answer at all is worse. */
size_t tls_count(const struct tls *tls);
uint64_t tls_expires(const struct tls *tls, size_t n);
bool tls_is_untimely(const struct tls *tls, size_t n, char *text, size_t size);
/* Whether everybody on the machine may read its key, with a line about it. */
bool tls_is_exposed(const struct tls *tls, size_t n, char *text, size_t size);

/* Whether there is any certificate. */
bool tls_available(const struct tls *tls);

/* A server's side of one connection, without a transport. `keys` must outlive it. NULL: memory. */
SSL *tls_session(struct tls *tls, const struct tls_ticket_keys *keys);

/* The last failure of OpenSSL in this process, in its words; empties its queue. Never NULL. */
const char *tls_error(void);

#endif
