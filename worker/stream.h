/*
 * stream.h - the connection to the client: clear or TLS, bounded buffers, a deadline on everything.
 *
 * The socket is nonblocking (the master made it so: a worker could not). While it waits for the
 * client it watches the control channel, on which nothing but its end can come meanwhile.
 */
#ifndef POPLAR_WORKER_STREAM_H
#define POPLAR_WORKER_STREAM_H

#include "worker/tls.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STREAM_BUFFER_SIZE = 32768, /* octets of output gathered before they are sent */
    STREAM_DIGITS_MAX = 20,     /* of a number of 64 bits */
};

enum stream_outcome {
    STREAM_OK = 0,
    STREAM_CLOSED,        /* the client left */
    STREAM_READ_TIMEOUT,  /* it said nothing until the deadline */
    STREAM_WRITE_TIMEOUT, /* it did not take what we sent */
    STREAM_TLS_FAILED,    /* handshake or record failure; see tls_reason */
    STREAM_CONTROL,       /* the master wants the session to end, or is gone */
};

struct stream {
    int fd, control_fd;
    SSL *tls; /* NULL: in the clear */
    const char *tls_reason;
    bool has_read;                  /* OpenSSL, in this attempt, from the socket */
    uint64_t write_timeout;         /* ms that a write may make no progress */
    uint64_t deadline;              /* base_now_ms() by which everything must be over; 0: none */
    uint64_t octets_in, octets_out; /* without what TLS adds */
    enum stream_outcome failure;    /* once it failed, it stays so */
    /* Called when the master speaks while the client is waited for: whether to go on. */
    bool (*on_control)(void *context);
    void *control_context;
    bool tracing;    /* keep the first line of what is put, for the trace */
    size_t said;     /* octets of it so far */
    char reply[128]; /* without line end */
    size_t filled;
    unsigned char out[STREAM_BUFFER_SIZE];
};

/* Begin on a connected nonblocking socket, which the stream owns from now on. */
void stream_open(struct stream *s, int fd, int control_fd, uint64_t write_timeout);

/* Shake hands until s->deadline; the stream owns `tls`. */
enum stream_outcome stream_start_tls(struct stream *s, SSL *tls);

/* Up to `size` octets, at least one on STREAM_OK; waits until `deadline` (or s->deadline). */
enum stream_outcome stream_read(struct stream *s, void *octets, size_t size, uint64_t deadline,
                                size_t *got);

/* Room in the output buffer, at least `least` octets of it; sends what is there when needed. NULL
 * when the stream has failed. Then say how much was filled. */
unsigned char *stream_space(struct stream *s, size_t least, size_t *size);
void stream_added(struct stream *s, size_t size);

/* Append; sent when the buffer is full, or by stream_flush(). Failures show in s->failure. */
void stream_put(struct stream *s, const void *octets, size_t size);
void stream_put_text(struct stream *s, const char *text);
void stream_put_number(struct stream *s, uint64_t number);

/* The digits of a number, for those who put a line together; returns how many. */
size_t stream_digits(uint64_t number, char digits[STREAM_DIGITS_MAX]);

enum stream_outcome stream_flush(struct stream *s);

/* Send what is left unless the stream failed, end TLS, close. */
void stream_close(struct stream *s);

#endif
