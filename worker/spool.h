/*
 * spool.h - one message on its way in, until it is delivered: in memory while it is small, else in
 * a file that auth made. Memory does not grow with the message.
 */
#ifndef POPLAR_WORKER_SPOOL_H
#define POPLAR_WORKER_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { SPOOL_BUFFER_SIZE = 65536 };

struct spool {
    int fd;
    uint64_t written; /* octets in the file; those after them are in the buffer */
    size_t filled;
    int error;             /* errno; once it failed, it stays so until it is cleared */
    unsigned char *buffer; /* SPOOL_BUFFER_SIZE octets */
};

/* Begin on a file that is the caller's, as the buffer is. */
void spool_open(struct spool *spool, int fd, unsigned char *buffer);

/* Append. What does not fit is lost, with all before it, and spool->error says why. */
void spool_add(struct spool *spool, const void *octets, size_t size);

uint64_t spool_size(const struct spool *spool);

/* Up to `size` octets from `offset` on: 0 at the end, -1 when the file cannot be read. */
ssize_t spool_read(const struct spool *spool, uint64_t offset, void *octets, size_t size);

/* Forget the message and give its room back. */
void spool_clear(struct spool *spool);

#endif
