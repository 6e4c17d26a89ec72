/*
 * spools.c - spool files for mail on its way in, opened ahead by a thread of their own.
 *
 * Runs in the master, as root: the one thing that it does on the disk of the maildrops while it
 * serves. That disk may hang, or be frozen for a snapshot, and only this thread with it: mail is
 * then put off, and clients are served for as long as they want nothing of the disk.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    AHEAD = 8,     /* files that lie ready */
    PATIENCE = 200 /* milliseconds in which the next one is there, or the disk hangs */
};

struct spools {
    pthread_t thread;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t wanted, told;
    char *dir; /* state_dir, which a reload may change */
    int ready[AHEAD];
    unsigned n;
    int error;      /* of the last one, until somebody asks again */
    uint64_t began; /* when the one under way did, base_now_ms(); 0: none is */
    bool ends;
};

/* With the lock held but for the opening itself. */
static void make_one(struct spools *s)
{
    char *dir = base_strdup(s->dir);
    s->began = base_now_ms();
    pthread_mutex_unlock(&s->lock);
    int fd = delivery_spool(dir), error = errno;
    pthread_mutex_lock(&s->lock);
    s->began = 0;
    if (strcmp(dir, s->dir) != 0 || s->ends)
        base_close(fd);
    else if (fd >= 0)
        s->ready[s->n++] = fd;
    else
        s->error = error;
    free(dir);
    pthread_cond_signal(&s->told);
}

static void *work(void *context)
{
    struct spools *s = context;
    pthread_mutex_lock(&s->lock);
    while (!s->ends)
        if (s->n < AHEAD && !s->error)
            make_one(s);
        else
            pthread_cond_wait(&s->wanted, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void throw_away(struct spools *s)
{
    while (s->n > 0)
        base_close(s->ready[--s->n]);
}

/* NULL and errno. It has no signal but those that nobody blocks. */
static struct spools *begin(void)
{
    struct spools *s = base_alloc(sizeof *s);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wanted, &monotonic);
    pthread_cond_init(&s->told, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->dir = base_strdup("");
    s->error = ENOENT; /* nobody has said where yet */
    int error = pthread_create(&s->thread, NULL, work, s);
    if (error == 0)
        return s;
    free(s->dir);
    free(s);
    errno = error;
    return NULL;
}

static void wait_for_one(struct spools *s)
{
    uint64_t now = base_now_ms(), until = (s->began ? s->began : now) + PATIENCE;
    const struct timespec at = {.tv_sec = (time_t)(until / 1000),
                                .tv_nsec = (long)(until % 1000) * 1000000};
    while (s->n == 0 && !s->error && now < until) {
        pthread_cond_timedwait(&s->told, &s->lock, &at);
        now = base_now_ms();
    }
}

int spools_take(struct master *m)
{
    struct spools *s = m->spools = m->spools ? m->spools : begin();
    const char *dir = m->config->server.state_dir;
    int fd = -1;
    if (!s)
        return -1;
    pthread_mutex_lock(&s->lock);
    if (strcmp(s->dir, dir) != 0) {
        throw_away(s);
        free(s->dir);
        s->dir = base_strdup(dir);
    }
    if (s->n == 0) {
        s->error = 0;
        pthread_cond_signal(&s->wanted);
        wait_for_one(s);
    }
    if (s->n > 0)
        fd = s->ready[--s->n];
    int error = s->error ? s->error : ETIMEDOUT;
    pthread_cond_signal(&s->wanted);
    pthread_mutex_unlock(&s->lock);
    errno = error;
    return fd;
}

void spools_end(struct master *m)
{
    struct spools *s = m->spools;
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->ends = true;
    throw_away(s);
    bool hangs = s->began != 0;
    pthread_cond_signal(&s->wanted);
    pthread_mutex_unlock(&s->lock);
    m->spools = NULL;
    if (hangs) /* it ends with us, and when it can */
        return;
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->wanted);
    pthread_cond_destroy(&s->told);
    pthread_mutex_destroy(&s->lock);
    free(s->dir);
    free(s);
}
