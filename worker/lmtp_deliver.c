/*
 * lmtp_deliver.c - from a recipient to a stored message: asks auth through the master, opens what
 * it grants, stores. Runs in a worker, inside its sandbox. Holds one maildrop at a time, and none
 * for longer than a moment after auth granted it.
 *
 * What goes wrong is the sender's queue's to keep: 5xx is said only of what will not get better by
 * itself. A damaged file is not the sender's fault and will be repaired.
 */
#include "daemon/base.h"
#include "worker/exchange.h"
#include "worker/lmtp.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <time.h>

enum {
    GRANTS_AGAIN_MAX = 3,  /* times that granted files may turn out to be replaced */
    HELD_MS = 1000,        /* of a grant: a queue's next message comes sooner */
    HELD_OCTETS = 1 << 20, /* of mail under one grant: auth looks how much room is left */
    HEAD_MAX = 2560,       /* octets put before a message: three addresses, two names */
    PATH_LINE_MAX = 1024,  /* octets of a Return-Path that is taken off one */
    SHOWN_MAX = PROTO_RECIPIENT_MAX + 5 /* octets of an address in the log, or a name */
};

/* What the store reads: our own header, then the spool from `offset` on. */
struct source {
    const struct spool *spool;
    const char *head;
    size_t head_size, head_read;
    uint64_t offset;
};

static void tell_log(struct lmtp *l, int priority, const char *format, ...) PRINTF(3, 4);

static void tell_log(struct lmtp *l, int priority, const char *format, ...)
{
    char text[960];
    struct session *s = l->s;
    va_list arguments;
    if (s->control.fd < 0 || priority > (int)s->config->server.log_level)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    message_begin(&s->record, PROTO_LOG);
    message_put_u32(&s->record, (uint32_t)priority);
    message_put_text(&s->record, text);
    channel_send(&s->control, &s->record, true);
}

/* An address in a line of the log. */
static const char *show(const char *address, char shown[SHOWN_MAX])
{
    char bracketed[PROTO_RECIPIENT_MAX + 3];
    snprintf(bracketed, sizeof bracketed, "<%s>", address);
    base_value(shown, SHOWN_MAX, bracketed);
    return shown;
}

static void hold(struct lmtp *l, const char *address, const char *name,
                 const int files[MAILDROP_FILES])
{
    struct lmtp_held *held = &l->held;
    base_copy(held->address, sizeof held->address, address);
    base_copy(held->name, sizeof held->name, name);
    memcpy(held->files, files, sizeof held->files);
    held->maildrop = NULL;
    held->octets = 0;
    held->until = base_now_ms() + HELD_MS;
}

static bool is_held(const struct lmtp *l)
{
    return *l->held.address && l->held.octets < HELD_OCTETS && base_now_ms() < l->held.until;
}

void lmtp_release(struct lmtp *l)
{
    struct lmtp_held *held = &l->held;
    for (int i = 0; *held->address && !held->maildrop && i < MAILDROP_FILES; i++)
        base_close(held->files[i]);
    maildrop_close(held->maildrop);
    held->maildrop = NULL;
    held->address[0] = '\0';
}

void lmtp_idle(struct lmtp *l)
{
    struct pollfd watched[] = {{.fd = l->s->stream.fd, .events = POLLIN},
                               {.fd = l->s->control.fd, .events = POLLIN}};
    uint64_t now = base_now_ms(), until = l->held.until;
    if (*l->held.address && poll(watched, 2, until > now ? (int)(until - now) : 0) == 0)
        lmtp_release(l);
}

/* How auth answers, or LOGIN_UNAVAILABLE where it cannot; on LOGIN_OK `name` is whose it is, and
 * what files came are held. The session may have ended. */
static uint32_t ask(struct lmtp *l, const char *recipient, enum proto_service service,
                    char name[PROTO_USER_MAX + 1])
{
    static const enum exchange_files expected[] = {[SERVE_CHECK] = FILES_NONE,
                                                   [SERVE_TAKE] = FILES_MAY_COME,
                                                   [SERVE_DELIVER] = FILES_COME,
                                                   [SERVE_FIRST] = FILES_MAY_COME};
    struct session *s = l->s;
    struct channel exchange;
    uint32_t refusal;
    message_begin(&s->record, PROTO_RECIPIENT);
    message_put_text(&s->record, recipient);
    message_put_u32(&s->record, service);
    enum channel_outcome sent = channel_send(&s->control, &s->record, true);
    if (sent != CHANNEL_OK) {
        session_lost_master(s, sent, NULL);
        return LOGIN_UNAVAILABLE;
    }
    if (exchange_take(s, &exchange, &refusal) != ATTEMPT_VERDICT)
        return LOGIN_UNAVAILABLE;
    int files[MAILDROP_FILES] = {-1, -1, -1, -1};
    int *spool = service == SERVE_FIRST ? &l->spool.fd : NULL;
    uint32_t verdict = exchange_verdict(s, &exchange, expected[service], name, spool, files);
    if (verdict == LOGIN_OK && files[MAILDROP_LOCK] >= 0)
        hold(l, recipient, name, files);
    return verdict;
}

static enum lmtp_reply reply_to_verdict(uint32_t verdict)
{
    switch (verdict) {
    case LOGIN_OK:
        return LMTP_RECIPIENT_OK;
    case LOGIN_NO_USER:
        return LMTP_NO_SUCH_USER;
    case LOGIN_FORBIDDEN:
        return LMTP_FORBIDDEN;
    case LOGIN_NO_ROOM:
        return LMTP_NO_ROOM;
    default:
        return LMTP_TRY_LATER;
    }
}

enum lmtp_reply lmtp_check_recipient(struct lmtp *l, struct lmtp_recipient *to)
{
    if (is_held(l) && strcmp(l->held.address, to->path.mailbox) == 0) {
        base_copy(to->name, sizeof to->name, l->held.name);
        return LMTP_RECIPIENT_OK;
    }
    /* Its maildrop is the first that the message goes to: what is there of it comes along. */
    bool first = l->n == 0;
    if (first)
        lmtp_release(l);
    enum proto_service service = !first ? SERVE_CHECK : l->spool.fd >= 0 ? SERVE_TAKE : SERVE_FIRST;
    char to_shown[SHOWN_MAX], from[SHOWN_MAX];
    uint32_t verdict = ask(l, to->path.mailbox, service, to->name);
    if (verdict != LOGIN_OK)
        tell_log(l, LOG_NOTICE, "refused to=%s from=%s reason=%s", show(to->path.text, to_shown),
                 show(l->mail.from.text, from), proto_outcome_name(verdict));
    return reply_to_verdict(verdict);
}

void lmtp_tell_lost(struct lmtp *l)
{
    char from[SHOWN_MAX];
    tell_log(l, LOG_WARNING,
             "not delivered from=%s recipients=%zu: cannot be kept in state_dir: %s",
             show(l->mail.from.text, from), l->n, strerror(l->spool.error));
}

static enum lmtp_reply reply_to_store(const struct lmtp *l, enum store_outcome outcome)
{
    switch (outcome) {
    case STORE_OK:
        return LMTP_DELIVERED;
    case STORE_OVER_QUOTA:
        return l->s->config->store.over_quota == OVER_QUOTA_REJECT ? LMTP_QUOTA_REJECT
                                                                   : LMTP_QUOTA_DEFER;
    case STORE_TOO_LARGE:
        return LMTP_TOO_LARGE;
    case STORE_FULL:
        return LMTP_NO_ROOM;
    case STORE_BUSY:
        return LMTP_BUSY;
    default:
        return LMTP_TRY_LATER;
    }
}

/* RFC 5322 section 3.3. Not by strftime(), which would look for /etc/localtime again. */
static void print_date(char *text, size_t size)
{
    static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    const time_t now = time(NULL);
    struct tm t = {0};
    localtime_r(&now, &t);
    long east = t.tm_gmtoff / 60;
    snprintf(text, size, "%s, %d %s %d %02d:%02d:%02d %c%02ld%02ld", days[t.tm_wday % 7], t.tm_mday,
             months[t.tm_mon % 12], t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec,
             east < 0 ? '-' : '+', labs(east) / 60, labs(east) % 60);
}

/* RFC 5321 section 4.4: final delivery adds Return-Path, and every hop a Received. */
static size_t print_head(const struct lmtp *l, const struct lmtp_recipient *to, char head[HEAD_MAX])
{
    char date[64];
    print_date(date, sizeof date);
    int size = snprintf(head, HEAD_MAX,
                        "Return-Path: <%s>\r\n"
                        "Delivered-To: %s\r\n"
                        "Received: from %s (%s)\r\n"
                        "\tby %s (Poplar) with %s id %llu\r\n"
                        "\tfor <%s>; %s\r\n",
                        l->mail.from.text, l->held.name, l->client, l->s->peer,
                        l->s->config->server.hostname, l->mail.utf8 ? "UTF8LMTP" : "LMTP",
                        (unsigned long long)l->s->number, to->path.text, date);
    return size > 0 && size < HEAD_MAX ? (size_t)size : 0;
}

/* What our Return-Path takes the place of: that which sendmail, for instance, or another mailbox
 * put before the message. Octets of such a first line; 0: there is none. */
static size_t find_old_path(const struct spool *spool)
{
    static const char field[] = "Return-Path:";
    char text[PATH_LINE_MAX];
    ssize_t got = spool_read(spool, 0, text, sizeof text);
    if (got < (ssize_t)strlen(field) || strncasecmp(text, field, strlen(field)) != 0)
        return 0;
    const char *end = memchr(text, '\n', (size_t)got);
    size_t size = end ? (size_t)(end - text) + 1 : 0;
    bool folded = size < (size_t)got && (text[size] == ' ' || text[size] == '\t');
    return folded ? 0 : size;
}

static ssize_t read_source(void *context, void *buffer, size_t size)
{
    struct source *source = context;
    size_t left = source->head_size - source->head_read;
    if (left > 0) {
        size = size < left ? size : left;
        memcpy(buffer, source->head + source->head_read, size);
        source->head_read += size;
        return (ssize_t)size;
    }
    ssize_t got = spool_read(source->spool, source->offset, buffer, size);
    source->offset += got > 0 ? (uint64_t)got : 0;
    return got;
}

/* What is held is ready to be written to. Its files are in nobody's hands if that fails. */
static enum store_outcome make_ready(struct lmtp_held *held)
{
    if (held->maildrop)
        return maildrop_resume(held->maildrop);
    enum store_outcome outcome = maildrop_open(held->files, &held->maildrop);
    if (outcome != STORE_OK)
        held->address[0] = '\0';
    return outcome;
}

/* Store in the maildrop that is held, and let go of it if that fails; the log is told how it went.
 */
static enum store_outcome store(struct lmtp *l, const struct lmtp_recipient *to)
{
    const struct config *config = l->s->config;
    struct lmtp_held *held = &l->held;
    char head[HEAD_MAX], name[SHOWN_MAX], to_shown[SHOWN_MAX], from[SHOWN_MAX];
    size_t old_path = find_old_path(&l->spool);
    struct source source = {.spool = &l->spool, .head = head, .offset = old_path};
    source.head_size = print_head(l, to, head);
    /* The message's own size was measured as it came in. */
    const struct maildrop_delivery delivery = {.quota_octets = config->store.quota_octets,
                                               .quota_messages = config->store.quota_messages,
                                               .utf8_headers = l->mail.utf8};
    enum store_outcome outcome = make_ready(held);
    if (outcome == STORE_OK)
        outcome = maildrop_deliver(held->maildrop, &delivery, read_source, &source, NULL);
    base_value(name, sizeof name, held->name);
    if (outcome == STORE_OK) {
        maildrop_rest(held->maildrop);
        held->octets += spool_size(&l->spool);
        tell_log(l, LOG_INFO, "delivered user=%s octets=%llu from=%s to=%s", name,
                 (unsigned long long)(source.head_size + spool_size(&l->spool) - old_path),
                 show(l->mail.from.text, from), show(to->path.text, to_shown));
        return outcome;
    }
    if (outcome != STORE_STALE)
        tell_log(l, outcome == STORE_OVER_QUOTA ? LOG_NOTICE : LOG_WARNING,
                 "not delivered user=%s from=%s to=%s reason=%s: %s", name,
                 show(l->mail.from.text, from), show(to->path.text, to_shown),
                 maildrop_outcome_name(outcome), maildrop_error(held->maildrop));
    lmtp_release(l);
    return outcome;
}

enum lmtp_reply lmtp_deliver(struct lmtp *l, const struct lmtp_recipient *to)
{
    enum store_outcome outcome = STORE_STALE;
    if (is_held(l) && strcmp(l->held.name, to->name) == 0)
        outcome = store(l, to);
    for (int again = 0; outcome == STORE_STALE && again <= GRANTS_AGAIN_MAX; again++) {
        char name[PROTO_USER_MAX + 1], to_shown[SHOWN_MAX], from[SHOWN_MAX];
        lmtp_release(l);
        uint32_t verdict = ask(l, to->path.mailbox, SERVE_DELIVER, name);
        if (verdict != LOGIN_OK) {
            tell_log(l, LOG_WARNING, "not delivered to=%s from=%s reason=%s",
                     show(to->path.text, to_shown), show(l->mail.from.text, from),
                     proto_outcome_name(verdict));
            return reply_to_verdict(verdict);
        }
        outcome = store(l, to);
    }
    return reply_to_store(l, outcome);
}
