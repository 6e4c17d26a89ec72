/*
 * ctl_status.c - poplarctl status and sessions: the running master's state for people and for
 * programs. Asks and prints, nothing else.
 */
#include "store/ctl_json.h"
#include "store/ctl_master.h"

#include <stdio.h>
#include <time.h>

enum {
    DAY = 86400,
    SOON_DAYS = 14, /* a certificate that has fewer should have been renewed */
};

/* Where the parts of a status go: lines, or an object. */
struct showing {
    bool json;
    json_t *list; /* of the part that is being walked */
    time_t now;
};

static unsigned long long count(const uint64_t *counts, unsigned which)
{
    return counts[which];
}

static uint64_t failed_logins(const uint64_t *counts)
{
    uint64_t failed = 0;
    for (unsigned i = LOGIN_OK + 1; i < LOGIN_OUTCOMES; i++)
        failed += counts[proto_count_of(COUNT_LOGIN, i)];
    return failed;
}

static void print_when(uint64_t seconds, const char *format)
{
    char text[64] = "?";
    time_t when = (time_t)seconds;
    struct tm local;
    if (localtime_r(&when, &local))
        strftime(text, sizeof text, format, &local);
    fputs(text, stdout);
}

static void print_age(uint64_t ms)
{
    uint64_t s = ms / 1000;
    if (s >= DAY)
        printf("%jud ", (uintmax_t)(s / DAY));
    printf("%ju:%02ju:%02ju", (uintmax_t)(s % DAY / 3600), (uintmax_t)(s / 60 % 60),
           (uintmax_t)(s % 60));
}

static void print_counts(const uint64_t *c)
{
    printf("%-12s %s since ", "poplard", c[COUNT_STOPPING] ? "stopping; served" : "serves");
    print_when(c[COUNT_STARTED], "%Y-%m-%d %H:%M:%S");
    printf(", process %llu\n", count(c, COUNT_PID));
    printf("%-12s %llu of %llu: %llu logged in, %llu delivering; %llu connection%s waiting\n",
           "sessions", count(c, COUNT_SESSIONS), count(c, COUNT_SESSIONS_MAX),
           count(c, COUNT_LOGGED_IN), count(c, COUNT_DELIVERING), count(c, COUNT_WAITING),
           base_plural(c[COUNT_WAITING]));
    printf("%-12s %llu idle worker%s, %llu starting; generation %llu, ", "workers",
           count(c, COUNT_WORKERS_IDLE), base_plural(c[COUNT_WORKERS_IDLE]),
           count(c, COUNT_WORKERS_STARTING), count(c, COUNT_GENERATION));
    print_age(c[COUNT_GENERATION_MS]);
    printf(" old\n%-12s %llu of %llu auth processes, %llu busy; %llu login%s waiting\n", "logins",
           count(c, COUNT_AUTHS), count(c, COUNT_AUTHS_MAX), count(c, COUNT_AUTHS_BUSY),
           count(c, COUNT_LOGINS_QUEUED), base_plural(c[COUNT_LOGINS_QUEUED]));
    printf("%-12s %llu connection%s, %llu refused; %llu login%s, %ju failed, %llu throttled\n",
           "since start", count(c, COUNT_CONNECTIONS), base_plural(c[COUNT_CONNECTIONS]),
           count(c, COUNT_REFUSED), count(c, proto_count_of(COUNT_LOGIN, LOGIN_OK)),
           base_plural(c[proto_count_of(COUNT_LOGIN, LOGIN_OK)]), (uintmax_t)failed_logins(c),
           count(c, COUNT_LOGINS_THROTTLED));
    printf("%-12s %llu message%s retrieved, %llu deleted, %llu delivered\n", "",
           count(c, COUNT_MESSAGES_RETRIEVED), base_plural(c[COUNT_MESSAGES_RETRIEVED]),
           count(c, COUNT_MESSAGES_DELETED), count(c, COUNT_COPIES_DELIVERED));
}

/* The numbers of the object: part (NULL: none) and name. */
static const struct number {
    const char *part, *name;
    unsigned count; /* enum proto_count */
} numbers[] = {
    {NULL, "started", COUNT_STARTED},
    {NULL, "pid", COUNT_PID},
    {"sessions", "now", COUNT_SESSIONS},
    {"sessions", "max", COUNT_SESSIONS_MAX},
    {"sessions", "logged_in", COUNT_LOGGED_IN},
    {"sessions", "delivering", COUNT_DELIVERING},
    {"sessions", "waiting", COUNT_WAITING},
    {"workers", "idle", COUNT_WORKERS_IDLE},
    {"workers", "starting", COUNT_WORKERS_STARTING},
    {"workers", "generation", COUNT_GENERATION},
    {"workers", "generation_ms", COUNT_GENERATION_MS},
    {"auth", "processes", COUNT_AUTHS},
    {"auth", "busy", COUNT_AUTHS_BUSY},
    {"auth", "max", COUNT_AUTHS_MAX},
    {"auth", "logins_waiting", COUNT_LOGINS_QUEUED},
    {"since_start", "connections", COUNT_CONNECTIONS},
    {"since_start", "refused", COUNT_REFUSED},
    {"since_start", "retrieved", COUNT_MESSAGES_RETRIEVED},
    {"since_start", "deleted", COUNT_MESSAGES_DELETED},
    {"since_start", "delivered", COUNT_COPIES_DELIVERED},
    {"since_start", "recipients_refused", COUNT_COPIES_REFUSED},
    {"since_start", "recipients_deferred", COUNT_COPIES_DEFERRED},
    {"since_start", "crashes", COUNT_CRASHES},
    {"logins", "throttled", COUNT_LOGINS_THROTTLED},
    {"logins", "busy", COUNT_LOGINS_BUSY},
};

static void set_number(json_t *object, const char *part, const char *name, uint64_t value)
{
    json_t *in = part ? json_object_get(object, part) : object;
    if (!in) {
        in = json_object();
        json_object_set_new(object, part, in);
    }
    json_object_set_new(in, name, json_integer((json_int_t)value));
}

static json_t *make_counts(const uint64_t *counts)
{
    json_t *object = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        set_number(object, numbers[i].part, numbers[i].name, counts[numbers[i].count]);
    for (unsigned i = 0; i < LOGIN_OUTCOMES; i++)
        set_number(object, "logins", proto_outcome_name(i), counts[proto_count_of(COUNT_LOGIN, i)]);
    json_object_set_new(object, "stopping", json_boolean(counts[COUNT_STOPPING]));
    return object;
}

static void show_certificate(void *context, struct message *entry)
{
    struct showing *s = context;
    struct ctl_item item;
    ctl_master_item(entry, &item);
    int64_t left = (int64_t)item.value - (int64_t)s->now;
    int64_t days = left >= 0 ? left / DAY : -((DAY - 1 - left) / DAY);
    if (s->json) {
        json_t *object = json_pack("{s:s, s:s}", "name", item.name, "file", item.detail);
        if (item.value > 0) {
            json_object_set_new(object, "expires", json_integer((json_int_t)item.value));
            json_object_set_new(object, "days_left", json_integer(days));
        }
        json_array_append_new(s->list, object);
        return;
    }
    printf("%-12s %s: ", "certificate", item.detail);
    if (item.value == 0) {
        puts("not read yet");
        return;
    }
    printf(left < 0 ? "EXPIRED, on " : "%lld day%s left, until ", (long long)days,
           base_plural((uint64_t)days));
    print_when(item.value, "%Y-%m-%d");
    puts(left < 0 || days < SOON_DAYS ? "; renew it, then poplarctl reload" : "");
}

static void show_item(struct showing *s, struct message *entry, const char *key, const char *label,
                      const char *words)
{
    struct ctl_item item;
    ctl_master_item(entry, &item);
    uint64_t seconds = (item.value + 999) / 1000;
    if (s->json)
        json_array_append_new(
            s->list, json_pack("{s:s, s:I}", key, item.name, "seconds_left", (json_int_t)seconds));
    else
        printf("%-12s %s: %s, for %ju s more\n", label, item.name, words, (uintmax_t)seconds);
}

static void show_source(void *context, struct message *entry)
{
    show_item(context, entry, "source", "throttled", "its logins are refused");
}

static void show_user(void *context, struct message *entry)
{
    show_item(context, entry, "user", "attacked",
              "many logins failed, sources of more are throttled sooner");
}

static void show_traced(void *context, struct message *entry)
{
    struct showing *s = context;
    struct ctl_item item;
    ctl_master_item(entry, &item);
    if (s->json)
        json_array_append_new(s->list, json_string(item.name));
    else
        printf("%-12s %s: sessions are written to the log\n", "traced", item.name);
}

int ctl_status(struct ctl *ctl)
{
    static const struct {
        enum status_part part;
        ctl_master_entry *show;
        const char *key;
    } parts[] = {{STATUS_CERTIFICATES, show_certificate, "certificates"},
                 {STATUS_SOURCES, show_source, "throttled_sources"},
                 {STATUS_USERS, show_user, "attacked_users"},
                 {STATUS_TRACED, show_traced, "traced_users"}};
    struct channel channel;
    uint64_t counts[COUNTS];
    json_t *object = NULL;
    struct showing s = {.json = ctl->options & CTL_JSON, .now = time(NULL)};
    int status = ctl_master_connect(ctl, &channel);
    if (status)
        return status;
    status = ctl_master_counts(&channel, counts);
    if (!status && s.json)
        object = make_counts(counts);
    else if (!status)
        print_counts(counts);
    for (size_t i = 0; !status && i < ARRAY_SIZE(parts); i++) {
        s.list = s.json ? json_array() : NULL;
        status = ctl_master_walk(&channel, parts[i].part, parts[i].show, &s);
        json_object_set_new(object, parts[i].key, s.list);
    }
    channel_close(&channel);
    if (!status && s.json)
        return ctl_json_print(object, false);
    json_decref(object);
    return status;
}

static const char *state_name(const struct ctl_session *s)
{
    switch (s->state) {
    case STATE_CLIENT:
        return "greeted";
    case STATE_LOGIN:
        return "login";
    case STATE_MAIL:
        return "mail";
    case STATE_DELIVERY:
        return "delivery";
    default:
        return "ending";
    }
}

static void show_session(void *context, struct message *entry)
{
    const struct ctl *ctl = context;
    struct ctl_session s;
    ctl_master_session(entry, &s);
    /* It is told with the login: before, only the door is known. */
    const char *tls = *s.tls ? s.tls : s.door == DOOR_POP3S ? "TLS" : "-";
    if (ctl->options & CTL_JSON) {
        ctl_json_print(json_pack("{s:I, s:i, s:s, s:s, s:s, s:s, s:s, s:I}", "session",
                                 (json_int_t)s.number, "pid", (int)s.pid, "user", s.seen, "peer",
                                 s.peer, "door", proto_door_name(s.door), "tls",
                                 *tls == '-' ? "" : tls, "state", state_name(&s), "seconds",
                                 (json_int_t)(s.age_ms / 1000)),
                       true);
        return;
    }
    printf("%8ju  %7u  %-8s  %-5s  %-7s  ", (uintmax_t)s.number, s.pid, state_name(&s),
           proto_door_name(s.door), tls);
    print_age(s.age_ms);
    printf("  %-24s  %s\n", s.peer, *s.seen ? s.seen : "-");
}

int ctl_sessions(struct ctl *ctl)
{
    struct channel channel;
    int status = ctl_master_connect(ctl, &channel);
    if (status)
        return status;
    if (!(ctl->options & CTL_JSON))
        printf("%8s  %7s  %-8s  %-5s  %-7s  %-7s  %-24s  %s\n", "Session", "Process", "State",
               "Door", "TLS", "Age", "Peer", "User");
    ctl_json_begin(ctl);
    status = ctl_master_walk(&channel, STATUS_SESSIONS, show_session, ctl);
    int printed = ctl_json_end(ctl);
    channel_close(&channel);
    return status ? status : printed;
}
