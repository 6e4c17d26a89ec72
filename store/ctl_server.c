/*
 * ctl_server.c - poplarctl reload, debug and kick: orders to the running master.
 */
#include "store/ctl_json.h"
#include "store/ctl_master.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    RELOAD_WAIT_MS = 120000, /* a new generation loads certificates and modules */
    LEAVE_WAIT_MS = 5000,    /* for those kicked, who have a second */
    LOOK_MS = 20,            /* between two looks whether they are gone */
    REPLY_MAX = 8192
};

static int give(const struct ctl *ctl, struct message *order, int wait_ms)
{
    struct channel channel;
    char text[REPLY_MAX];
    int status = ctl_master_connect(ctl, &channel);
    if (status)
        return status;
    status = ctl_master_order(&channel, order, wait_ms, text, sizeof text);
    channel_close(&channel);
    if (ctl->options & CTL_JSON) {
        int printed = ctl_json_print(
            json_pack("{s:i, s:o}", "status", status, "text", ctl_json_name(text)), false);
        return status ? status : printed;
    }
    if (status && *text)
        return ctl_fail(status, "%s", text);
    if (*text)
        puts(text);
    return status;
}

int ctl_reload(struct ctl *ctl)
{
    struct message m;
    message_begin(&m, PROTO_RELOAD);
    return give(ctl, &m, RELOAD_WAIT_MS);
}

int ctl_debug(struct ctl *ctl)
{
    struct message m;
    char name[PROTO_USER_MAX + 1];
    bool on = strcmp(ctl->words[1], "on") == 0;
    if (!on && strcmp(ctl->words[1], "off") != 0)
        return ctl_fail(EX_USAGE, "debug %s %s: on or off; see poplarctl help debug", ctl->words[0],
                        ctl->words[1]);
    int status = ctl_open_user(ctl, ctl->words[0], name, NULL);
    if (status)
        return status;
    message_begin(&m, PROTO_DEBUG);
    message_put_text(&m, name);
    message_put_u32(&m, on);
    return give(ctl, &m, CTL_MASTER_WAIT_MS);
}

/* Whose sessions are to end: a session by its number, or all of a user. */
struct victim {
    const char *word;
    char user[PROTO_USER_MAX + 1]; /* "" for a number */
    bool known;                    /* there is such a user */
    uint64_t number;
    size_t found;
};

/* Those that end, by number. */
struct kicking {
    struct victim *victims;
    size_t n_victims;
    uint64_t *sessions;
    size_t n;
};

static bool is_number(const char *word)
{
    return *word && strspn(word, "0123456789") == strlen(word);
}

static void choose(void *context, struct message *entry)
{
    struct kicking *k = context;
    struct ctl_session session;
    bool wanted = false;
    ctl_master_session(entry, &session);
    for (size_t i = 0; i < k->n_victims; i++) {
        struct victim *v = &k->victims[i];
        bool is = *v->user ? strcmp(v->user, session.user) == 0 : v->number == session.number;
        v->found += is;
        wanted = wanted || is;
    }
    if (!wanted)
        return;
    k->sessions = base_grow(k->sessions, k->n, sizeof *k->sessions);
    k->sessions[k->n++] = session.number;
}

static void count_left(void *context, struct message *entry)
{
    struct kicking *k = context;
    struct ctl_session session;
    ctl_master_session(entry, &session);
    for (size_t i = 0; i < k->n_victims; i++)
        k->n += k->sessions[i] == session.number;
}

/* The number of the sessions that are still there; -1 when the server cannot be asked. */
static long look_again(struct channel *channel, uint64_t *sessions, size_t n)
{
    struct kicking left = {.sessions = sessions, .n_victims = n};
    return ctl_master_walk(channel, STATUS_SESSIONS, count_left, &left) ? -1 : (long)left.n;
}

static int end_all(struct channel *channel, const struct kicking *k)
{
    struct message m;
    char text[REPLY_MAX];
    long left = (long)k->n;
    for (size_t i = 0; i < k->n; i++) {
        message_begin(&m, PROTO_KICK);
        message_put_u64(&m, k->sessions[i]);
        int status = ctl_master_order(channel, &m, CTL_MASTER_WAIT_MS, text, sizeof text);
        if (status && status != EX_NOINPUT) /* that one has just left by itself */
            return *text ? ctl_fail(status, "%s", text) : status;
    }
    for (uint64_t end = base_now_ms() + LEAVE_WAIT_MS; left > 0 && base_now_ms() < end;) {
        left = look_again(channel, k->sessions, k->n);
        if (left > 0)
            usleep(LOOK_MS * 1000);
    }
    if (left > 0)
        return ctl_fail(EX_TEMPFAIL, "%ld session%s did not end", left,
                        base_plural((uint64_t)left));
    return left < 0 ? EX_UNAVAILABLE : 0;
}

/* By the number, or by the rules that a login has. */
static int name_victim(const struct ctl *ctl, const char *word, struct victim *v)
{
    *v = (struct victim){.word = word};
    if (!is_number(word))
        return ctl_open_guess(ctl, word, v->user, &v->known);
    v->number = strtoull(word, NULL, 10); /* the largest there is, for more: no session has it */
    return 0;
}

static int report(const struct ctl *ctl, const struct kicking *k)
{
    int status = 0;
    for (size_t i = 0; i < k->n_victims; i++) {
        const struct victim *v = &k->victims[i];
        if (v->found == 0 && !*v->user)
            status = ctl_fail(EX_NOINPUT, "%s: there is no such session", v->word);
        else if (v->found == 0 && !v->known)
            status = ctl_fail(EX_NOUSER, "%s: no such user, and no session of that name", v->word);
    }
    if (ctl->options & CTL_JSON) {
        int printed = ctl_json_print(json_pack("{s:I}", "ended", (json_int_t)k->n), false);
        return status ? status : printed;
    }
    printf("%zu session%s ended\n", k->n, base_plural(k->n));
    return status;
}

static int kick(const struct ctl *ctl, struct kicking *k)
{
    struct channel channel;
    int status = ctl_master_connect(ctl, &channel);
    if (status)
        return status;
    status = ctl_master_walk(&channel, STATUS_SESSIONS, choose, k);
    if (!status)
        status = end_all(&channel, k);
    if (!status)
        status = report(ctl, k);
    channel_close(&channel);
    return status;
}

int ctl_kick(struct ctl *ctl)
{
    struct kicking k = {.n_victims = ctl->n_words};
    int status = 0;
    k.victims = base_alloc(k.n_victims * sizeof *k.victims);
    for (size_t i = 0; !status && i < k.n_victims; i++)
        status = name_victim(ctl, ctl->words[i], &k.victims[i]);
    if (!status)
        status = kick(ctl, &k);
    free(k.sessions);
    free(k.victims);
    return status;
}
