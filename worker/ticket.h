/*
 * ticket.h - session tickets (RFC 5077, RFC 8446 section 4.6.1) under the master's keys, so that
 * every worker opens what another one made.
 */
#ifndef POPLAR_WORKER_TICKET_H
#define POPLAR_WORKER_TICKET_H

#include <openssl/ssl.h>

/* For SSL_CTX_set_tlsext_ticket_key_evp_cb(); the keys are the SSL's app data
 * (struct tls_ticket_keys). 1: done, 2: opened with an old key, make a new ticket, 0: no ticket. */
int ticket_crypt(SSL *ssl, unsigned char *key_name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                 EVP_MAC_CTX *mac, int encrypt);

#endif
