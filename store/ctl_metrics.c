/*
 * ctl_metrics.c - poplarctl metrics: the running master's numbers as OpenMetrics text, or as JSON.
 * Asks and prints, nothing else.
 */
#include "store/ctl_json.h"
#include "store/ctl_master.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct sample {
    unsigned count;    /* enum proto_count */
    const char *value; /* of the family's label; NULL: it has none */
};

/* A family and its samples: named one by one, or a row of them. */
struct family {
    const char *name, *type, *help, *label;
    struct sample samples[5];
    struct {
        unsigned first, n;
        const char *(*name)(unsigned);
    } row;
};

static const struct family families[] = {
    {"poplar_connections",
     "counter",
     "Connections, given to a worker or refused.",
     "outcome",
     {{COUNT_CONNECTIONS, "served"}, {COUNT_REFUSED, "refused"}},
     {0}},
    {"poplar_logins",
     "counter",
     "Logins by outcome.",
     "outcome",
     {{COUNT_LOGINS_THROTTLED, "throttled"}, {COUNT_LOGINS_BUSY, "busy"}},
     {COUNT_LOGIN, LOGIN_OUTCOMES, proto_outcome_name}},
    {"poplar_recipients",
     "counter",
     "Recipients of mail that were looked up or opened, by outcome.",
     "outcome",
     {{0}},
     {COUNT_RECIPIENT, LOGIN_OUTCOMES, proto_outcome_name}},
    {"poplar_deliveries",
     "counter",
     "Messages that came in, one for each recipient, in sessions that have ended.",
     "outcome",
     {{COUNT_COPIES_DELIVERED, "delivered"},
      {COUNT_COPIES_REFUSED, "refused"},
      {COUNT_COPIES_DEFERRED, "deferred"}},
     {0}},
    {"poplar_messages",
     "counter",
     "What clients did with messages, in sessions that have ended.",
     "action",
     {{COUNT_MESSAGES_RETRIEVED, "retrieved"}, {COUNT_MESSAGES_DELETED, "deleted"}},
     {0}},
    {"poplar_octets",
     "counter",
     "Octets from and to clients, in sessions that have ended.",
     "direction",
     {{COUNT_OCTETS_IN, "in"}, {COUNT_OCTETS_OUT, "out"}},
     {0}},
    {"poplar_sessions_ended",
     "counter",
     "Sessions by why they ended; unknown: killed, or crashed.",
     "reason",
     {{0}},
     {COUNT_ENDED, END_REASONS, proto_end_name}},
    {"poplar_worker_crashes",
     "counter",
     "Workers that a signal ended which nobody sent.",
     NULL,
     {{COUNT_CRASHES, ""}},
     {0}},
    {"poplar_generations_retired",
     "counter",
     "Nurseries that were replaced, by why.",
     "reason",
     {{0}},
     {COUNT_RETIRED, RETIREMENTS, proto_retirement_name}},
    {"poplar_reloads",
     "counter",
     "Reloads by outcome.",
     "outcome",
     {{COUNT_RELOADS, "done"}, {COUNT_RELOADS_FAILED, "failed"}},
     {0}},
    {"poplar_start_time_seconds",
     "gauge",
     "When the server started, since the epoch.",
     NULL,
     {{COUNT_STARTED, ""}},
     {0}},
    {"poplar_sessions", "gauge", "Sessions.", NULL, {{COUNT_SESSIONS, ""}}, {0}},
    {"poplar_sessions_limit",
     "gauge",
     "The most there may be, [workers] max_sessions.",
     NULL,
     {{COUNT_SESSIONS_MAX, ""}},
     {0}},
    {"poplar_sessions_logged_in",
     "gauge",
     "Sessions that are logged in.",
     NULL,
     {{COUNT_LOGGED_IN, ""}},
     {0}},
    {"poplar_sessions_delivering",
     "gauge",
     "Sessions by LMTP.",
     NULL,
     {{COUNT_DELIVERING, ""}},
     {0}},
    {"poplar_connections_waiting",
     "gauge",
     "Connections that wait for a worker.",
     NULL,
     {{COUNT_WAITING, ""}},
     {0}},
    {"poplar_workers",
     "gauge",
     "Workers without a client.",
     "state",
     {{COUNT_WORKERS_IDLE, "idle"}, {COUNT_WORKERS_STARTING, "starting"}},
     {0}},
    {"poplar_auth_processes", "gauge", "Auth processes.", NULL, {{COUNT_AUTHS, ""}}, {0}},
    {"poplar_auth_processes_busy",
     "gauge",
     "Auth processes with a login.",
     NULL,
     {{COUNT_AUTHS_BUSY, ""}},
     {0}},
    {"poplar_auth_processes_limit",
     "gauge",
     "The most there may be, [auth] processes_max.",
     NULL,
     {{COUNT_AUTHS_MAX, ""}},
     {0}},
    {"poplar_logins_waiting",
     "gauge",
     "Logins and deliveries that wait for an auth process.",
     NULL,
     {{COUNT_LOGINS_QUEUED, ""}},
     {0}},
};

/* Where samples go. */
struct printing {
    const struct ctl *ctl;
    time_t now;
};

static void begin_family(const struct printing *p, const char *name, const char *type,
                         const char *help)
{
    if (p->ctl->options & CTL_JSON)
        return;
    printf("# TYPE %s %s\n", name, type);
    if (strstr(name, "_seconds"))
        printf("# UNIT %s seconds\n", name);
    printf("# HELP %s %s\n", name, help);
}

static void put_label(const char *name, const char *value, const char *before)
{
    printf("%s%s=\"", before, name);
    for (; *value; value++)
        if (*value == '\\' || *value == '"')
            printf("\\%c", *value);
        else
            putchar(*value);
    putchar('"');
}

/* One sample with up to two labels. */
static void put(const struct printing *p, const char *name, const char *suffix,
                const char *const labels[4], const char *value)
{
    if (p->ctl->options & CTL_JSON) {
        char *whole = base_format("%s%s", name, suffix);
        json_t *object = json_object();
        for (size_t i = 0; i < 4 && labels[i]; i += 2)
            json_object_set_new(object, labels[i], json_string(labels[i + 1]));
        ctl_json_print(json_pack("{s:s, s:o, s:o}", "name", whole, "labels", object, "value",
                                 json_loads(value, JSON_DECODE_ANY, NULL)),
                       true);
        free(whole);
        return;
    }
    printf("%s%s", name, suffix);
    for (size_t i = 0; i < 4 && labels[i]; i += 2)
        put_label(labels[i], labels[i + 1], i ? "," : "{");
    printf("%s %s\n", labels[0] ? "}" : "", value);
}

static void put_number(const struct printing *p, const char *name, const char *suffix,
                       const char *label, const char *label_value, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    put(p, name, suffix, (const char *[4]){label, label_value}, text);
}

static void put_family(const struct printing *p, const struct family *f, const uint64_t *counts)
{
    const char *suffix = strcmp(f->type, "counter") == 0 ? "_total" : "";
    begin_family(p, f->name, f->type, f->help);
    for (size_t i = 0; i < ARRAY_SIZE(f->samples) && f->samples[i].value; i++)
        put_number(p, f->name, suffix, f->label, f->samples[i].value, counts[f->samples[i].count]);
    for (unsigned i = 0; i < f->row.n; i++)
        put_number(p, f->name, suffix, f->label, f->row.name(i), counts[f->row.first + i]);
}

/* By the time from asking for an auth process to its word; what throttling refused is not in. */
static void put_latencies(const struct printing *p, const uint64_t *counts)
{
    static const char name[] = "poplar_login_duration_seconds";
    uint64_t sum = 0;
    char text[32];
    begin_family(p, name, "histogram", "Time that logins took, without the delay of failures.");
    for (unsigned i = 0; i < PROTO_LATENCIES; i++) {
        unsigned bound = proto_latency_bound(i);
        snprintf(text, sizeof text, "%u.%03u", bound / 1000, bound % 1000);
        sum += counts[proto_count_of(COUNT_LATENCY, i)];
        put_number(p, name, "_bucket", "le", bound ? text : "+Inf", sum);
    }
    put_number(p, name, "_count", NULL, NULL, sum);
    snprintf(text, sizeof text, "%" PRIu64 ".%03" PRIu64, counts[COUNT_LOGIN_MS] / 1000,
             counts[COUNT_LOGIN_MS] % 1000);
    put(p, name, "_sum", (const char *[4]){NULL}, text);
}

static void put_expiry(void *context, struct message *entry)
{
    struct ctl_item item;
    char text[32];
    ctl_master_item(entry, &item);
    snprintf(text, sizeof text, "%" PRIu64, item.value);
    if (item.value > 0)
        put(context, "poplar_certificate_expiry_time_seconds", "",
            (const char *[4]){"name", item.name, "file", item.detail}, text);
}

static void put_days(void *context, struct message *entry)
{
    const struct printing *p = context;
    struct ctl_item item;
    char text[32];
    ctl_master_item(entry, &item);
    snprintf(text, sizeof text, "%.2f", ((double)item.value - (double)p->now) / 86400);
    if (item.value > 0)
        put(context, "poplar_certificate_days_left", "",
            (const char *[4]){"name", item.name, "file", item.detail}, text);
}

static void tally(void *context, struct message *entry)
{
    (void)entry;
    ++*(uint64_t *)context;
}

static int put_throttled(const struct printing *p, struct channel *channel)
{
    uint64_t sources = 0, users = 0;
    int status = ctl_master_walk(channel, STATUS_SOURCES, tally, &sources);
    if (!status)
        status = ctl_master_walk(channel, STATUS_USERS, tally, &users);
    if (status)
        return status;
    begin_family(p, "poplar_throttled", "gauge",
                 "Sources whose logins are refused, and users as whom many logins failed.");
    put_number(p, "poplar_throttled", "", "kind", "source", sources);
    put_number(p, "poplar_throttled", "", "kind", "user", users);
    return 0;
}

static int put_all(const struct printing *p, struct channel *channel)
{
    uint64_t counts[COUNTS];
    int status = ctl_master_counts(channel, counts);
    if (status)
        return status;
    ctl_json_begin(p->ctl);
    /* No "info": the older text format, which some still read, knows of none. */
    begin_family(p, "poplar_build_info", "gauge", "The version of Poplar.");
    put(p, "poplar_build_info", "", (const char *[4]){"version", POPLAR_VERSION}, "1");
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        put_family(p, &families[i], counts);
    put_latencies(p, counts);
    status = put_throttled(p, channel);
    if (!status) {
        begin_family(p, "poplar_certificate_expiry_time_seconds", "gauge",
                     "When the certificate expires, since the epoch.");
        status = ctl_master_walk(channel, STATUS_CERTIFICATES, put_expiry, (void *)(uintptr_t)p);
    }
    if (!status) {
        begin_family(p, "poplar_certificate_days_left", "gauge",
                     "Days until the certificate expires, negative when it has.");
        status = ctl_master_walk(channel, STATUS_CERTIFICATES, put_days, (void *)(uintptr_t)p);
    }
    int printed = ctl_json_end(p->ctl);
    status = status ? status : printed;
    if (!status && !(p->ctl->options & CTL_JSON))
        puts("# EOF");
    return status;
}

int ctl_metrics(struct ctl *ctl)
{
    struct channel channel;
    const struct printing p = {.ctl = ctl, .now = time(NULL)};
    int status = ctl_master_connect(ctl, &channel);
    if (status)
        return status;
    status = put_all(&p, &channel);
    channel_close(&channel);
    return status;
}
