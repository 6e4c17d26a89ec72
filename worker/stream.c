/*
 * stream.c - reads from and writes to the client. Runs in a worker, inside its sandbox: read,
 * write, poll and close are all it needs of the system. Never waits without an end.
 */
#include "worker/stream.h"
#include "daemon/base.h"

#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum {
    WAIT_FOREVER_MS = 3600000, /* no deadline: look again after an hour */
    DRAIN_SIZE = 65536         /* octets taken before a close, see drain() */
};

void stream_open(struct stream *s, int fd, int control_fd, uint64_t write_timeout)
{
    s->fd = fd;
    s->control_fd = control_fd;
    s->write_timeout = write_timeout;
    s->tls = NULL;
    s->failure = STREAM_OK;
}

static enum stream_outcome fail(struct stream *s, enum stream_outcome failure)
{
    if (s->failure == STREAM_OK)
        s->failure = failure;
    return s->failure;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* Until the socket is ready for `events`, or `deadline` (0: none). Without events nobody waits: the
 * clock and the master have their say. */
static enum stream_outcome wait_for(struct stream *s, short events, uint64_t deadline,
                                    enum stream_outcome late)
{
    struct pollfd watched[] = {{.fd = s->fd, .events = events},
                               {.fd = s->control_fd, .events = POLLIN}};
    deadline = earlier(deadline, s->deadline);
    for (;;) {
        uint64_t now = base_now_ms();
        if (deadline != 0 && now >= deadline)
            return fail(s, late);
        uint64_t left = deadline == 0 ? WAIT_FOREVER_MS : deadline - now;
        int most = events == 0 ? 0 : left > WAIT_FOREVER_MS ? WAIT_FOREVER_MS : (int)left;
        int ready = poll(watched, 2, most);
        if (ready < 0 && errno != EINTR)
            return fail(s, STREAM_CLOSED);
        if (ready > 0 && watched[1].revents &&
            !(s->on_control && s->on_control(s->control_context)))
            return fail(s, STREAM_CONTROL);
        if (events == 0 || (ready > 0 && watched[0].revents))
            return STREAM_OK;
    }
}

/* What to do after an SSL call that did not go through: the events to wait for, or 0 when the
 * stream has failed. */
static short tls_wants(struct stream *s, int result)
{
    switch (SSL_get_error(s->tls, result)) {
    case SSL_ERROR_WANT_READ:
        return POLLIN;
    case SSL_ERROR_WANT_WRITE:
        return POLLOUT;
    case SSL_ERROR_SSL:
        /* The first of the errors: that no alert could be sent then may follow. */
        if (ERR_GET_REASON(ERR_peek_error()) != SSL_R_UNEXPECTED_EOF_WHILE_READING) {
            s->tls_reason = tls_error();
            fail(s, STREAM_TLS_FAILED);
            return 0;
        }
        ERR_clear_error();
        /* fall through */
    default:
        fail(s, STREAM_CLOSED);
        return 0;
    }
}

/* OpenSSL reads on by itself after records that say nothing to us (changes of keys, refused
 * renegotiations), for as long as there are any. So that a client which sends nothing else meets
 * its deadline, and the master is heard, each attempt has the socket once. */
static long read_once(BIO *socket, int operation, const char *octets, size_t size, int number,
                      long more, int result, size_t *done)
{
    struct stream *s = (struct stream *)BIO_get_callback_arg(socket);
    (void)octets;
    (void)size;
    (void)number;
    (void)more;
    (void)done;
    if (operation != BIO_CB_READ)
        return result;
    BIO_clear_retry_flags(socket);
    if (!s->has_read) {
        s->has_read = true;
        return result;
    }
    BIO_set_retry_read(socket);
    return -1;
}

enum stream_outcome stream_start_tls(struct stream *s, SSL *tls)
{
    s->tls = tls;
    /* Not SSL_set_fd(): where OpenSSL was built for TLS in the kernel, that asks for it by
     * setsockopt(), whether it is wanted or not, and the sandbox ends who does. */
    BIO *socket = BIO_new(BIO_s_socket());
    if (!socket)
        return fail(s, STREAM_TLS_FAILED);
    BIO_set_fd(socket, s->fd, BIO_NOCLOSE);
    BIO_set_callback_ex(socket, read_once);
    BIO_set_callback_arg(socket, (char *)s);
    SSL_set_bio(tls, socket, socket);
    for (;;) {
        ERR_clear_error();
        s->has_read = false;
        int result = SSL_do_handshake(tls);
        if (result == 1)
            return STREAM_OK;
        short events = tls_wants(s, result);
        if (events == 0 || wait_for(s, events, 0, STREAM_READ_TIMEOUT) != STREAM_OK)
            return s->failure;
    }
}

/* One attempt in a direction, POLLIN or POLLOUT: how many octets went, or 0 and the events to wait
 * for, or 0 and 0 when the stream failed. */
static size_t attempt(struct stream *s, short direction, void *octets, size_t size, short *events)
{
    bool in = direction == POLLIN;
    size_t went = 0;
    *events = 0;
    if (s->tls) {
        ERR_clear_error();
        s->has_read = false;
        int result = in ? SSL_read_ex(s->tls, octets, size, &went)
                        : SSL_write_ex(s->tls, octets, size, &went);
        if (result != 1)
            *events = tls_wants(s, result);
        return result == 1 ? went : 0;
    }
    ssize_t result = in ? read(s->fd, octets, size) : write(s->fd, octets, size);
    if (result > 0)
        return (size_t)result;
    if (result < 0 && (errno == EAGAIN || errno == EINTR))
        *events = direction;
    else
        fail(s, STREAM_CLOSED);
    return 0;
}

enum stream_outcome stream_read(struct stream *s, void *octets, size_t size, uint64_t deadline,
                                size_t *got)
{
    /* Most often nothing is there yet: ask first, unless TLS already holds it. */
    short events = s->tls && SSL_has_pending(s->tls) ? 0 : POLLIN;
    while (s->failure == STREAM_OK) {
        if (wait_for(s, events, deadline, STREAM_READ_TIMEOUT) != STREAM_OK)
            break;
        *got = attempt(s, POLLIN, octets, size, &events);
        if (*got > 0) {
            s->octets_in += *got;
            return STREAM_OK;
        }
    }
    return s->failure;
}

enum stream_outcome stream_flush(struct stream *s)
{
    size_t sent = 0;
    while (sent < s->filled && s->failure == STREAM_OK) {
        short events;
        size_t done = attempt(s, POLLOUT, s->out + sent, s->filled - sent, &events);
        if (done == 0 && s->failure == STREAM_OK)
            wait_for(s, events, base_now_ms() + s->write_timeout, STREAM_WRITE_TIMEOUT);
        sent += done;
    }
    s->octets_out += sent;
    s->filled = 0;
    return s->failure;
}

unsigned char *stream_space(struct stream *s, size_t least, size_t *size)
{
    if (sizeof s->out - s->filled < least)
        stream_flush(s);
    if (s->failure != STREAM_OK)
        return NULL;
    *size = sizeof s->out - s->filled;
    return s->out + s->filled;
}

void stream_added(struct stream *s, size_t size)
{
    s->filled += size;
}

static void overhear(struct stream *s, const char *octets, size_t size)
{
    for (size_t i = 0; i < size && s->said < sizeof s->reply - 1; i++) {
        if (octets[i] == '\r')
            s->said = sizeof s->reply - 1; /* the line is whole */
        else
            s->reply[s->said++] = octets[i];
    }
}

void stream_put(struct stream *s, const void *octets, size_t size)
{
    const unsigned char *from = octets;
    if (s->tracing)
        overhear(s, octets, size);
    while (size > 0) {
        size_t space;
        unsigned char *to = stream_space(s, 1, &space);
        if (!to)
            return;
        size_t taken = size < space ? size : space;
        memcpy(to, from, taken);
        stream_added(s, taken);
        from += taken;
        size -= taken;
    }
}

void stream_put_text(struct stream *s, const char *text)
{
    stream_put(s, text, strlen(text));
}

size_t stream_digits(uint64_t number, char digits[STREAM_DIGITS_MAX])
{
    size_t n = 1;
    for (uint64_t next = 10; n < STREAM_DIGITS_MAX && number >= next; next *= 10)
        n++;
    for (size_t at = n; at > 0; number /= 10)
        digits[--at] = (char)('0' + number % 10);
    return n;
}

void stream_put_number(struct stream *s, uint64_t number)
{
    char digits[STREAM_DIGITS_MAX] = ""; /* gcc -fanalyzer does not see them written */
    stream_put(s, digits, stream_digits(number, digits));
}

/* Closing a socket on which input waits sends a reset, and a reset can overtake our last reply:
 * take what is there first. */
static void drain(struct stream *s)
{
    unsigned char octets[4096];
    size_t taken = 0;
    ssize_t got;
    do {
        got = read(s->fd, octets, sizeof octets);
        taken += got > 0 ? (size_t)got : 0;
    } while (got > 0 && taken < DRAIN_SIZE);
    explicit_bzero(octets, sizeof octets);
}

void stream_close(struct stream *s)
{
    if (s->fd < 0)
        return;
    stream_flush(s);
    bool open = s->failure != STREAM_TLS_FAILED && s->failure != STREAM_CLOSED;
    if (s->tls && (open || SSL_get_shutdown(s->tls) & SSL_RECEIVED_SHUTDOWN)) {
        ERR_clear_error();
        SSL_shutdown(s->tls); /* our close_notify; nobody waits for theirs (RFC 8446 6.1) */
    }
    if (s->tls) /* else the library is not even looked at */
        SSL_free(s->tls);
    s->tls = NULL;
    drain(s);
    base_close(s->fd);
    s->fd = -1;
}
