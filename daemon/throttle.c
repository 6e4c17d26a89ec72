/*
 * throttle.c - see throttle.h. Runs in the master; no system calls but for its hash key.
 */
#include "daemon/throttle.h"
#include "daemon/base.h"

#include <stdlib.h>
#include <string.h>

enum {
    SLOTS = 4096,
    PROBES = 8,
    DRAIN_MS = 15000,            /* one failure is forgotten in so long */
    KNOWN_MS = 24 * 3600 * 1000, /* a login that succeeded is remembered for so long */
    SOURCE_LIMIT = 20,
    USER_LIMIT = 50,
    KNOWN_WORTH = 10, /* failures: two from each of so many places, against an attacked name */
    ATTACKED_COST = 5 /* of a failure against a name whose bucket is full */
};

struct bucket {
    uint64_t key;    /* 0: empty */
    uint64_t empty;  /* when the last failure will be forgotten, milliseconds */
    uint64_t digest; /* sources: of the last failure, name and secret */
    uint64_t known;  /* sources: until when a login that succeeded there is remembered */
    char name[48];   /* for people; that of a user may be cut */
};

struct throttle {
    uint64_t seed;
    struct bucket sources[SLOTS], users[SLOTS];
};

struct throttle *throttle_new(void)
{
    struct throttle *throttle = base_alloc(sizeof *throttle);
    base_random(&throttle->seed, sizeof throttle->seed);
    return throttle;
}

void throttle_free(struct throttle *throttle)
{
    free(throttle);
}

/* Seeded, so that nobody outside can choose names that share a slot. */
static uint64_t hash(const struct throttle *throttle, const void *octets, size_t size)
{
    const unsigned char *at = octets;
    uint64_t value = throttle->seed;
    for (size_t i = 0; i < size; i++) {
        value = (value ^ at[i]) * UINT64_C(0x9e3779b97f4a7c15);
        value ^= value >> 32;
    }
    return value ? value : 1;
}

/* The bucket of a key, NULL if it has none. */
static const struct bucket *find(const struct bucket *table, uint64_t key)
{
    for (size_t i = 0; i < PROBES; i++) {
        const struct bucket *b = &table[(key + i) % SLOTS];
        if (b->key == key)
            return b;
    }
    return NULL;
}

/* What it is worth to remember a bucket: its failures, as long as they count, and a login that
 * succeeded as much as a few of them. */
static uint64_t worth(const struct bucket *b, uint64_t now)
{
    return (b->empty > now ? b->empty - now : 0) +
           (b->known > now ? (uint64_t)KNOWN_WORTH * DRAIN_MS : 0);
}

/* The bucket of a key, in place of the least of its slots when it is new. */
static struct bucket *obtain(struct bucket *table, uint64_t key, const char *name, uint64_t now)
{
    struct bucket *least = &table[key % SLOTS];
    for (size_t i = 0; i < PROBES; i++) {
        struct bucket *b = &table[(key + i) % SLOTS];
        if (b->key == key)
            return b;
        if (worth(b, now) < worth(least, now))
            least = b;
    }
    *least = (struct bucket){.key = key};
    base_copy(least->name, sizeof least->name, name);
    return least;
}

static struct bucket *obtain_source(struct throttle *throttle, const struct address_source *source,
                                    uint64_t now)
{
    char name[PROTO_ADDRESS_MAX];
    address_print_source(source, name);
    return obtain(throttle->sources, hash(throttle, source, sizeof *source), name, now);
}

static uint64_t level(const struct bucket *b, uint64_t now)
{
    return b && b->empty > now ? (b->empty - now + DRAIN_MS - 1) / DRAIN_MS : 0;
}

/* True: it is full by this. */
static bool fill(struct bucket *b, unsigned cost, uint64_t limit, uint64_t now)
{
    uint64_t most = now + limit * DRAIN_MS;
    bool was_full = level(b, now) >= limit;
    b->empty = (b->empty > now ? b->empty : now) + (uint64_t)cost * DRAIN_MS;
    if (b->empty > most)
        b->empty = most; /* however many failures, the wait has an end */
    return !was_full && level(b, now) >= limit;
}

static const struct bucket *of_source(const struct throttle *throttle,
                                      const struct address_source *source)
{
    return find(throttle->sources, hash(throttle, source, sizeof *source));
}

bool throttle_refuses(const struct throttle *throttle, const struct address_source *source,
                      uint64_t now)
{
    return level(of_source(throttle, source), now) >= SOURCE_LIMIT;
}

unsigned throttle_rank(const struct throttle *throttle, const struct address_source *source,
                       uint64_t now)
{
    const struct bucket *b = of_source(throttle, source);
    return (unsigned)level(b, now) + !(b && b->known > now);
}

void throttle_succeeded(struct throttle *throttle, const struct address_source *source,
                        uint64_t now)
{
    obtain_source(throttle, source, now)->known = now + KNOWN_MS;
}

unsigned throttle_failed(struct throttle *throttle, const struct address_source *source,
                         const char *user, uint64_t digest, uint64_t now)
{
    uint64_t name = hash(throttle, user, strlen(user));
    struct bucket *s = obtain_source(throttle, source, now);
    uint64_t attempt = digest ? name ^ digest : 0;
    unsigned filled = 0, cost = 1;
    if (attempt && s->digest == attempt)
        return 0;
    s->digest = attempt;
    if (*user) {
        struct bucket *u = obtain(throttle->users, name, user, now);
        filled |= fill(u, 1, USER_LIMIT, now) ? THROTTLE_USER : 0U;
        cost = level(u, now) >= USER_LIMIT ? ATTACKED_COST : 1;
    }
    filled |= fill(s, cost, SOURCE_LIMIT, now) ? THROTTLE_SOURCE : 0U;
    return filled;
}

bool throttle_next(const struct throttle *throttle, bool users, uint64_t now, size_t *at,
                   char name[PROTO_USER_MAX + 1], uint64_t *left)
{
    const struct bucket *table = users ? throttle->users : throttle->sources;
    const uint64_t limit = users ? USER_LIMIT : SOURCE_LIMIT;
    size_t i = *at;
    while (i < SLOTS && level(&table[i], now) < limit)
        i++;
    if (i >= SLOTS)
        return false;
    base_copy(name, PROTO_USER_MAX + 1, table[i].name);
    *left = table[i].empty - now - (limit - 1) * DRAIN_MS;
    *at = i + 1;
    return true;
}
