/*
 * session.c - the state of a session: replies, its end, its report. Runs in a worker, inside its
 * sandbox.
 */
#include "worker/session.h"
#include "daemon/base.h"
#include "worker/client_ca.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

enum { MASTER_WAIT_MS = 60000 }; /* for the master's answer after login */

static const char *const codes[] = {
    [CODE_NONE] = "",
    [CODE_AUTH] = "[AUTH] ",
    [CODE_IN_USE] = "[IN-USE] ",
    [CODE_LOGIN_DELAY] = "[LOGIN-DELAY] ",
    [CODE_SYS_TEMP] = "[SYS/TEMP] ",
    [CODE_SYS_PERM] = "[SYS/PERM] ",
    [CODE_UTF8] = "[UTF8] ",
};

void session_put_text(struct session *s, enum text text)
{
    char plain[TEXT_MAX + 1];
    const char *said = text_get(s->language, text);
    stream_put_text(&s->stream, s->accents ? said : text_fold(said, plain));
}

void session_ok(struct session *s, enum text text)
{
    stream_put_text(&s->stream, "+OK ");
    session_put_text(s, text);
    stream_put_text(&s->stream, "\r\n");
}

void session_error(struct session *s, enum session_code code, enum text text)
{
    if (!s->logged_in)
        s->error = text;
    stream_put_text(&s->stream, "-ERR ");
    stream_put_text(&s->stream, codes[code]);
    session_put_text(s, text);
    stream_put_text(&s->stream, "\r\n");
}

void session_numbers(struct session *s, const char *before, uint64_t first, uint64_t second)
{
    stream_put_text(&s->stream, before);
    stream_put_number(&s->stream, first);
    stream_put(&s->stream, " ", 1);
    stream_put_number(&s->stream, second);
}

void session_end(struct session *s, enum session_end why)
{
    if (s->end == 0)
        s->end = why;
}

enum session_code session_store_failed(struct session *s, enum store_outcome outcome)
{
    if (s->end == 0) {
        const char *more = maildrop_error(s->view.maildrop);
        snprintf(s->detail, sizeof s->detail, "%s%s%s", maildrop_outcome_name(outcome),
                 *more ? ": " : "", more);
    }
    session_end(s, END_STORE);
    switch (outcome) {
    case STORE_DAMAGED:
    case STORE_NEWER:
    case STORE_REFUSED:
        return CODE_SYS_PERM;
    default:
        return CODE_SYS_TEMP;
    }
}

bool session_refuse_store(struct session *s, enum store_outcome outcome)
{
    enum session_code code = session_store_failed(s, outcome);
    session_error(s, code, code == CODE_SYS_PERM ? TEXT_STORE_PERM : TEXT_STORE_TEMP);
    return false;
}

void session_check_stream(struct session *s)
{
    switch (s->stream.failure) {
    case STREAM_OK:
        break;
    case STREAM_CLOSED:
        session_end(s, END_DISCONNECT);
        break;
    case STREAM_READ_TIMEOUT:
        session_end(s, s->logged_in ? END_IDLE : END_LOGIN_TIMEOUT);
        break;
    case STREAM_WRITE_TIMEOUT:
        session_end(s, END_WRITE_TIMEOUT);
        break;
    case STREAM_TLS_FAILED:
        if (s->end == 0 && s->stream.tls_reason)
            base_copy(s->detail, sizeof s->detail, s->stream.tls_reason);
        session_end(s, END_TLS);
        break;
    case STREAM_CONTROL:
        session_end(s, END_SHUTDOWN);
        break;
    }
}

void session_lost_master(struct session *s, enum channel_outcome outcome, const char *fault)
{
    if (outcome == CHANNEL_BAD)
        snprintf(s->detail, sizeof s->detail, "a record is %s", fault);
    session_end(s, END_SHUTDOWN);
    channel_close(&s->control);
}

/* Until the master speaks or the time to log in is over: an auth process that died between telling
 * the master and telling us leaves nobody to answer. */
static bool await_master(struct session *s)
{
    struct pollfd watched = {.fd = s->control.fd, .events = POLLIN};
    uint64_t deadline = s->stream.deadline ? s->stream.deadline : base_now_ms() + MASTER_WAIT_MS;
    for (;;) {
        uint64_t now = base_now_ms();
        if (now >= deadline) {
            session_end(s, END_LOGIN_TIMEOUT);
            return false;
        }
        if (poll(&watched, 1, (int)(deadline - now)) > 0)
            return true;
    }
}

/* What the master may say at any time; false if the record is something else. */
static bool take_order(struct session *s)
{
    uint32_t told;
    switch (s->record.rule->type) {
    case PROTO_TRACE:
        told = message_get_u32(&s->record);
        s->stream.tracing = told == TRACE_ON;
        s->trace_comes = told == TRACE_LATER;
        return true;
    case PROTO_FINISH:
        s->finishing = message_get_u32(&s->record);
        return true;
    default:
        return false;
    }
}

bool session_hear_answer(struct session *s)
{
    const char *fault = NULL;
    enum channel_outcome outcome;
    do { /* orders may come between */
        if (!await_master(s))
            return false;
        outcome = channel_receive(&s->control, &s->record, true, &fault);
    } while (outcome == CHANNEL_OK && take_order(s));
    if (outcome != CHANNEL_OK)
        session_lost_master(s, outcome, fault);
    return outcome == CHANNEL_OK;
}

bool session_hear_master(struct session *s)
{
    const char *fault = "not what may be said now";
    enum channel_outcome outcome = channel_receive(&s->control, &s->record, false, &fault);
    if (outcome == CHANNEL_AGAIN)
        return true;
    bool good = outcome == CHANNEL_OK && take_order(s);
    if (outcome == CHANNEL_OK)
        message_clear(&s->record);
    if (!good) {
        session_lost_master(s, outcome == CHANNEL_OK ? CHANNEL_BAD : outcome, fault);
        return false;
    }
    if (s->finishing && s->reading)
        session_end(s, s->finishing);
    return s->end == 0;
}

void session_await_trace(struct session *s)
{
    while (s->trace_comes && s->end == 0 && await_master(s))
        session_hear_master(s);
}

void session_trace(struct session *s, const char *command)
{
    char text[700];
    struct message *m = &s->record;
    if (!s->stream.tracing || s->control.fd < 0)
        return;
    snprintf(text, sizeof text, "trace: C: %.512s S: %s", command, s->stream.reply);
    memset(s->stream.reply, 0, sizeof s->stream.reply);
    s->stream.said = 0;
    message_begin(m, PROTO_LOG);
    message_put_u32(m, LOG_INFO);
    message_put_text(m, text);
    channel_send(&s->control, m, false); /* a log that is full misses a line */
    message_clear(m);
}

void session_read_more(struct session *s)
{
    size_t space, got;
    if (stream_flush(&s->stream) == STREAM_OK && !s->finishing) {
        uint64_t idle = s->config->session.idle_timeout * 1000;
        uint64_t deadline = s->logged_in ? base_now_ms() + idle : 0;
        unsigned char *to = line_space(&s->input, &space);
        s->reading = true;
        if (stream_read(&s->stream, to, space, deadline, &got) == STREAM_OK)
            line_added(&s->input, got);
        s->reading = false;
    }
    if (s->finishing)
        session_end(s, s->finishing);
    session_check_stream(s);
}

/* The master makes IPv4-mapped addresses IPv4. */
bool session_is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0 ||
           strcmp(address, "[::1]") == 0 || strncmp(address, "[::1]:", 6) == 0;
}

bool session_has_tls(const struct session *s)
{
    return s->stream.tls || s->proxy_tls;
}

bool session_may_log_in(const struct session *s)
{
    switch (s->config->tls.required) {
    case TLS_REQUIRED_NO:
        return true;
    case TLS_REQUIRED_NOT_ON_LOOPBACK:
        return session_has_tls(s) || (!s->far && session_is_loopback(s->peer));
    default:
        return session_has_tls(s);
    }
}

void session_start_tls(struct session *s)
{
    SSL *tls = tls_available(s->tls) ? tls_session(s->tls, &s->ticket_keys) : NULL;
    if (!tls) {
        session_end(s, END_TLS);
        return;
    }
    if (stream_start_tls(&s->stream, tls) != STREAM_OK) {
        if (s->proxy_tls && s->stream.failure == STREAM_READ_TIMEOUT)
            base_copy(s->detail, sizeof s->detail,
                      "no TLS came: if the proxy ends it, have it speak to pop3");
        session_check_stream(s);
        return;
    }
    base_copy(s->tls_version, sizeof s->tls_version, SSL_get_version(tls));
    base_copy(s->cipher, sizeof s->cipher, SSL_get_cipher_name(tls));
    if (!s->config->tls.client_ca ||
        !client_ca_name(tls, s->config->tls.client_name == 1, s->client_name,
                        sizeof s->client_name) ||
        !line_is_user(s->client_name, strlen(s->client_name)))
        s->client_name[0] = '\0';
}

void session_report(struct session *s)
{
    struct message *m = &s->record;
    if (s->control.fd < 0)
        return;
    message_begin(m, PROTO_SUMMARY);
    message_put_u32(m, s->end);
    message_put_u64(m, s->retrieved);
    message_put_u64(m, s->deleted);
    message_put_u64(m, s->deferred);
    message_put_u64(m, s->stream.octets_in);
    message_put_u64(m, s->stream.octets_out);
    message_put_text(m, s->tls_version);
    message_put_text(m, s->cipher);
    message_put_text(m, s->detail);
    message_put_text(m, s->error && !s->logged_in ? text_get(TEXT_ENGLISH, s->error) : "");
    channel_send(&s->control, m, true);
    s->control.state = STATE_DONE;
}
