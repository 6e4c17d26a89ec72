/*
 * ctl_message.c - poplarctl message add and message list.
 */
#include "store/ctl.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

static ssize_t read_fd(void *context, void *buffer, size_t size)
{
    const int *fd = context;
    ssize_t got;
    do
        got = read(*fd, buffer, size);
    while (got < 0 && errno == EINTR);
    return got;
}

/* The store reads its source while others wait for its lock, so a pipe or a terminal is copied
 * into a file without a name first. */
static int spool(FILE *file, uint64_t max_message)
{
    char buffer[16384];
    int in = STDIN_FILENO, out = fileno(file);
    uint64_t octets = 0;
    ssize_t got;
    while ((got = read_fd(&in, buffer, sizeof buffer)) > 0) {
        octets += (uint64_t)got;
        if (max_message && octets > max_message)
            return ctl_fail(EX_DATAERR,
                            "standard input: larger than [store] max_message=%ju; "
                            "raise it, or use --no-limits",
                            (uintmax_t)max_message);
        if (!ctl_write_all(out, buffer, (size_t)got))
            return ctl_fail(EX_TEMPFAIL, "temporary file: %s", strerror(errno));
    }
    if (got < 0)
        return ctl_fail(EX_NOINPUT, "standard input: %s", strerror(errno));
    if (octets == 0)
        return ctl_fail(EX_DATAERR, "standard input: empty; put the message there");
    return lseek(out, 0, SEEK_SET) == 0 ? 0
                                        : ctl_fail(EX_OSERR, "temporary file: %s", strerror(errno));
}

static int open_input(uint64_t max_message, FILE **spooled, int *fd)
{
    struct stat about;
    *spooled = NULL;
    *fd = STDIN_FILENO;
    if (fstat(*fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0)
        return 0;
    if (isatty(*fd))
        ctl_note("reading the message from the terminal, Ctrl-D ends it");
    *spooled = tmpfile();
    if (!*spooled)
        return ctl_fail(EX_CANTCREAT, "temporary file: %s", strerror(errno));
    *fd = fileno(*spooled);
    return spool(*spooled, max_message);
}

static int deliver(const struct ctl *ctl, int fd, const struct maildrop_delivery *delivery)
{
    struct ctl_maildrop maildrop;
    int64_t id;
    int status = ctl_open_maildrop(ctl, ctl->words[0], true, &maildrop);
    if (status)
        return status;
    enum store_outcome outcome = maildrop_deliver(maildrop.store, delivery, read_fd, &fd, &id);
    if (outcome != STORE_OK)
        status = ctl_open_failed(&maildrop, outcome, "standard input");
    else if (ctl->options & CTL_JSON)
        printf("{\"id\":%jd}\n", (intmax_t)id);
    ctl_open_close(&maildrop);
    return status;
}

int ctl_message_add(struct ctl *ctl)
{
    struct maildrop_delivery delivery = {.utf8_headers = true}; /* a new message: see maildrop.h */
    char name[PROTO_USER_MAX + 1];
    FILE *spooled = NULL;
    int fd;
    if (!(ctl->options & CTL_NO_LIMITS)) {
        delivery.max_message = ctl->config->store.max_message;
        delivery.quota_octets = ctl->config->store.quota_octets;
        delivery.quota_messages = ctl->config->store.quota_messages;
    }
    /* A wrong name should not be told after the message was typed. */
    int status = ctl_open_user(ctl, ctl->words[0], name, NULL);
    if (!status)
        status = open_input(delivery.max_message, &spooled, &fd);
    if (!status)
        status = deliver(ctl, fd, &delivery);
    if (spooled)
        fclose(spooled);
    return status;
}

static void format_time(int64_t seconds, char *text, size_t size)
{
    time_t when = (time_t)seconds;
    struct tm local;
    if (!localtime_r(&when, &local) || strftime(text, size, "%Y-%m-%d %H:%M:%S", &local) == 0)
        base_copy(text, size, "-");
}

static void print_row(const struct ctl *ctl, size_t number, const struct maildrop_message *message)
{
    char when[40];
    if (ctl->options & CTL_JSON) {
        /* One object at a time: a maildrop may hold more messages than memory holds objects. */
        json_t *row = json_pack("{s:I, s:I, s:I, s:I, s:I, s:s}", "number", (json_int_t)number,
                                "id", (json_int_t)message->id, "octets", (json_int_t)message->size,
                                "received", (json_int_t)message->received, "retrieved",
                                (json_int_t)message->retrieved, "uidl", message->uidl);
        fputs(number > 1 ? ",\n" : "\n", stdout);
        json_dumpf(row, stdout, JSON_COMPACT);
        json_decref(row);
        return;
    }
    format_time(message->received, when, sizeof when);
    printf("%7zu  %9jd  %11ju  %-19s  %s\n", number, (intmax_t)message->id,
           (uintmax_t)message->size, when, message->uidl);
}

/* Row by row, so that memory does not grow with the maildrop. */
static enum store_outcome list(const struct ctl *ctl, struct maildrop *store)
{
    struct maildrop_message message = {.id = 0};
    enum store_outcome outcome;
    size_t number = 0;
    uint64_t octets = 0;
    bool json = ctl->options & CTL_JSON;
    if (json)
        putchar('[');
    else
        printf("%7s  %9s  %11s  %-19s  %s\n", "Message", "Id", "Octets", "Received", "UIDL");
    while ((outcome = maildrop_next(store, message.id, &message)) == STORE_OK) {
        if (message.deleted)
            continue;
        octets += message.size;
        print_row(ctl, ++number, &message);
    }
    if (json)
        puts(number ? "\n]" : "]");
    else
        printf("%zu message%s, %ju octets\n", number, number == 1 ? "" : "s", (uintmax_t)octets);
    return outcome == STORE_END ? STORE_OK : outcome;
}

int ctl_message_list(struct ctl *ctl)
{
    struct ctl_maildrop maildrop;
    int status = ctl_open_maildrop(ctl, ctl->words[0], false, &maildrop);
    if (status)
        return status;
    enum store_outcome outcome = list(ctl, maildrop.store);
    if (outcome != STORE_OK)
        status = ctl_open_failed(&maildrop, outcome, "list");
    ctl_open_close(&maildrop);
    return status;
}
