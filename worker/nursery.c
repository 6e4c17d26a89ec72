/*
 * nursery.c - set-up and the loop of the nursery. Starts with the master's privilege, confines
 * itself before it is ready, and then does nothing but fork on order. Must never read from a
 * client, nor keep a descriptor of one.
 */
#include "worker/nursery.h"
#include "daemon/child.h"
#include "store/maildrop.h"
#include "worker/confine.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <sysexits.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

_Noreturn static void give_up(struct child *child, int status, const char *error)
{
    child_log(&child->control, LOG_ERR, "%s", error);
    exit(status);
}

/* Descriptors 0 to 2 must be taken, or a client would get one of these numbers. */
static void fill_standard(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    base_close(fd);
}

/* Workers have no signal handlers and no use for signals. */
static void settle_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* Everything that would be loaded on first use, and could not be any more then. */
static void warm_up(struct child *child)
{
    setlocale(LC_ALL, "C");
    tzset();
    enum store_outcome outcome = maildrop_library_init(true);
    if (outcome != STORE_OK) {
        child_log(&child->control, LOG_ERR, "SQLite cannot be used: %s",
                  maildrop_outcome_name(outcome));
        exit(EX_SOFTWARE);
    }
    /* The spool of a delivery moves its grant up. */
    outcome = maildrop_library_warm(maildrop_template, maildrop_template_size, MAILDROP_SESSIONS,
                                    (int)PROTO_FD_GRANT + MAILDROP_DB);
    if (outcome == STORE_OK)
        outcome = maildrop_library_warm(maildrop_template, maildrop_template_size,
                                        MAILDROP_DELIVERIES, PROTO_FD_GRANT + 1 + MAILDROP_DB);
    if (outcome != STORE_OK)
        child_log(&child->control, LOG_WARNING, "maildrops are opened slowly: %s",
                  maildrop_outcome_name(outcome));
    maildrop_library_forget(); /* here once: no worker writes to the page that it is on for that */
}

static void set_up_tls(struct child *child, struct tls *tls)
{
    char text[512];
    struct message m;
    if (!tls_complete(tls, child->config, text, sizeof text))
        give_up(child, EX_CONFIG, text);
    for (size_t n = 0; n < tls_count(tls); n++) {
        if (tls_is_untimely(tls, n, text, sizeof text))
            child_log(&child->control, LOG_WARNING, "%s", text);
        if (tls_is_exposed(tls, n, text, sizeof text))
            child_log(&child->control, LOG_WARNING, "%s", text);
        message_begin(&m, PROTO_EXPIRES);
        message_put_u32(&m, (uint32_t)n);
        message_put_u64(&m, tls_expires(tls, n));
        enum channel_outcome sent = channel_send(&child->control, &m, true);
        if (sent != CHANNEL_OK)
            child_lost_master(sent, NULL);
    }
}

static void confine(struct child *child)
{
    char missing[256], error[512];
    errno = 0;
    if (!confine_process(child->config, missing, sizeof missing, error, sizeof error))
        give_up(child, base_status(errno, EX_CONFIG), error);
    if (*missing)
        child_log(&child->control, LOG_WARNING, "workers run without: %s", missing);
}

/* `m` is for an answer. A record of our own here would put the worker's stack ten pages further
 * down. */
static void make_worker(struct child *child, const struct heritage *heritage, int control_fd,
                        struct message *m)
{
    pid_t pid = filter_fork();
    if (pid == 0)
        worker_live(heritage, control_fd);
    int why = errno;
    base_close(control_fd);
    if (pid > 0)
        return;
    message_begin(m, PROTO_FORK_FAILED);
    message_put_u32(m, (uint32_t)why);
    channel_send(&child->control, m, true);
}

static void serve(struct child *child, const struct heritage *heritage)
{
    static struct message m;
    for (;;) {
        const char *fault = NULL;
        enum channel_outcome outcome = channel_receive(&child->control, &m, true, &fault);
        if (outcome == CHANNEL_END)
            _exit(PROTO_EXIT_DONE); /* nothing is to be tidied, and little of that allowed */
        if (outcome != CHANNEL_OK)
            child_lost_master(outcome, fault);
        if (m.rule->type == PROTO_FORK) {
            make_worker(child, heritage, message_take_fd(&m), &m);
        } else if (m.rule->type == PROTO_PING) {
            message_begin(&m, PROTO_PONG);
            channel_send(&child->control, &m, true);
        }
        message_clear(&m);
    }
}

/* What a worker allocates is then together at the end, in pages that nobody had before, not spread
 * over holes in pages that the kernel has to copy for each. Where malloc() is none that fills holes
 * first, it is asked for so much and no more. */
static void fill_holes(void)
{
    enum { LARGEST = 65536, EXACT = 1024, STEP = 16, ENOUGH = 1 << 20 };
    static void *kept; /* of what was taken, the last: each holds the one before it */
    void **taken = malloc(LARGEST);
    const uintptr_t end = (uintptr_t)taken;
    size_t left = ENOUGH;
    free(taken);
    for (size_t size = LARGEST; size >= STEP; size = size > EXACT ? size / 2 : size - STEP) {
        while ((taken = malloc(size)) != NULL && (uintptr_t)taken < end && left >= size) {
            *taken = kept;
            kept = taken;
            left -= size;
        }
        free(taken);
    }
}

void nursery_live(void)
{
    struct child child;
    char error[512];
    struct heritage heritage = {.tls = tls_new(), .master = getppid()};

    fill_standard();
    settle_signals();
    child_begin(&child, ROLE_NURSERY, tls_add, heritage.tls);
    heritage.config = child.config;
    set_up_tls(&child, heritage.tls);
    warm_up(&child);
    struct filter *filter = filter_compile(child.config->workers.seccomp == 1, error, sizeof error);
    if (!filter)
        give_up(&child, EX_SOFTWARE, error);
    heritage.filter = filter;
    confine(&child);
    malloc_trim(0); /* a fork copies what is mapped, free or not */
    fill_holes();
    if (!filter_load_nursery(filter))
        give_up(&child, EX_OSERR, "the kernel takes no seccomp filter");
    child_ready(&child);
    serve(&child, &heritage);
    abort(); /* not reached: serve() ends the process */
}
