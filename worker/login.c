/*
 * login.c - asks the master for an auth process, shows it the credentials, opens what it grants.
 * Runs in a worker, inside its sandbox. Neither waits out a delay nor counts failures: those are
 * the master's. Keeps no secret longer than it takes to send it.
 */
#include "worker/login.h"
#include "daemon/base.h"
#include "worker/exchange.h"
#include "worker/utf8.h"

#include <string.h>

enum {
    GRANTS_AGAIN_MAX = 3, /* times that granted files may turn out to be replaced */
    SETTLING_MS = 3000    /* from the time of an answer until the master has surely said so */
};

/* What the client is told about a verdict. */
static const struct answer {
    enum session_code code;
    enum text text;
} answers[LOGIN_OUTCOMES] = {
    [LOGIN_OK] = {CODE_NONE, TEXT_LOGGED_IN},
    [LOGIN_DENIED] = {CODE_AUTH, TEXT_LOGIN_DENIED},
    [LOGIN_EXPIRED] = {CODE_AUTH, TEXT_LOGIN_EXPIRED},
    [LOGIN_ACCOUNT] = {CODE_AUTH, TEXT_LOGIN_ACCOUNT},
    [LOGIN_UNAVAILABLE] = {CODE_SYS_TEMP, TEXT_LOGIN_UNAVAILABLE},
    [LOGIN_MISCONFIGURED] = {CODE_SYS_PERM, TEXT_LOGIN_MISCONFIGURED},
    [LOGIN_IN_USE] = {CODE_IN_USE, TEXT_LOGIN_IN_USE},
    [LOGIN_NO_MAILDROP] = {CODE_AUTH, TEXT_LOGIN_NO_MAILDROP},
    [LOGIN_STORE_TEMP] = {CODE_SYS_TEMP, TEXT_STORE_TEMP},
    [LOGIN_STORE_PERM] = {CODE_SYS_PERM, TEXT_STORE_PERM},
    [LOGIN_CRASHED] = {CODE_SYS_TEMP, TEXT_LOGIN_UNAVAILABLE},
};

/* Ask the master for an exchange. `user`: as whom the client wants to log in; NULL: he has. */
static bool ask_master(struct session *s, const char *user)
{
    message_begin(&s->record, user ? PROTO_LOGIN_WANTED : PROTO_GRANT_AGAIN);
    if (user) {
        message_put_text(&s->record, s->tls_version);
        message_put_text(&s->record, user);
    }
    enum channel_outcome outcome = channel_send(&s->control, &s->record, true);
    if (outcome != CHANNEL_OK)
        session_lost_master(s, outcome, NULL);
    return outcome == CHANNEL_OK;
}

static void send_credentials(struct session *s, struct channel *exchange,
                             const struct login_credentials *c)
{
    message_begin(&s->record, PROTO_BEGIN);
    message_put_text(&s->record, c->mechanism);
    message_put_text(&s->record, c->user);
    message_put_octets(&s->record, c->secret, c->secret_size);
    /* If auth is dead already, the missing verdict will say so. */
    channel_send(exchange, &s->record, true);
    message_clear(&s->record);
    line_release(&s->input);
}

/* Open the maildrop; when its files had been replaced meanwhile, ask for them anew. */
static enum attempt open_granted(struct session *s, int files[MAILDROP_FILES], uint32_t *verdict)
{
    for (int again = 0;; again++) {
        enum store_outcome opened = view_open(&s->view, files);
        if (opened == STORE_OK)
            return ATTEMPT_VERDICT;
        if (opened != STORE_STALE || again == GRANTS_AGAIN_MAX) {
            session_refuse_store(s, opened);
            return ATTEMPT_LOST;
        }
        view_close(&s->view);
        struct channel exchange;
        uint32_t refusal = 0;
        if (!ask_master(s, NULL))
            return ATTEMPT_LOST;
        enum attempt attempt = exchange_take(s, &exchange, &refusal);
        if (attempt == ATTEMPT_LOST)
            return attempt;
        *verdict = LOGIN_UNAVAILABLE;
        if (attempt == ATTEMPT_VERDICT)
            *verdict = exchange_verdict(s, &exchange, FILES_COME, NULL, NULL, files);
        if (*verdict != LOGIN_OK) {
            base_copy(s->detail, sizeof s->detail, "the maildrop could not be granted again");
            session_end(s, END_STORE);
            session_error(s, answers[*verdict].code, answers[*verdict].text);
            return ATTEMPT_LOST;
        }
    }
}

static void succeed(struct session *s, int files[MAILDROP_FILES])
{
    uint32_t verdict = LOGIN_OK;
    s->control.state = STATE_MAIL;
    if (open_granted(s, files, &verdict) != ATTEMPT_VERDICT)
        return;
    bool off;
    uint64_t wait;
    enum store_outcome outcome = view_begin(&s->view, s->config, &off, &wait);
    if (outcome != STORE_OK) {
        session_refuse_store(s, outcome);
        return;
    }
    if (off) { /* told here, to who has the password */
        session_error(s, CODE_AUTH, TEXT_LOGIN_POP3_OFF);
        session_end(s, END_POP3_OFF);
        return;
    }
    if (wait > 0) {
        /* RFC 2449 section 8.1.1. The server may close after a login that failed (RFC 1939 section
         * 4), and does: for the master and for auth this one was good. */
        session_error(s, CODE_LOGIN_DELAY, TEXT_LOGIN_DELAY);
        session_end(s, END_LOGIN_DELAY);
        return;
    }
    s->view.utf8 = s->utf8;
    s->logged_in = true;
    s->bad = 0;
    s->stream.deadline = 0;
    session_ok(s, TEXT_LOGGED_IN);
    session_await_trace(s);
}

/* Hear when the answer to a failure is due. Auth that ended before its verdict may have told the
 * master of a success: then nobody says so. */
static bool hear_settled(struct session *s, uint32_t verdict)
{
    const uint64_t deadline = s->stream.deadline;
    uint64_t soon = base_now_ms() + s->config->auth.failure_delay * 1000 + SETTLING_MS;
    if (verdict == LOGIN_CRASHED && soon < deadline)
        s->stream.deadline = soon;
    bool heard = session_hear_answer(s);
    s->stream.deadline = deadline;
    return heard;
}

static void answer_failure(struct session *s, const struct login_credentials *c, uint32_t verdict)
{
    bool last = false;
    if (!hear_settled(s, verdict))
        return;
    if (s->record.rule->type != PROTO_SETTLED)
        session_lost_master(s, CHANNEL_BAD, "not the end of a failed login");
    else
        last = message_get_u32(&s->record) != 0;
    message_clear(&s->record);
    if (s->end != 0)
        return;
    s->control.state = STATE_CLIENT;
    if (c->before_denial && answers[verdict].code == CODE_AUTH)
        c->before_denial(s, c->mechanism);
    if (s->end != 0)
        return;
    session_error(s, answers[verdict].code, answers[verdict].text);
    if (last)
        session_end(s, END_LOGIN_FAILURES);
}

/* Names go through SASLprep whatever way they come in (RFC 5034 section 4, RFC 6856 section 2.2).
 * Passwords do after UTF8 only: what PAM compares with was most likely never prepared, and whoever
 * logs in today with an accent on its own, or in Latin-1, must not be locked out. What the
 * preparation makes must fit again: a full-width solidus, say, becomes a plain one. False, and the
 * client is answered, when it does not. */
static bool prepare(struct session *s, struct login_credentials *c, char *user, char *secret)
{
    size_t size;
    if (!line_is_ascii(c->user, strlen(c->user))) {
        if (!utf8_prepare(c->user, strlen(c->user), user, PROTO_USER_MAX, &size) ||
            !line_is_user(user, size)) {
            session_error(s, CODE_AUTH, TEXT_NAME_UNFIT);
            return false;
        }
        user[size] = '\0';
        c->user = user;
    }
    if (s->utf8 && !line_is_ascii(c->secret, c->secret_size)) {
        if (!utf8_prepare(c->secret, c->secret_size, secret, PROTO_PASSWORD_MAX, &size) ||
            !line_is_password(secret, size)) {
            session_error(s, CODE_AUTH, TEXT_PASSWORD_UNFIT);
            return false;
        }
        c->secret = secret;
        c->secret_size = size;
    }
    return true;
}

/* `prepared` may hold the secret: PROTO_PASSWORD_MAX octets, wiped as the input buffer is. */
static void attempt_login(struct session *s, const struct login_credentials *credentials,
                          char *prepared)
{
    struct channel exchange;
    uint32_t refusal = 0;
    int files[MAILDROP_FILES];

    if (!ask_master(s, credentials->user))
        return;
    s->control.state = STATE_LOGIN;
    switch (exchange_take(s, &exchange, &refusal)) {
    case ATTEMPT_LOST:
        return;
    case ATTEMPT_REFUSED:
        s->control.state = STATE_CLIENT;
        session_error(s, CODE_SYS_TEMP,
                      refusal == REFUSED_BUSY ? TEXT_LOGIN_BUSY : TEXT_LOGIN_THROTTLED);
        if (refusal == REFUSED_LAST)
            session_end(s, END_LOGIN_FAILURES);
        return;
    case ATTEMPT_VERDICT:
        break;
    }
    send_credentials(s, &exchange, credentials);
    explicit_bzero(prepared, PROTO_PASSWORD_MAX);
    uint32_t verdict = exchange_verdict(s, &exchange, FILES_COME, NULL, NULL, files);
    if (verdict == LOGIN_OK)
        succeed(s, files);
    else
        answer_failure(s, credentials, verdict);
}

void login_try(struct session *s, const struct login_credentials *credentials)
{
    char user[PROTO_USER_MAX + 1], secret[PROTO_PASSWORD_MAX];
    struct login_credentials c = *credentials;
    if (prepare(s, &c, user, secret))
        attempt_login(s, &c, secret);
    explicit_bzero(secret, sizeof secret);
}
