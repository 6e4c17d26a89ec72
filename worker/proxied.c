/*
 * proxied.c - from the first octets of a proxy's connection to the client's own address. Runs in a
 * worker, inside its sandbox. The address is the one claim of a worker that counts; the master
 * takes it only where the kernel says that the peer is in proxy_from.
 */
#include "worker/proxied.h"
#include "daemon/base.h"
#include "worker/proxy.h"

#include <string.h>

enum { HEADER_WAIT_MS = 10000 };

static bool read_header(struct session *s, struct proxy_header *header)
{
    unsigned char octets[PROXY_HEADER_MAX];
    const uint64_t deadline = base_now_ms() + HEADER_WAIT_MS;
    size_t size = 0, got, more;
    for (;;) {
        switch (proxy_parse(octets, size, header, &more)) {
        case PROXY_OK:
            return true;
        case PROXY_BAD:
            base_copy(s->detail, sizeof s->detail, "the proxy's header is malformed");
            session_end(s, END_FOREIGN);
            return false;
        case PROXY_MORE:
            if (stream_read(&s->stream, octets + size, more, deadline, &got) != STREAM_OK) {
                /* One that only connects wants to know whether we live. */
                if (size > 0 || s->stream.failure != STREAM_CLOSED)
                    base_copy(s->detail, sizeof s->detail, "no whole header came from the proxy");
                session_check_stream(s);
                return false;
            }
            size += got;
        }
    }
}

/* The master takes the address, or the session ends. */
static void tell_master(struct session *s, const struct proxy_header *header)
{
    struct message *m = &s->record;
    message_begin(m, PROTO_REAL_ADDRESS);
    message_put_text(m, header->source);
    enum channel_outcome sent = channel_send(&s->control, m, true);
    if (sent != CHANNEL_OK) {
        session_lost_master(s, sent, NULL);
        return;
    }
    if (!session_hear_answer(s))
        return;
    if (m->rule->type != PROTO_ADDRESS_TAKEN) {
        session_lost_master(s, CHANNEL_BAD, "not the answer to what was asked");
    } else if (message_get_u32(m) == 0) {
        base_copy(s->detail, sizeof s->detail, "too many sessions from the client's address");
        if (s->door == DOOR_POP3)
            session_error(s, CODE_SYS_TEMP, TEXT_TOO_MANY_SESSIONS);
        session_end(s, END_SHUTDOWN);
    } else if (!message_get_text(m, s->peer, sizeof s->peer)) {
        session_lost_master(s, CHANNEL_BAD, "with a text too long");
    }
    message_clear(m);
}

void proxied_begin(struct session *s)
{
    struct proxy_header header = {0};
    if (!read_header(s, &header))
        return;
    s->proxy_tls = header.tls || s->config->listen.proxy_tls == 1;
    if (s->proxy_tls)
        base_copy(s->tls_version, sizeof s->tls_version, "proxy");
    /* A client on the proxy's loopback is on ours only if the proxy is; one that the proxy cannot
     * name is nowhere. */
    s->far = !header.known || !session_is_loopback(s->peer);
    if (header.known)
        tell_master(s, &header);
}
