/*
 * spool.c - see spool.h. Runs in a worker, inside its sandbox: pread, pwrite and ftruncate on
 * PROTO_FD_SPOOL are all it needs of the system. The file is nobody else's and has no name, so
 * nothing of a message stays behind, however the worker ends.
 */
#include "worker/spool.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void spool_open(struct spool *spool, int fd, unsigned char *buffer)
{
    *spool = (struct spool){.fd = fd, .buffer = buffer};
}

/* Others need the room: who has failed may not go on with its message for a long time. */
static void give_back(struct spool *spool)
{
    if (ftruncate(spool->fd, 0) < 0) {
        /* Then it stays taken until the worker ends; the next message overwrites it. */
    }
    spool->written = 0;
}

static void write_out(struct spool *spool)
{
    size_t done = 0;
    while (done < spool->filled && spool->error == 0) {
        ssize_t got = pwrite(spool->fd, spool->buffer + done, spool->filled - done,
                             (off_t)(spool->written + done));
        if (got > 0)
            done += (size_t)got;
        else if (got == 0 || errno != EINTR)
            spool->error = got < 0 ? errno : EIO;
    }
    spool->written += done;
    spool->filled = 0;
    if (spool->error != 0)
        give_back(spool);
}

void spool_add(struct spool *spool, const void *octets, size_t size)
{
    const unsigned char *from = octets;
    while (size > 0 && spool->error == 0) {
        size_t room = SPOOL_BUFFER_SIZE - spool->filled;
        size_t taken = size < room ? size : room;
        memcpy(spool->buffer + spool->filled, from, taken);
        spool->filled += taken;
        from += taken;
        size -= taken;
        if (spool->filled == SPOOL_BUFFER_SIZE)
            write_out(spool);
    }
}

uint64_t spool_size(const struct spool *spool)
{
    return spool->written + spool->filled;
}

ssize_t spool_read(const struct spool *spool, uint64_t offset, void *octets, size_t size)
{
    if (offset < spool->written) {
        uint64_t left = spool->written - offset;
        ssize_t got;
        do
            got = pread(spool->fd, octets, size < left ? size : (size_t)left, (off_t)offset);
        while (got < 0 && errno == EINTR);
        return got == 0 ? -1 : got; /* what was written is gone: no message ends so */
    }
    uint64_t at = offset - spool->written;
    if (at >= spool->filled)
        return 0;
    size_t left = spool->filled - (size_t)at;
    size = size < left ? size : left;
    memcpy(octets, spool->buffer + at, size);
    return (ssize_t)size;
}

void spool_clear(struct spool *spool)
{
    if (spool->written > 0)
        give_back(spool);
    spool_open(spool, spool->fd, spool->buffer);
}
