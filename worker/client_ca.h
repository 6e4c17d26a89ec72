/*
 * client_ca.h - certificates of clients: whom the administrator lets issue them ([tls] client_ca),
 * and whom one names. A client needs none; what comes of a good one is AUTH EXTERNAL.
 */
#ifndef POPLAR_WORKER_CLIENT_CA_H
#define POPLAR_WORKER_CLIENT_CA_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

/* The name by which PROTO_CERTIFICATE carries the file; no [tls NAME] can be called this. */
#define CLIENT_CA_NAME " ca"

struct client_ca;

/* Every certificate in a PEM file. NULL, and OpenSSL's error queue says why, when there is none or
 * one is broken. */
struct client_ca *client_ca_load(BIO *pem);
void client_ca_free(struct client_ca *ca); /* NULL is legal */

/* Let a server's context ask for a certificate, and check one that is given against these alone. */
bool client_ca_use(const struct client_ca *ca, SSL_CTX *context);

/* After a handshake: whom the client's certificate names, if it gave one and the one verified: the
 * rfc822Name of its subjectAltName, else its emailAddress, or its common name. False if there is no
 * such name, or several common names, or it does not fit. */
bool client_ca_name(SSL *ssl, bool common_name, char *name, size_t size);

#endif
