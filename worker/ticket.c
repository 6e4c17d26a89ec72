/*
 * ticket.c - seals and opens session tickets. Runs in a worker, inside its sandbox. The keys live
 * as long as the session, are made and changed by the master, and are never on disk.
 */
#include "worker/ticket.h"
#include "worker/tls.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

/* A key's parts (proto.h): what the ticket says which key it needs, and the two secrets. */
enum { NAME_SIZE = 16, MAC_SIZE = 32, CIPHER_SIZE = 32, IV_SIZE = 16 };
_Static_assert(NAME_SIZE + MAC_SIZE + CIPHER_SIZE == PROTO_TICKET_KEY_SIZE, "parts of a key");

static int prepare(const unsigned char *key, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                   EVP_MAC_CTX *mac, int encrypt)
{
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)(uintptr_t)(key + NAME_SIZE),
                                          MAC_SIZE),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
        OSSL_PARAM_construct_end()};
    const unsigned char *secret = key + NAME_SIZE + MAC_SIZE;
    return EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, secret, iv, encrypt) == 1 &&
           EVP_MAC_CTX_set_params(mac, parameters) == 1;
}

int ticket_crypt(SSL *ssl, unsigned char *key_name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                 EVP_MAC_CTX *mac, int encrypt)
{
    const struct tls_ticket_keys *keys = SSL_get_app_data(ssl);
    if (encrypt) {
        if (keys->n == 0 || RAND_bytes(iv, IV_SIZE) != 1)
            return 0;
        memcpy(key_name, keys->octets[0], NAME_SIZE);
        return prepare(keys->octets[0], iv, cipher, mac, 1) ? 1 : -1;
    }
    for (size_t i = 0; i < keys->n; i++)
        if (memcmp(key_name, keys->octets[i], NAME_SIZE) == 0)
            return !prepare(keys->octets[i], iv, cipher, mac, 0) ? -1 : i == 0 ? 1 : 2;
    return 0;
}
