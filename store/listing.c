/*
 * listing.c - messages packed for listings, and the groups of them that writers keep.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never leave a group behind
 * that says other than its rows: where they cannot be believed, there is no group.
 */
#include "store/listing.h"
#include "store/digest.h"
#include <endian.h>
#include <string.h>

/* The first octet of an entry. UIDLs of our own making (deliver.c) are the id and eight octets. */
enum {
    TAG_DISTANCE = 1, /* the id does not follow the one before directly */
    TAG_PLAIN = 2,    /* plain_size differs */
    TAG_OWN = 4,      /* eight octets of the UIDL; else one with its length, and its text */
    TAG_FORM = 3,     /* the form begins at this bit */
    TAG_END = 32,
    OWN_SIZE = 8,
    OWN_DIGITS = 2 * OWN_SIZE,
    ID_BITS = 43, /* of 63, SCHEMA_CHUNK_BITS are the chunks' */
};

/* Seven bits an octet, the lowest first; nine octets at most. */
static unsigned char *put_number(unsigned char *to, uint64_t number)
{
    for (; number >= 0x80; number >>= 7)
        *to++ = (unsigned char)(number | 0x80);
    *to++ = (unsigned char)number;
    return to;
}

static const unsigned char *take_number(const unsigned char *from, uint64_t *number)
{
    uint64_t octet = *from++, value = octet & 0x7f;

    for (unsigned shift = 7; octet & 0x80 && shift < 63; shift += 7) {
        octet = *from++;
        value |= (octet & 0x7f) << shift;
    }
    *number = value;
    return from;
}

/* Eight digits at once, the first in the highest octet: each step moves half of what there is
 * apart, until every octet is a digit's value. */
static uint64_t hex(uint32_t number)
{
    uint64_t v = number;

    v = (v | v << 16) & UINT64_C(0x0000ffff0000ffff);
    v = (v | v << 8) & UINT64_C(0x00ff00ff00ff00ff);
    v = (v | v << 4) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    /* those above 9 go on behind '9' with 'a' */
    return v + UINT64_C(0x3030303030303030) +
           ((v + UINT64_C(0x0606060606060606)) >> 4 & UINT64_C(0x0101010101010101)) *
               ('a' - '9' - 1);
}

/* Always writes eight octets. Returns how many digits there are without leading zeros. */
static inline size_t put_hex(uint32_t number, bool whole, char to[8])
{
    const unsigned skipped = whole ? 0 : (unsigned)__builtin_clz(number | 1) / 4;
    const uint64_t v = htobe64(hex(number) << skipped * 8);

    memcpy(to, &v, sizeof(v));
    return sizeof(v) - skipped;
}

/* The text of a UIDL that the store made, without an end. */
static size_t own_text(int64_t id, const unsigned char own[OWN_SIZE], char *text)
{
    const uint32_t high = (uint32_t)(id >> 32);
    uint32_t random[2];
    size_t n = high ? put_hex(high, false, text) : 0;

    memcpy(random, own, sizeof(random));
    n += put_hex((uint32_t)id, high != 0, text + n);
    text[n++] = '.';
    n += put_hex(be32toh(random[0]), true, text + n);
    n += put_hex(be32toh(random[1]), true, text + n);
    return n;
}

/* Whether a UIDL is one of those; then its octets. */
static bool is_own(int64_t id, const char *uidl, size_t length, unsigned char own[OWN_SIZE])
{
    char text[MAILDROP_UIDL_MAX];
    uint64_t random = 0;

    if (length <= OWN_DIGITS)
        return false;
    for (size_t i = length - OWN_DIGITS; i < length; i++) {
        const unsigned char c = (unsigned char)uidl[i];

        random = random << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    random = htobe64(random);
    memcpy(own, &random, OWN_SIZE);
    return own_text(id, own, text) == length && memcmp(text, uidl, length) == 0;
}

size_t maildrop_entry_uidl(const struct maildrop_entry *entry, char uidl[MAILDROP_UIDL_MAX + 1])
{
    size_t n = entry->uidl_size;

    if (n == 0)
        n = own_text(entry->id, entry->uidl, uidl);
    else
        memcpy(uidl, entry->uidl, n);
    uidl[n] = '\0';
    return n;
}

size_t listing_put(sqlite3_stmt *row, int64_t before, unsigned char *to,
                   struct maildrop_entry *entry)
{
    int64_t id, size, plain_size, form;
    char uidl[MAILDROP_UIDL_MAX + 1];
    unsigned char *at = to + 1, own[OWN_SIZE], tag;
    size_t length;

    if (!handle_column(row, 0, &id) || !handle_column(row, 1, &size) ||
        !handle_column(row, 2, &plain_size) || !handle_column(row, 3, &form) ||
        form > MAILDROP_UTF8_ONLY || id <= before || id >> ID_BITS > 0 ||
        !handle_column_uidl(row, 4, uidl))
        return 0;
    *entry = (struct maildrop_entry){.id = id,
                                     .size = (uint64_t)size,
                                     .plain_size = (uint64_t)plain_size,
                                     .form = (enum maildrop_form)form};
    tag = (unsigned char)(form << TAG_FORM);
    if (id != before + 1) {
        tag |= TAG_DISTANCE;
        at = put_number(at, (uint64_t)(id - before));
    }
    at = put_number(at, (uint64_t)size);
    if (plain_size != size) {
        tag |= TAG_PLAIN;
        at = put_number(at, (uint64_t)plain_size);
    }
    length = strlen(uidl);
    if (is_own(id, uidl, length, own)) {
        tag |= TAG_OWN;
        memcpy(at, own, OWN_SIZE);
        at += OWN_SIZE;
    } else {
        *at++ = (unsigned char)length;
        memcpy(at, uidl, length);
        at += length;
    }
    *to = tag;
    return (size_t)(at - to);
}

bool listing_take(const unsigned char **from, const unsigned char *end,
                  struct maildrop_entry *entry)
{
    const unsigned char *at = *from;
    const unsigned tag = *at++;
    uint64_t distance = 1, size, plain_size;
    bool sound = tag < TAG_END && tag >> TAG_FORM <= MAILDROP_UTF8_ONLY;

    if (tag & TAG_DISTANCE) {
        at = take_number(at, &distance);
        sound &= distance > 0 && distance >> ID_BITS == 0;
    }
    at = take_number(at, &size);
    plain_size = size;
    if (tag & TAG_PLAIN)
        at = take_number(at, &plain_size);
    if (tag & TAG_OWN) {
        entry->uidl_size = 0;
        entry->uidl = at;
        at += OWN_SIZE;
    } else {
        entry->uidl_size = *at++;
        entry->uidl = at;
        at += entry->uidl_size;
        sound &= handle_is_uidl(entry->uidl, entry->uidl_size);
    }
    entry->size = size;
    entry->plain_size = plain_size;
    entry->form = (enum maildrop_form)(tag >> TAG_FORM);
    entry->id = (int64_t)((uint64_t)entry->id + distance);
    *from = at;
    return sound && entry->id >> ID_BITS == 0 && at <= end;
}

/* A group's place is part of what is checked. */
static uint64_t digest(int64_t first, const void *entries, size_t size)
{
    return htole64(digest_octets(digest_number(DIGEST_START, (uint64_t)first), entries, size));
}

bool listing_sound(int64_t first, const void *group, size_t *size)
{
    uint64_t said;

    if (*size < LISTING_DIGEST || *size > LISTING_GROUP_MAX)
        return false;
    memcpy(&said, (const unsigned char *)group + *size - LISTING_DIGEST, LISTING_DIGEST);
    *size -= LISTING_DIGEST;
    return digest(first, group, *size) == said;
}

enum store_outcome listing_make(struct maildrop *m, int64_t first,
                                unsigned char group[LISTING_GROUP_MAX], size_t *size)
{
    struct maildrop_entry entry = {.id = first - 1};
    sqlite3_stmt *rows;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_SNAPSHOT, &rows);
    size_t used = 0;

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(rows, 1, first);
    sqlite3_bind_int64(rows, 2, first + LISTING_SPAN - 1);
    while ((outcome = handle_step(m, rows)) == STORE_OK) {
        const size_t put = listing_put(rows, entry.id, group + used, &entry);

        if (put == 0) {
            sqlite3_reset(rows);
            return STORE_END;
        }
        used += put;
    }
    if (outcome != STORE_END)
        return outcome;
    memcpy(group + used, &(uint64_t){digest(first, group, used)}, LISTING_DIGEST);
    *size = used + LISTING_DIGEST;
    return STORE_OK;
}

static enum store_outcome drop(struct maildrop *m, enum statement which, int64_t first)
{
    sqlite3_stmt *statement;
    const enum store_outcome outcome = handle_prepare(m, which, &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, first);
    return handle_finish(m, statement);
}

static enum store_outcome renew(struct maildrop *m, int64_t first)
{
    unsigned char group[LISTING_GROUP_MAX];
    size_t size = 0;
    sqlite3_stmt *statement;
    enum store_outcome outcome = listing_make(m, first, group, &size);

    if (outcome == STORE_END)
        return drop(m, STATEMENT_DROP_GROUP, first);
    if (outcome != STORE_OK ||
        (outcome = handle_prepare(m, STATEMENT_SET_GROUP, &statement)) != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, first);
    sqlite3_bind_blob(statement, 2, group, (int)size, SQLITE_STATIC);
    outcome = handle_finish(m, statement);
    sqlite3_clear_bindings(statement);
    return outcome;
}

static bool has_groups(const struct maildrop *m)
{
    return m->minor >= 3;
}

static int64_t first_of(int64_t id)
{
    return id - id % LISTING_SPAN;
}

enum store_outcome listing_grow(struct maildrop *m, int64_t id)
{
    if (!has_groups(m) || id % LISTING_SPAN != LISTING_SPAN - 1)
        return STORE_OK;
    return renew(m, first_of(id));
}

enum store_outcome listing_renew(struct maildrop *m, const int64_t *ids, size_t n, int64_t last_id)
{
    enum store_outcome outcome = STORE_OK;
    int64_t done = -1;

    if (m->groups_astray) {
        m->groups_astray = false;
        return listing_fill(m);
    }
    for (size_t i = 0; has_groups(m) && outcome == STORE_OK && i < n; i++) {
        const int64_t first = first_of(ids[i]);

        if (first != done && first + LISTING_SPAN - 1 <= last_id)
            outcome = renew(m, first);
        done = first;
    }
    return outcome;
}

enum store_outcome listing_forget(struct maildrop *m, const int64_t *ids, size_t n)
{
    enum store_outcome outcome = STORE_OK;
    int64_t done = -1;

    for (size_t i = 0; has_groups(m) && outcome == STORE_OK && i < n; i++) {
        const int64_t first = first_of(ids[i]);

        if (first != done)
            outcome = drop(m, STATEMENT_DROP_EMPTY_GROUP, first);
        done = first;
    }
    return outcome;
}

/* The next id from one on that any message has. A tree whose pages are out of order finds one
 * before it, again and again. */
static enum store_outcome next_id(struct maildrop *m, int64_t from, int64_t *id)
{
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_NEXT, &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, from - 1);
    if ((outcome = handle_step(m, statement)) != STORE_OK)
        return outcome;
    *id = sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    return *id >= from ? STORE_OK
                       : handle_fail(m, STORE_DAMAGED, "message %lld is where %lld would be",
                                     (long long)*id, (long long)from);
}

enum store_outcome listing_fill(struct maildrop *m)
{
    struct maildrop_totals totals;
    int64_t from = 1;
    enum store_outcome outcome = handle_state(m, &totals);

    if (outcome == STORE_OK)
        outcome = handle_run(m, STATEMENT_DROP_GROUPS);
    while (outcome == STORE_OK && (outcome = next_id(m, from, &from)) == STORE_OK &&
           first_of(from) + LISTING_SPAN - 1 <= totals.last_id) {
        outcome = renew(m, first_of(from));
        from = first_of(from) + LISTING_SPAN;
    }
    return outcome == STORE_END ? STORE_OK : outcome;
}
