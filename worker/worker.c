/*
 * worker.c - one worker from fork to exit. Starts as the nursery left it (own user, no capability,
 * no file system), loads its filter before it reads its first octet from anybody, serves one
 * client, and ends. Must never return into the nursery's code.
 */
#include "worker/worker.h"
#include "daemon/privileges.h"
#include "worker/confine.h"
#include "worker/lmtp.h"
#include "worker/pop3.h"

#include <string.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

/* The nursery has never touched it: most of a session is buffers, and pages of them that it does
 * not use are never there. From malloc they might be the nursery's, copied and cleared. */
static struct session *make_session(void)
{
    static _Alignas(4096) struct session session;
    session.input.start = 0; /* a page that is read first is made twice */
    return &session;
}

static void report_ready(struct session *s)
{
    message_begin(&s->record, PROTO_READY);
    message_put_u64(&s->record, proto_fingerprint());
    if (channel_send(&s->control, &s->record, true) != CHANNEL_OK)
        _exit(PROTO_EXIT_DONE);
    s->control.state = STATE_IDLE;
}

/* Previous keys may be missing: the master has only just begun. */
static void take_ticket_key(struct session *s)
{
    size_t size;
    const unsigned char *octets = message_get_octets(&s->record, &size);
    if (size == PROTO_TICKET_KEY_SIZE)
        memcpy(s->ticket_keys.octets[s->ticket_keys.n++], octets, size);
}

static bool hear_master(void *session)
{
    return session_hear_master(session);
}

/* The socket of a local client is ours alone before it is served. */
static bool is_handed_over(struct session *s)
{
    enum channel_outcome outcome = channel_receive(&s->control, &s->record, true, NULL);
    if (outcome == CHANNEL_OK && s->record.rule->type == PROTO_HANDED_OVER) {
        message_clear(&s->record);
        return true;
    }
    if (outcome != CHANNEL_END)
        _exit(PROTO_EXIT_CONTRACT);
    return false;
}

/* Wait for a client; false when none will come. */
static bool take_client(struct session *s)
{
    struct message *m = &s->record;
    const char *fault = NULL;
    enum channel_outcome outcome = channel_receive(&s->control, m, true, &fault);
    if (outcome == CHANNEL_BAD || outcome == CHANNEL_ERROR)
        _exit(PROTO_EXIT_CONTRACT);
    if (outcome != CHANNEL_OK)
        return false;
    s->number = message_get_u64(m);
    s->door = message_get_u32(m);
    if (!message_get_text(m, s->peer, sizeof s->peer))
        _exit(PROTO_EXIT_CONTRACT);
    take_ticket_key(s);
    take_ticket_key(s);
    s->proxied = message_get_u32(m) != 0;
    stream_open(&s->stream, message_take_fd(m), s->control.fd,
                s->config->session.idle_timeout * 1000);
    message_clear(m);
    s->stream.on_control = hear_master;
    s->stream.control_context = s;
    s->control.state = s->door == DOOR_LMTP ? STATE_DELIVERY : STATE_CLIENT;
    return s->door != DOOR_LMTP || is_handed_over(s);
}

/* What a worker that was taken over wrote there would look like ours, and have no limit. Last words
 * are for who looks for a defect. */
static bool silence(const struct config *config)
{
    return config->server.log_level == LOG_DEBUG || dup2(STDIN_FILENO, STDERR_FILENO) >= 0;
}

void worker_live(const struct heritage *heritage, int control_fd)
{
    maildrop_library_rehearse();
    if (dup2(control_fd, PROTO_FD_CONTROL) < 0 || close_range(PROTO_FD_CLIENT, ~0U, 0) < 0)
        _exit(EX_OSERR);
    privileges_die_with(heritage->master);
    struct session *s = make_session();
    s->config = heritage->config;
    s->tls = heritage->tls;
    s->last = true;
    channel_open(&s->control, PROTO_FD_CONTROL, ROLE_WORKER, ROLE_MASTER, STATE_STARTING);
    if (!silence(s->config) || !confine_worker() || !filter_load_worker(heritage->filter))
        _exit(EX_OSERR);

    report_ready(s);
    if (take_client(s)) {
        if (s->door == DOOR_LMTP)
            lmtp_serve(s);
        else
            pop3_serve(s);
        session_report(s);
    }
    _exit(PROTO_EXIT_DONE);
}
