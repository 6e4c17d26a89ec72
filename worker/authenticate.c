/*
 * authenticate.c - the exchange of AUTH: challenges out, responses in, credentials to login.c. Runs
 * in a worker, inside its sandbox.
 *
 * A response is decoded where it stands in the input buffer, which is wiped when its line is
 * released; nothing here copies a secret. A line that answers a challenge is consumed as such
 * however wrong it is, and is never looked at as a command.
 */
#include "worker/authenticate.h"
#include "worker/login.h"
#include "worker/sasl.h"

#include <string.h>

/* How a response came in, beyond what it says. */
enum response {
    RESPONSE_OK,
    RESPONSE_CANCELLED, /* "*" (RFC 5034 section 4) */
    RESPONSE_MALFORMED, /* not base64 */
    RESPONSE_TOO_LONG,
    RESPONSE_LOST /* the session has ended */
};

/* What a session may hold of a response: part of its input buffer. */
struct octets {
    char *at;
    size_t size;
};

static bool is_configured(const struct config *config, enum sasl_mechanism mechanism)
{
    return textlist_has(&config->auth.mechanisms, sasl_name(mechanism));
}

/* One that is configured. A certificate is no credential that could be overheard, but there is none
 * without TLS. */
static bool is_usable(const struct session *s, enum sasl_mechanism mechanism)
{
    return mechanism == SASL_EXTERNAL ? s->client_name[0] != '\0' : session_may_log_in(s);
}

const char *authenticate_mechanism(const struct session *s, size_t n)
{
    const struct text_list *list = &s->config->auth.mechanisms;
    for (size_t i = 0; i < list->n; i++) {
        enum sasl_mechanism mechanism;
        if (sasl_find(list->items[i], &mechanism) && is_usable(s, mechanism) && n-- == 0)
            return sasl_name(mechanism);
    }
    return NULL;
}

size_t authenticate_line_limit(const struct config *config)
{
    size_t secret = PROTO_PASSWORD_MAX;
    for (size_t i = 0; i < SASL_MECHANISMS; i++)
        if (sasl_has_token((enum sasl_mechanism)i) && is_configured(config, (enum sasl_mechanism)i))
            secret = (size_t)config->auth.token_max;
    return SASL_NAME_LINE_MAX + sasl_encoded_size(sasl_response_max(secret));
}

static size_t limit_response(const void *config, const char *beginning, size_t size)
{
    (void)beginning, (void)size;
    return authenticate_line_limit(config);
}

static enum response decode(char *text, size_t size, struct octets *response)
{
    if (!sasl_decode(text, size, &size))
        return RESPONSE_MALFORMED;
    *response = (struct octets){text, size};
    return RESPONSE_OK;
}

/* One line from the client, whatever it is. */
static enum response take_line(struct session *s, struct line *line)
{
    for (;;) {
        switch (line_next(&s->input, limit_response, s->config, line)) {
        case LINE_OK:
            return RESPONSE_OK;
        case LINE_TOO_LONG:
            return RESPONSE_TOO_LONG;
        case LINE_MORE:
            session_read_more(s);
            if (s->end != 0)
                return RESPONSE_LOST;
            break;
        case LINE_ENDLESS:
            session_error(s, CODE_NONE, TEXT_LINE_TOO_LONG);
            session_end(s, END_LINE_TOO_LONG);
            return RESPONSE_LOST;
        }
    }
}

/* Challenge the client; an empty challenge is "+ " all the same (RFC 5034 section 4). */
static void challenge(struct session *s, const char *text)
{
    char encoded[SASL_CHALLENGE_MAX / 3 * 4 + 1];
    sasl_encode(text, encoded);
    stream_put_text(&s->stream, "+ ");
    stream_put_text(&s->stream, encoded);
    stream_put_text(&s->stream, "\r\n");
}

static enum response ask(struct session *s, const char *text, struct octets *response)
{
    struct line line;
    challenge(s, text);
    enum response result = take_line(s, &line);
    if (result != RESPONSE_OK)
        return result;
    if (line.size == 1 && line.text[0] == '*')
        return RESPONSE_CANCELLED;
    return decode(line.text, line.size, response);
}

/* The client's first response: on the AUTH line, or asked for. */
static enum response begin(struct session *s, char *initial, const char *text,
                           struct octets *response)
{
    if (!initial)
        return ask(s, text, response);
    if (strcmp(initial, "=") == 0)
        initial++;
    return decode(initial, strlen(initial), response);
}

/* What comes of a response that was none. */
static enum command_outcome refuse(struct session *s, enum response response)
{
    switch (response) {
    case RESPONSE_CANCELLED:
        session_error(s, CODE_NONE, TEXT_AUTH_CANCELLED);
        return COMMAND_DONE;
    case RESPONSE_TOO_LONG:
        return COMMAND_TOO_LONG;
    case RESPONSE_LOST:
        return COMMAND_DONE;
    default:
        return COMMAND_MALFORMED;
    }
}

/* A client is told why its token was refused, and says that it has heard (RFC 7628 section 3.2.3).
 * What it says means nothing. */
static void tell_refusal(struct session *s, const char *name)
{
    struct line line;
    enum sasl_mechanism mechanism;
    if (!sasl_find(name, &mechanism))
        return;
    challenge(s, sasl_refusal(mechanism));
    take_line(s, &line);
}

static enum command_outcome try(struct session *s, enum sasl_mechanism mechanism,
                                const struct sasl_credentials *c)
{
    char user[PROTO_USER_MAX + 1];
    bool token = sasl_has_token(mechanism);
    bool fits = token ? c->secret_size <= s->config->auth.token_max
                      : line_is_password(c->secret, c->secret_size);
    if (!line_is_user(c->user, c->user_size)) {
        session_error(s, CODE_AUTH, TEXT_NAME_UNFIT);
    } else if (c->secret_size == 0) {
        session_error(s, CODE_AUTH, TEXT_PASSWORD_EMPTY);
    } else if (!fits) {
        session_error(s, CODE_AUTH, TEXT_PASSWORD_UNFIT);
    } else {
        memcpy(user, c->user, c->user_size);
        user[c->user_size] = '\0';
        login_try(s, &(struct login_credentials){
                         .mechanism = sasl_name(mechanism),
                         .user = user,
                         .secret = c->secret,
                         .secret_size = c->secret_size,
                         .before_denial = token ? tell_refusal : NULL,
                     });
    }
    return COMMAND_DONE;
}

/* PLAIN, XOAUTH2, OAUTHBEARER: all is in one response. */
static enum command_outcome run_single(struct session *s, enum sasl_mechanism mechanism,
                                       char *initial)
{
    struct octets response;
    struct sasl_credentials credentials;
    enum response got = begin(s, initial, "", &response);
    if (got != RESPONSE_OK)
        return refuse(s, got);
    switch (sasl_parse(mechanism, response.at, response.size, &credentials)) {
    case SASL_OK:
        return try(s, mechanism, &credentials);
    case SASL_FOREIGN:
        session_error(s, CODE_AUTH, TEXT_AUTH_FOREIGN);
        return COMMAND_DONE;
    case SASL_NO_TOKEN:
        tell_refusal(s, sasl_name(mechanism));
        if (s->end == 0)
            session_error(s, CODE_AUTH, TEXT_AUTH_NO_TOKEN);
        return COMMAND_DONE;
    default:
        return COMMAND_MALFORMED;
    }
}

/* Asked for with the words that Microsoft's clients want to read. */
static enum command_outcome run_login(struct session *s, char *initial)
{
    char user[PROTO_USER_MAX];
    struct octets response;
    enum response got = begin(s, initial, "Username:", &response);
    if (got != RESPONSE_OK)
        return refuse(s, got);
    if (!line_is_user(response.at, response.size)) {
        session_error(s, CODE_AUTH, TEXT_NAME_UNFIT);
        return COMMAND_DONE;
    }
    struct sasl_credentials credentials = {.user = user, .user_size = response.size};
    memcpy(user, response.at, response.size);
    got = ask(s, "Password:", &response);
    if (got != RESPONSE_OK)
        return refuse(s, got);
    credentials.secret = response.at;
    credentials.secret_size = response.size;
    return try(s, SASL_LOGIN, &credentials);
}

/* RFC 4422 appendix A: the certificate says who it is, the response as whom to act: nothing, or
 * the same. */
static enum command_outcome run_external(struct session *s, char *initial)
{
    struct octets response;
    enum response got = begin(s, initial, "", &response);
    if (got != RESPONSE_OK)
        return refuse(s, got);
    bool same = response.size == strlen(s->client_name) &&
                memcmp(response.at, s->client_name, response.size) == 0;
    if (response.size > 0 && !same)
        session_error(s, CODE_AUTH, TEXT_AUTH_FOREIGN);
    else
        login_try(s, &(struct login_credentials){.mechanism = sasl_name(SASL_EXTERNAL),
                                                 .user = s->client_name,
                                                 .secret = ""});
    return COMMAND_DONE;
}

enum command_outcome authenticate_run(struct session *s, const char *name, const char *argument)
{
    enum sasl_mechanism mechanism;
    char *initial = (char *)(uintptr_t)argument; /* it stands in the input buffer, which is ours */
    bool known = sasl_find(name, &mechanism) && is_configured(s->config, mechanism);
    if (known && is_usable(s, mechanism)) {
        if (mechanism == SASL_LOGIN)
            return run_login(s, initial);
        if (mechanism == SASL_EXTERNAL)
            return run_external(s, initial);
        return run_single(s, mechanism, initial);
    }
    if (known && mechanism != SASL_EXTERNAL)
        session_error(s, CODE_AUTH, TEXT_TLS_FIRST);
    else
        session_error(s, CODE_NONE, known ? TEXT_AUTH_NO_CERTIFICATE : TEXT_AUTH_UNKNOWN);
    return COMMAND_DONE;
}
