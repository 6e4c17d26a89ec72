/*
 * sasl.h - what the mechanisms of AUTH say (RFC 4422, RFC 5034): PLAIN (RFC 4616), LOGIN, EXTERNAL,
 * XOAUTH2 and OAUTHBEARER (RFC 7628), and their base64. Pure: no connection, nothing is kept.
 */
#ifndef POPLAR_WORKER_SASL_H
#define POPLAR_WORKER_SASL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sasl_mechanism {
    SASL_PLAIN,
    SASL_LOGIN,
    SASL_EXTERNAL,
    SASL_XOAUTH2,
    SASL_OAUTHBEARER,
    SASL_MECHANISMS
};

enum {
    SASL_CHALLENGE_MAX = 96, /* octets of a challenge, before base64 */
    SASL_NAME_LINE_MAX = 19, /* "AUTH OAUTHBEARER " and a line end */
};

/* The mechanism's name, in capitals. */
const char *sasl_name(enum sasl_mechanism mechanism);

/* The mechanism of this name, in any case; false if there is none. */
bool sasl_find(const char *name, enum sasl_mechanism *mechanism);

/* Whether its secret is a token and not a password. */
bool sasl_has_token(enum sasl_mechanism mechanism);

/* Octets that a response may have where passwords have `secret_max`, and as base64. */
size_t sasl_response_max(size_t secret_max);
size_t sasl_encoded_size(size_t size);

/* Decode base64 (RFC 4648 section 4) in place, strictly: no blanks, padding where it belongs and
 * nowhere else. Ends the octets with a NUL; they may hold NULs. */
bool sasl_decode(char *text, size_t size, size_t *decoded);

/* Encode a challenge of at most SASL_CHALLENGE_MAX octets, ended by NUL. */
void sasl_encode(const char *challenge, char text[SASL_CHALLENGE_MAX / 3 * 4 + 1]);

enum sasl_outcome {
    SASL_OK = 0,
    SASL_MALFORMED, /* not in the mechanism's form */
    SASL_FOREIGN,   /* asks to act for somebody else than who logs in */
    SASL_NO_TOKEN,  /* a well-formed question without a token (RFC 7628 section 4.3) */
};

/* What a response says; both point into it. Neither has been looked at for what it may hold. */
struct sasl_credentials {
    const char *user, *secret;
    size_t user_size, secret_size;
};

/* Take a decoded response of PLAIN, XOAUTH2 or OAUTHBEARER apart. `response` is changed. */
enum sasl_outcome sasl_parse(enum sasl_mechanism mechanism, char *response, size_t size,
                             struct sasl_credentials *credentials);

/* The challenge that tells a client why its token was refused, before it is told -ERR. NULL when
 * the mechanism has none. */
const char *sasl_refusal(enum sasl_mechanism mechanism);

#endif
