/*
 * sasl.c - base64 and the responses of AUTH's mechanisms. Runs in a worker, inside its sandbox, on
 * octets from anybody. Decodes in place and copies nothing: the caller wipes one buffer, and no
 * secret is left behind.
 */
#include "worker/sasl.h"
#include "daemon/base.h"
#include "daemon/proto.h"

#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

static const struct mechanism {
    const char *name;
    bool token;
    const char *refusal;
} mechanisms[SASL_MECHANISMS] = {
    [SASL_PLAIN] = {"PLAIN", false, NULL},
    [SASL_LOGIN] = {"LOGIN", false, NULL},
    [SASL_EXTERNAL] = {"EXTERNAL", false, NULL},
    /* As Google's servers say it, for there is no standard. */
    [SASL_XOAUTH2] = {"XOAUTH2", true, "{\"status\":\"401\",\"schemes\":\"bearer\"}"},
    /* RFC 7628 section 3.2.2. */
    [SASL_OAUTHBEARER] = {"OAUTHBEARER", true, "{\"status\":\"invalid_token\"}"},
};

const char *sasl_name(enum sasl_mechanism mechanism)
{
    return mechanisms[mechanism].name;
}

bool sasl_find(const char *name, enum sasl_mechanism *mechanism)
{
    for (size_t i = 0; i < SASL_MECHANISMS; i++)
        if (strcasecmp(mechanisms[i].name, name) == 0) {
            *mechanism = (enum sasl_mechanism)i;
            return true;
        }
    return false;
}

bool sasl_has_token(enum sasl_mechanism mechanism)
{
    return mechanisms[mechanism].token;
}

const char *sasl_refusal(enum sasl_mechanism mechanism)
{
    return mechanisms[mechanism].refusal;
}

size_t sasl_response_max(size_t secret_max)
{
    /* The name comes twice in PLAIN, and in OAUTHBEARER with three octets for some of its own; the
     * rest is for that one's host, port and what else a client puts there. */
    enum { NAMES = 3 * PROTO_USER_MAX, REST = 512 };
    return secret_max + NAMES + REST;
}

size_t sasl_encoded_size(size_t size)
{
    return (size + 2) / 3 * 4;
}

/* Octets at the end that only fill up: 0 to 2, or 3 for what is not base64 at all. OpenSSL would
 * pass over blanks and take '=' anywhere for a zero. */
static size_t count_padding(const char *text, size_t size)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t padding = 0;
    while (padding < 3 && padding < size && text[size - padding - 1] == '=')
        padding++;
    bool good = size % 4 == 0 && strspn(text, alphabet) == size - padding;
    return good ? padding : 3;
}

bool sasl_decode(char *text, size_t size, size_t *decoded)
{
    enum { STEP = 64 };
    unsigned char taken[STEP];
    size_t padding = count_padding(text, size), to = 0;
    if (padding > 2)
        return false;
    /* A piece is moved out of the way first: OpenSSL does not promise to decode in place. */
    for (size_t from = 0; from < size; from += STEP) {
        size_t step = size - from < STEP ? size - from : STEP;
        memcpy(taken, text + from, step);
        to += (size_t)EVP_DecodeBlock((unsigned char *)text + to, taken, (int)step);
    }
    explicit_bzero(taken, sizeof taken);
    *decoded = to - padding;
    /* What is left behind the octets is base64 of some of them. */
    explicit_bzero(text + *decoded, size - *decoded);
    return true;
}

void sasl_encode(const char *challenge, char text[SASL_CHALLENGE_MAX / 3 * 4 + 1])
{
    size_t size = strlen(challenge);
    if (size > SASL_CHALLENGE_MAX)
        bug("a challenge is too long");
    EVP_EncodeBlock((unsigned char *)text, (const unsigned char *)challenge, (int)size);
}

/* What is still to be parsed. */
struct rest {
    char *at;
    size_t size;
};

/* Take what stands before the next `end`, and `end` itself. */
static bool take_until(struct rest *rest, char end, struct rest *part)
{
    char *found = memchr(rest->at, end, rest->size);
    if (!found)
        return false;
    *part = (struct rest){rest->at, (size_t)(found - rest->at)};
    rest->at += part->size + 1;
    rest->size -= part->size + 1;
    return true;
}

/* Take this text, letters in any case, if it comes next. */
static bool take_text(struct rest *rest, const char *text)
{
    size_t size = strlen(text);
    if (rest->size < size || strncasecmp(rest->at, text, size) != 0)
        return false;
    rest->at += size;
    rest->size -= size;
    return true;
}

static void put_user(struct sasl_credentials *c, struct rest user)
{
    c->user = user.at;
    c->user_size = user.size;
}

static void put_secret(struct sasl_credentials *c, struct rest secret)
{
    c->secret = secret.at;
    c->secret_size = secret.size;
}

/* RFC 4616 section 2: [authzid] NUL authcid NUL passwd. */
static enum sasl_outcome parse_plain(struct rest rest, struct sasl_credentials *c)
{
    struct rest as, user;
    if (!take_until(&rest, '\0', &as) || !take_until(&rest, '\0', &user) ||
        memchr(rest.at, '\0', rest.size))
        return SASL_MALFORMED;
    put_user(c, user);
    put_secret(c, rest);
    bool same = as.size == user.size && memcmp(as.at, user.at, as.size) == 0;
    return as.size == 0 || same ? SASL_OK : SASL_FOREIGN;
}

/* The value of "auth": "Bearer TOKEN" (RFC 6750 section 2.1), or nothing from a client that only
 * wants to be told what is needed. */
static enum sasl_outcome parse_bearer(struct rest value, struct sasl_credentials *c)
{
    if (value.size == 0)
        return SASL_NO_TOKEN;
    if (!take_text(&value, "Bearer "))
        return SASL_MALFORMED;
    while (take_text(&value, " "))
        ;
    for (size_t i = 0; i < value.size; i++)
        if (value.at[i] < 0x21 || value.at[i] > 0x7e)
            return SASL_MALFORMED;
    put_secret(c, value);
    return value.size > 0 ? SASL_OK : SASL_NO_TOKEN;
}

/* "user=" NAME ^A "auth=Bearer " TOKEN ^A ^A */
static enum sasl_outcome parse_xoauth2(struct rest rest, struct sasl_credentials *c)
{
    struct rest user, value, none;
    if (!take_text(&rest, "user=") || !take_until(&rest, '\1', &user) ||
        !take_text(&rest, "auth=") || !take_until(&rest, '\1', &value) ||
        !take_until(&rest, '\1', &none) || none.size > 0 || rest.size > 0)
        return SASL_MALFORMED;
    put_user(c, user);
    return parse_bearer(value, c);
}

/* A saslname (RFC 5801 section 4): ',' and '=' are written "=2C" and "=3D". In place. */
static bool unescape(struct rest *name)
{
    size_t to = 0;
    for (size_t from = 0; from < name->size; from++) {
        char octet = name->at[from];
        if (octet == '=') {
            struct rest code = {name->at + from, name->size - from};
            if (take_text(&code, "=2C"))
                octet = ',';
            else if (!take_text(&code, "=3D"))
                return false;
            from += 2;
        }
        name->at[to++] = octet;
    }
    name->size = to;
    return true;
}

/* gs2-header ^A *(key "=" value ^A) ^A (RFC 7628 section 3.1). The header is "n,a=NAME,"; there is
 * no channel binding here, so "y" is right as well and "p" is not. PAM needs a name: one is asked
 * for although the standard would let the token say it. Other keys mean nothing to us. */
static enum sasl_outcome parse_oauthbearer(struct rest rest, struct sasl_credentials *c)
{
    struct rest user, part;
    bool authorized = false;
    enum sasl_outcome outcome = SASL_MALFORMED;
    if ((!take_text(&rest, "n,") && !take_text(&rest, "y,")) || !take_text(&rest, "a=") ||
        !take_until(&rest, ',', &user) || !unescape(&user) || !take_text(&rest, "\1"))
        return SASL_MALFORMED;
    put_user(c, user);
    for (;;) {
        if (!take_until(&rest, '\1', &part))
            return SASL_MALFORMED;
        if (part.size == 0)
            return rest.size == 0 ? outcome : SASL_MALFORMED;
        if (!memchr(part.at, '=', part.size))
            return SASL_MALFORMED;
        if (!take_text(&part, "auth="))
            continue;
        if (authorized)
            return SASL_MALFORMED;
        authorized = true;
        outcome = parse_bearer(part, c);
    }
}

enum sasl_outcome sasl_parse(enum sasl_mechanism mechanism, char *response, size_t size,
                             struct sasl_credentials *credentials)
{
    struct rest rest = {response, size};
    *credentials = (struct sasl_credentials){0};
    switch (mechanism) {
    case SASL_PLAIN:
        return parse_plain(rest, credentials);
    case SASL_XOAUTH2:
        return parse_xoauth2(rest, credentials);
    case SASL_OAUTHBEARER:
        return parse_oauthbearer(rest, credentials);
    default:
        return SASL_MALFORMED;
    }
}
