/*
 * ctl_message.c - poplarctl message add, list, show, delete and restore.
 */
#include "store/ctl_copy.h"
#include "store/ctl_json.h"
#include "store/manage.h"

#include <errno.h>
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
    return ctl_read(*fd, buffer, size);
}

/* The store reads its source while others wait for its lock, so a pipe or a terminal is copied
 * into a file without a name first. */
static int spool(FILE *file, uint64_t max_message)
{
    char buffer[16384];
    int out = fileno(file);
    uint64_t octets = 0;
    ssize_t got;
    while ((got = ctl_read(STDIN_FILENO, buffer, sizeof buffer)) > 0) {
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
    if (fstat(*fd, &about) == 0 && S_ISREG(about.st_mode) &&
        lseek(*fd, 0, SEEK_CUR) < about.st_size) /* else somebody has read it, and it is spooled */
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
    int status = ctl_open_maildrop(ctl, ctl->words[0], CTL_OPEN_CREATE, &maildrop);
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
    delivery.no_limits = ctl->options & CTL_NO_LIMITS;
    if (!delivery.no_limits) {
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
    if (localtime_r(&when, &local))
        strftime(text, size, "%Y-%m-%d %H:%M:%S", &local);
    else
        base_copy(text, size, "-");
}

static json_t *make_object(const struct maildrop_message *message)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "id", (json_int_t)message->id, "octets",
                     (json_int_t)message->size, "header_octets", (json_int_t)message->header_size,
                     "received", (json_int_t)message->received, "retrieved",
                     (json_int_t)message->retrieved, "deleted", (json_int_t)message->deleted,
                     "uidl", message->uidl);
}

/* Of a deleted message the time that matters is that of the deletion. */
static void print_row(const struct ctl *ctl, size_t number, const struct maildrop_message *message)
{
    char when[40];
    if (ctl->options & CTL_JSON) {
        /* One object at a time: a maildrop may hold more messages than memory holds objects. */
        json_t *row = make_object(message);
        if (!message->deleted)
            json_object_set_new(row, "number", json_integer((json_int_t)number));
        ctl_json_print(row, true);
        return;
    }
    format_time(message->deleted ? message->deleted : message->received, when, sizeof when);
    printf("%7zu  %9jd  %11ju  %-19s  %s\n", number, (intmax_t)message->id,
           (uintmax_t)message->size, when, message->uidl);
}

/* Row by row, so that memory does not grow with the maildrop. */
static enum store_outcome list(const struct ctl *ctl, struct maildrop *store, int *printed)
{
    struct maildrop_message message = {.id = 0};
    enum store_outcome outcome;
    size_t number = 0;
    uint64_t octets = 0;
    bool json = ctl->options & CTL_JSON, deleted = ctl->options & CTL_DELETED;
    if (!json)
        printf("%7s  %9s  %11s  %-19s  %s\n", "Message", "Id", "Octets",
               deleted ? "Deleted" : "Received", "UIDL");
    ctl_json_begin(ctl);
    while ((outcome = maildrop_next(store, message.id, &message)) == STORE_OK) {
        if ((message.deleted != 0) != deleted)
            continue;
        octets += message.size;
        print_row(ctl, ++number, &message);
    }
    *printed = ctl_json_end(ctl);
    if (!json)
        printf("%zu message%s, %ju octet%s\n", number, base_plural(number), (uintmax_t)octets,
               base_plural(octets));
    return outcome == STORE_END ? STORE_OK : outcome;
}

int ctl_message_list(struct ctl *ctl)
{
    struct ctl_maildrop maildrop;
    int status = ctl_open_maildrop(ctl, ctl->words[0], 0, &maildrop);
    if (status)
        return status;
    enum store_outcome outcome = list(ctl, maildrop.store, &status);
    if (outcome != STORE_OK)
        status = ctl_open_failed(&maildrop, outcome, "list");
    ctl_open_close(&maildrop);
    return status;
}

/* A word as a message's id. */
static bool parse_id(const char *word, int64_t *id)
{
    char *end;
    errno = 0;
    *id = strtoll(word, &end, 10);
    return !errno && *end == '\0' && *id > 0 && word[0] != '+';
}

static int bad_id(const char *word)
{
    return ctl_fail(EX_USAGE, "%s: no id; message list shows them", word);
}

int ctl_message_show(struct ctl *ctl)
{
    struct ctl_maildrop maildrop;
    struct maildrop_message message;
    int64_t id;
    int error = 0;
    if (!parse_id(ctl->words[1], &id))
        return bad_id(ctl->words[1]);
    int status = ctl_open_maildrop(ctl, ctl->words[0], 0, &maildrop);
    if (status)
        return status;
    const struct ctl_copy copy = {
        .read = ctl_copy_maildrop, .from = maildrop.store, .crlf = ctl->options & CTL_CRLF};
    enum store_outcome outcome = maildrop_next(maildrop.store, id - 1, &message);
    if (outcome == STORE_END || (outcome == STORE_OK && message.id != id))
        status = ctl_fail(EX_NOINPUT, "%s: no message %jd; list the messages again", maildrop.name,
                          (intmax_t)id);
    else if (outcome == STORE_OK && ctl->options & CTL_JSON)
        status = ctl_json_print(make_object(&message), false);
    else if (outcome == STORE_OK)
        outcome = ctl_copy_message(&copy, id, STDOUT_FILENO, &error);
    if (!status && outcome != STORE_OK)
        status = ctl_open_failed(&maildrop, outcome, "show");
    else if (error)
        status = ctl_fail(EX_IOERR, "standard output: %s", strerror(error));
    ctl_open_close(&maildrop);
    return status;
}

static int compare_ids(const void *a, const void *b)
{
    const int64_t *one = a, *other = b;
    return (*one > *other) - (*one < *other);
}

/* The ids of the command line, all of them or none, each once; the caller frees. */
static int parse_ids(const struct ctl *ctl, int64_t **ids, size_t *n)
{
    *n = ctl->n_words - 1;
    *ids = base_alloc(*n * sizeof **ids);
    for (size_t i = 0; i < *n; i++)
        if (!parse_id(ctl->words[i + 1], &(*ids)[i]))
            return bad_id(ctl->words[i + 1]);
    qsort(*ids, *n, sizeof **ids, compare_ids);
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++)
        if (kept == 0 || (*ids)[i] != (*ids)[kept - 1])
            (*ids)[kept++] = (*ids)[i];
    *n = kept;
    return 0;
}

/* What was restored, and goes again at the next login. */
static void look_at_restored(const struct ctl *ctl, const struct ctl_maildrop *maildrop,
                             const int64_t *ids, size_t n)
{
    struct maildrop_message message;
    uint64_t overdue = 0;
    for (size_t i = 0; i < n; i++)
        if (maildrop_next(maildrop->store, ids[i] - 1, &message) == STORE_OK)
            overdue += ctl_is_overdue(ctl, message.received);
    ctl_note_overdue(maildrop->name, overdue);
}

/* Delete or restore: what a client sees changes, so no session may be there. */
static int change(const struct ctl *ctl, bool restore)
{
    struct ctl_maildrop maildrop = {.store = NULL};
    enum store_outcome outcome = STORE_OK;
    int64_t *ids;
    size_t n;
    int status = parse_ids(ctl, &ids, &n);
    if (!status)
        status = ctl_open_maildrop(ctl, ctl->words[0], CTL_OPEN_SESSION, &maildrop);
    if (!status && restore)
        outcome = manage_undelete(maildrop.store, ids, n);
    else if (!status)
        outcome = maildrop_commit(maildrop.store, NULL, 0, ids, n, ctl->config->store.undelete_for);
    if (outcome != STORE_OK)
        status = ctl_open_failed(&maildrop, outcome, restore ? "restore" : "delete");
    if (!status && restore)
        look_at_restored(ctl, &maildrop, ids, n);
    if (!status && ctl->options & CTL_JSON)
        status = ctl_json_print(json_pack("{s:I}", restore ? "restored" : "deleted", (json_int_t)n),
                                false);
    ctl_open_close(&maildrop);
    free(ids);
    return status;
}

int ctl_message_delete(struct ctl *ctl)
{
    return change(ctl, false);
}

int ctl_message_restore(struct ctl *ctl)
{
    return change(ctl, true);
}
