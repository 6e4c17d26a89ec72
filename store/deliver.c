/*
 * deliver.c - a message on its way in: made fit for the wire, cut into chunks, counted, committed.
 *
 * Runs in a worker (delivery) and in poplarctl (import). It must never acknowledge what is not on
 * disk, and never leave a part of a message behind: all that a delivery writes is one transaction,
 * or one savepoint of a batch's.
 */
#include "store/digest.h"
#include "store/handle.h"
#include "store/listing.h"
#include "store/schema.h"
#include "store/surrogate.h"
#include "store/wire.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { SOURCE_SIZE = 32768 }; /* octets asked from the source at a time */

/* The largest message that chunk numbers can tell apart. */
#define LARGEST ((uint64_t)MAILDROP_CHUNK_SIZE << SCHEMA_CHUNK_BITS)

/* One delivery under way. */
struct intake {
    struct maildrop *m;
    int64_t id;
    uint64_t limit; /* octets that the message may have */
    enum store_outcome past_limit;
    struct wire wire;
    struct surrogate_scan scan; /* of the header, if it may be UTF-8 */
    char *header;               /* the same, as far as it has a surrogate */
    size_t header_size, header_room;
    bool utf8_headers, header_too_large;
    enum maildrop_form form;
    uint64_t plain_size;
    uint64_t n_chunks;
    uint64_t digest; /* of the content, as far as it is stored */
    size_t filled;
    char raw[SOURCE_SIZE];
    char chunk[MAILDROP_CHUNK_SIZE];
};

/* The id makes a UIDL unique in this file; the random part keeps it from coming back with another
 * message when an older copy of the file is restored. */
static enum store_outcome make_uidl(struct maildrop *m, int64_t id, char *uidl, size_t size)
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return handle_fail(m, STORE_IO, "no randomness from the system");
    snprintf(uidl, size, "%llx.%016llx", (unsigned long long)id, (unsigned long long)random);
    return STORE_OK;
}

static enum store_outcome check_uidl_free(struct maildrop *m, const char *uidl)
{
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_HAS_UIDL, &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_text(statement, 1, uidl, -1, SQLITE_STATIC);
    outcome = handle_step(m, statement);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    if (outcome == STORE_OK)
        return handle_fail(m, STORE_EXISTS, "a message with UIDL %s is there", uidl);
    return outcome == STORE_END ? STORE_OK : outcome;
}

/* The smaller of two limits, and what to say past it. 0 is no limit. */
static void set_limit(struct intake *in, uint64_t limit, enum store_outcome past_limit)
{
    if (limit < in->limit) {
        in->limit = limit;
        in->past_limit = past_limit;
    }
}

static enum store_outcome set_limits(struct intake *in, const struct maildrop_delivery *delivery,
                                     const struct maildrop_totals *totals)
{
    uint64_t octets = delivery->quota_octets, messages = delivery->quota_messages;
    enum store_outcome outcome;

    in->limit = LARGEST;
    in->past_limit = STORE_TOO_LARGE;
    if (delivery->no_limits)
        return STORE_OK;
    if ((outcome = handle_limit(in->m, MAILDROP_QUOTA_OCTETS, &octets)) != STORE_OK ||
        (outcome = handle_limit(in->m, MAILDROP_QUOTA_MESSAGES, &messages)) != STORE_OK)
        return outcome;
    if (delivery->max_message > 0)
        set_limit(in, delivery->max_message, STORE_TOO_LARGE);
    if (messages > 0 && totals->messages >= messages)
        return handle_fail(in->m, STORE_OVER_QUOTA, "messages in the maildrop: %llu, allowed: %llu",
                           (unsigned long long)totals->messages, (unsigned long long)messages);
    if (octets > 0)
        set_limit(in, octets > totals->octets ? octets - totals->octets : 0, STORE_OVER_QUOTA);
    return STORE_OK;
}

static enum store_outcome store_chunk(struct intake *in)
{
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(in->m, STATEMENT_ADD_CHUNK, &statement);

    if (outcome != STORE_OK)
        return outcome;
    in->digest = digest_octets(in->digest, in->chunk, in->filled);
    sqlite3_bind_int64(statement, 1, (in->id << SCHEMA_CHUNK_BITS) + (int64_t)in->n_chunks);
    sqlite3_bind_blob(statement, 2, in->chunk, (int)in->filled, SQLITE_STATIC);
    outcome = handle_finish(in->m, statement);
    sqlite3_clear_bindings(statement);
    in->n_chunks++;
    in->filled = 0;
    return outcome;
}

/* Keep the header, which ends somewhere in or after these octets. */
static enum store_outcome keep_header(struct intake *in, const char *octets, size_t size)
{
    const uint64_t before = in->wire.octets - size;
    char *header;

    if (in->wire.header > 0 && in->wire.header <= before)
        return STORE_OK;
    if (in->wire.header > 0)
        size = (size_t)(in->wire.header - before);
    surrogate_scan(&in->scan, octets, size);
    if (size > SURROGATE_HEADER_MAX - in->header_size)
        in->header_too_large = true;
    if (in->header_too_large)
        return STORE_OK;
    if (size > in->header_room - in->header_size) {
        header = realloc(in->header, in->header_room * 2 + size);
        if (!header)
            return handle_fail(in->m, STORE_MEMORY, "no memory for a header");
        in->header = header;
        in->header_room = in->header_room * 2 + size;
    }
    memcpy(in->header + in->header_size, octets, size);
    in->header_size += size;
    return STORE_OK;
}

static enum store_outcome take_in(struct intake *in, const char *text, size_t size)
{
    while (size > 0) {
        size_t used = 0;
        const size_t put = wire_convert(&in->wire, text, size, in->chunk + in->filled,
                                        sizeof(in->chunk) - in->filled, &used);
        if (in->utf8_headers) {
            const enum store_outcome outcome = keep_header(in, in->chunk + in->filled, put);
            if (outcome != STORE_OK)
                return outcome;
        }
        in->filled += put;
        text += used;
        size -= used;
        if (in->wire.octets > in->limit)
            return handle_fail(in->m, in->past_limit, "the message has more octets than %llu",
                               (unsigned long long)in->limit);
        if (in->filled == sizeof(in->chunk)) {
            const enum store_outcome outcome = store_chunk(in);
            if (outcome != STORE_OK)
                return outcome;
        }
    }
    return STORE_OK;
}

/* Read the source to its end. */
static enum store_outcome take_all(struct intake *in, maildrop_source *source, void *context)
{
    enum store_outcome outcome = STORE_OK;
    ssize_t got = 0;

    while (outcome == STORE_OK && (got = source(context, in->raw, sizeof(in->raw))) > 0) {
        if ((size_t)got > sizeof(in->raw))
            return handle_fail(in->m, STORE_SOURCE, "the source gave more than it was asked for");
        outcome = take_in(in, in->raw, (size_t)got);
    }
    if (outcome == STORE_OK && got < 0)
        return handle_fail(in->m, STORE_SOURCE, "the message could not be read");
    if (outcome == STORE_OK && wire_unfinished(&in->wire))
        outcome = take_in(in, wire_line_end, sizeof(wire_line_end));
    if (outcome == STORE_OK && in->filled > 0)
        outcome = store_chunk(in);
    return outcome;
}

/* What sessions without UTF8 will get, now that all of the header is there. */
static enum store_outcome settle_form(struct intake *in)
{
    char *made;
    size_t size;

    in->form = MAILDROP_AS_IS;
    in->plain_size = in->wire.octets;
    if (!surrogate_needed(&in->scan))
        return STORE_OK;
    in->form = MAILDROP_UTF8_ONLY;
    if (in->header_too_large)
        return STORE_OK;
    switch (surrogate_make(in->header, in->header_size, &made, &size)) {
    case SURROGATE_OK:
        free(made);
        in->form = MAILDROP_SURROGATE;
        in->plain_size = in->wire.octets - in->header_size + size;
        return STORE_OK;
    case SURROGATE_TOO_LARGE:
        return STORE_OK;
    default:
        return handle_fail(in->m, STORE_MEMORY, "no memory for a surrogate");
    }
}

static enum store_outcome add_message(struct intake *in, const char *uidl,
                                      const struct maildrop_delivery *delivery)
{
    const int64_t now = (int64_t)time(NULL);
    const struct digest_row row = {.uidl = uidl,
                                   .size = (int64_t)in->wire.octets,
                                   .plain_size = (int64_t)in->plain_size,
                                   .form = in->form,
                                   .header_size = (int64_t)wire_header(&in->wire),
                                   .received = delivery->received > 0 ? delivery->received : now};
    const bool digested = in->m->minor >= 2;
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(
        in->m, digested ? STATEMENT_ADD_MESSAGE : STATEMENT_ADD_MESSAGE_1, &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, in->id);
    sqlite3_bind_text(statement, 2, uidl, -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 3, row.size);
    sqlite3_bind_int64(statement, 4, row.plain_size);
    sqlite3_bind_int64(statement, 5, row.form);
    sqlite3_bind_int64(statement, 6, row.header_size);
    sqlite3_bind_int64(statement, 7, row.received);
    if (delivery->retrieved)
        sqlite3_bind_int64(statement, 8, now);
    if (digested)
        sqlite3_bind_int64(statement, 9, digest_message(in->digest, &row));
    outcome = handle_finish(in->m, statement);
    sqlite3_clear_bindings(statement);
    return outcome;
}

/* The whole delivery, inside a transaction. */
static enum store_outcome deliver(struct intake *in, const struct maildrop_delivery *delivery,
                                  maildrop_source *source, void *context)
{
    char made[MAILDROP_UIDL_MAX + 1];
    const char *uidl = delivery->uidl ? delivery->uidl : made;
    struct maildrop_totals totals;
    enum store_outcome outcome = handle_state(in->m, &totals);

    if (outcome != STORE_OK)
        return outcome;
    in->id = totals.last_id + 1;
    if (in->id >> (63 - SCHEMA_CHUNK_BITS) > 0)
        return handle_fail(in->m, STORE_DAMAGED, "the last message's id is out of all bounds");
    if (!delivery->uidl && (outcome = make_uidl(in->m, in->id, made, sizeof(made))) != STORE_OK)
        return outcome;
    if ((outcome = check_uidl_free(in->m, uidl)) != STORE_OK ||
        (outcome = set_limits(in, delivery, &totals)) != STORE_OK ||
        (outcome = take_all(in, source, context)) != STORE_OK ||
        (outcome = settle_form(in)) != STORE_OK ||
        (outcome = add_message(in, uidl, delivery)) != STORE_OK ||
        (outcome = listing_grow(in->m, in->id)) != STORE_OK)
        return outcome;
    totals.messages++;
    totals.octets += in->wire.octets;
    totals.plain_octets += in->plain_size;
    totals.last_id = in->id;
    return handle_set_state(in->m, &totals);
}

/* The same as a part of a batch: a failure undoes this message only, unless it was of a kind with
 * which SQLite ends the whole transaction. */
static enum store_outcome deliver_in_batch(struct intake *in,
                                           const struct maildrop_delivery *delivery,
                                           maildrop_source *source, void *context)
{
    struct maildrop *m = in->m;
    enum store_outcome saved, outcome;

    if (m->batch_outcome != STORE_OK)
        return m->batch_outcome;
    handle_begin_call(m);
    outcome = saved = handle_run(m, STATEMENT_SAVE);
    if (saved == STORE_OK)
        outcome = deliver(in, delivery, source, context);
    /* Without a transaction the next savepoint would be one, and its release a commit. */
    if (outcome != STORE_OK && sqlite3_get_autocommit(m->db)) {
        m->batch_outcome = outcome;
        return outcome;
    }
    if (saved != STORE_OK)
        return saved;
    if (outcome != STORE_OK && handle_run(m, STATEMENT_UNDO) != STORE_OK)
        m->batch_outcome = outcome;
    if (handle_run(m, STATEMENT_RELEASE) != STORE_OK) {
        m->batch_outcome = outcome != STORE_OK ? outcome : STORE_IO;
        return m->batch_outcome;
    }
    return outcome;
}

enum store_outcome maildrop_deliver(struct maildrop *maildrop,
                                    const struct maildrop_delivery *delivery,
                                    maildrop_source *source, void *context, int64_t *id)
{
    enum store_outcome outcome;
    struct intake *in;

    if (delivery->uidl &&
        !handle_is_uidl(delivery->uidl, strnlen(delivery->uidl, MAILDROP_UIDL_MAX + 1)))
        return handle_fail(maildrop, STORE_REFUSED, "a UIDL is 1 to 70 octets of 0x21 to 0x7E");
    in = malloc(sizeof(*in));
    if (!in)
        return handle_fail(maildrop, STORE_MEMORY, "no memory for a message's buffers");
    memset(in, 0, offsetof(struct intake, raw));
    in->m = maildrop;
    in->digest = DIGEST_START;
    in->utf8_headers = delivery->utf8_headers;
    if (maildrop->in_batch) {
        outcome = deliver_in_batch(in, delivery, source, context);
    } else if ((outcome = handle_begin_delivery(maildrop)) == STORE_OK) {
        outcome = deliver(in, delivery, source, context);
        outcome = handle_end_write(maildrop, outcome);
    }
    if (outcome == STORE_OK && id)
        *id = in->id;
    free(in->header);
    free(in);
    return outcome;
}

enum store_outcome maildrop_batch_begin(struct maildrop *maildrop)
{
    enum store_outcome outcome;

    if (maildrop->in_batch)
        return handle_fail(maildrop, STORE_REFUSED, "a batch of deliveries is open already");
    outcome = handle_begin_delivery(maildrop);
    maildrop->in_batch = outcome == STORE_OK;
    maildrop->batch_outcome = STORE_OK;
    return outcome;
}

enum store_outcome maildrop_batch_end(struct maildrop *maildrop, bool commit)
{
    if (!maildrop->in_batch)
        return handle_fail(maildrop, STORE_REFUSED, "no batch of deliveries is open");
    maildrop->in_batch = false;
    if (!commit) {
        handle_end_write(maildrop, STORE_END);
        return STORE_OK;
    }
    return handle_end_write(maildrop, maildrop->batch_outcome);
}
