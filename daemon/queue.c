/*
 * queue.c - logins and deliveries that wait for an auth process: who is served next, and how many
 * processes would be of use. Runs in the master; decides by what the kernel and auth said, and
 * changes nothing but whose turn it is.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <limits.h>

/* Who waits for an auth process, in the order in which they are served. */
enum standing {
    STANDING_KNOWN,    /* logged in, or from where a login succeeded lately */
    STANDING_STRANGER, /* or from where logins failed */
    STANDING_DELIVERY, /* a queue waits for it, for a login a client */
    STANDINGS
};

static unsigned rank(const struct master *m, const struct client *c, uint64_t now)
{
    return address_listed(&m->config->auth.throttle_exempt, &c->peer)
               ? 0
               : throttle_rank(m->throttle, &c->source, now);
}

static enum standing find_standing(const struct master *m, const struct client *c, bool logged_in,
                                   uint64_t now)
{
    return c->door == DOOR_LMTP                ? STANDING_DELIVERY
           : logged_in || rank(m, c, now) == 0 ? STANDING_KNOWN
                                               : STANDING_STRANGER;
}

static enum standing standing(const struct master *m, const struct worker *w, uint64_t now)
{
    return find_standing(m, &w->client, w->channel.state == STATE_MAIL, now);
}

/* How many of each standing may have an auth process now. Neither a flood of failures nor one of
 * mail over a slow directory takes more than half of what there may be: the rest is for known
 * sources. What is under way counts, whether or not its worker is still there. */
static void count_slots(const struct master *m, uint64_t now, unsigned slots[STANDINGS])
{
    unsigned all = (unsigned)m->config->auth.processes_max;
    slots[STANDING_KNOWN] = all;
    slots[STANDING_STRANGER] = slots[STANDING_DELIVERY] = (all + 1) / 2;
    for (const struct auth *a = m->auths; a; a = a->next) {
        const struct attempt *t = &a->attempt;
        enum standing kind = find_standing(m, &t->client, t->service == SERVE_GRANT, now);
        slots[kind] -= a->owes && slots[kind] > 0;
    }
}

/* What a login weighs against another: failures of its source, and what that has under way. */
static unsigned weight(const struct master *m, const struct worker *w, uint64_t now)
{
    unsigned n = w->channel.state == STATE_MAIL ? 0 : rank(m, &w->client, now);
    for (const struct auth *a = m->auths; a; a = a->next) {
        const struct client *other = &a->attempt.client;
        n += a->owes && other->door != DOOR_LMTP &&
             address_same_source(&other->source, &w->client.source);
    }
    return n;
}

/* Whether `w` comes before `best`, which weighs as much. The longest wait first; of strangers in
 * turn the longest and the shortest, so that one who comes behind a burst of them need not wait for
 * all, and none waits for ever. */
static bool comes_before(const struct worker *w, const struct worker *best, bool latest)
{
    return latest ? w->asked > best->asked : w->asked < best->asked;
}

/* The lightest; deliveries last, and by time alone. */
struct worker *queue_next(struct master *m)
{
    uint64_t now = base_now_ms();
    unsigned slots[STANDINGS], best_weight = 0;
    struct worker *best = NULL;
    enum standing best_kind = STANDING_KNOWN;
    count_slots(m, now, slots);
    for (struct worker *w = m->workers; w; w = w->next) {
        if (!w->queued || w->auth || w->ended_by_us)
            continue;
        enum standing kind = standing(m, w, now);
        unsigned heavy = kind == STANDING_DELIVERY ? UINT_MAX : weight(m, w, now);
        bool latest = kind == STANDING_STRANGER && m->latest_first;
        if (slots[kind] > 0 && (!best || heavy < best_weight ||
                                (heavy == best_weight && comes_before(w, best, latest)))) {
            best = w;
            best_kind = kind;
            best_weight = heavy;
        }
    }
    m->latest_first ^= best && best_kind == STANDING_STRANGER;
    return best;
}

unsigned queue_length(const struct master *m)
{
    uint64_t now = base_now_ms();
    unsigned slots[STANDINGS], n = 0;
    count_slots(m, now, slots);
    for (const struct worker *w = m->workers; w; w = w->next) {
        enum standing kind = w->queued ? standing(m, w, now) : STANDING_KNOWN;
        if (w->queued && slots[kind] > 0) {
            slots[kind]--;
            n++;
        }
    }
    return n;
}
