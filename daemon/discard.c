/*
 * discard.c - descriptors whose last close may not return for as long as somebody outside likes.
 *
 * Runs in the master, as root. A local client can put a descriptor into what it sends, a TCP socket
 * that lingers over data which nobody takes, and nothing else that holds it is left. Who closes our
 * end of the connection unread, or reads that message, then closes that one, and waits. Only a
 * process that ends waits for none: so they are closed by the end of a child that does nothing
 * else.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
    AT_ONCE = 256, /* descriptors to a child */
    BATCH_MS = 20, /* in which others may come along */
    AGAIN_MS = 1000
};

/* The child holds all of them until we no longer do. */
static bool close_by_end(const int *fds, size_t n)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[1]);
        (void)!read(ends[0], &(char){0}, 1); /* nobody writes: it ends with our own end */
        _exit(0);
    }
    for (size_t i = 0; pid > 0 && i < n; i++)
        base_close(fds[i]);
    base_close(ends[0]);
    base_close(ends[1]);
    return pid > 0;
}

void discard_now(int fd)
{
    if (!close_by_end(&fd, 1))
        base_close(fd);
}

static int on_due(sd_event_source *source, uint64_t usec, void *context)
{
    struct master *m = context;
    struct discarded *d = &m->discarded;
    (void)source;
    (void)usec;
    if (close_by_end(d->fds, d->n)) {
        d->n = 0;
        return 0;
    }
    log_line(LOG_ERR, LOG_EVENT_SHORT, NULL, "%zu connection%s cannot be closed yet: %s", d->n,
             base_plural(d->n), strerror(errno));
    loop_timer(m, &d->timer, base_now_ms() + AGAIN_MS, on_due, m);
    return 0;
}

void discard(struct master *m, int fd)
{
    struct discarded *d = &m->discarded;
    d->fds = base_grow(d->fds, d->n, sizeof *d->fds);
    d->fds[d->n++] = fd;
    if (d->n == 1)
        loop_timer(m, &d->timer, base_now_ms() + BATCH_MS, on_due, m);
    else if (d->n % AT_ONCE == 0)
        on_due(d->timer, 0, m);
}
