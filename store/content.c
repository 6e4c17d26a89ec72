/*
 * content.c - a message's text, read in chunks.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. Each chunk is read in a transaction
 * of its own: a client at one octet a second must not keep the WAL from being emptied. It must
 * never pass off short content as whole: a chunk that is missing or of the wrong length is damage.
 */
#include "store/handle.h"
#include "store/schema.h"
#include "store/surrogate.h"
#include <stdlib.h>
#include <string.h>

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What a message's row says of its header. */
struct about {
    int64_t header_size, size, plain_size, form;
};

static enum store_outcome read_row(struct maildrop *m, int64_t id, struct about *about)
{
    struct about found;
    enum store_outcome outcome;
    sqlite3_stmt *statement;

    handle_begin_call(m);
    if ((outcome = handle_prepare(m, STATEMENT_HEADER, &statement)) != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, id);
    if ((outcome = handle_step_to_message(m, statement, id)) != STORE_OK)
        return outcome;
    if (!handle_column(statement, 0, &found.header_size) ||
        !handle_column(statement, 1, &found.size) ||
        !handle_column(statement, 2, &found.plain_size) ||
        !handle_column(statement, 3, &found.form) || found.header_size > found.size)
        outcome = handle_fail(m, STORE_DAMAGED, "message %lld has wrong sizes", (long long)id);
    else
        *about = found;
    sqlite3_reset(statement);
    return outcome;
}

/* Copy out of the row at hand: what chunk `seq` holds from `offset` of the message on. */
static enum store_outcome copy_chunk(struct maildrop *m, sqlite3_stmt *statement, int64_t id,
                                     uint64_t offset, char *buffer, size_t size, size_t *got)
{
    const uint64_t seq = offset / MAILDROP_CHUNK_SIZE, start = offset % MAILDROP_CHUNK_SIZE;
    int64_t total = 0;
    uint64_t length;
    const char *content;

    *got = 0;
    if (!handle_column(statement, 0, &total))
        return handle_fail(m, STORE_DAMAGED, "message %lld has no size", (long long)id);
    if (offset >= (uint64_t)total)
        return STORE_OK;
    length = smaller(MAILDROP_CHUNK_SIZE, (uint64_t)total - seq * MAILDROP_CHUNK_SIZE);
    if (sqlite3_column_type(statement, 1) != SQLITE_BLOB ||
        (uint64_t)sqlite3_column_bytes(statement, 1) != length)
        return handle_fail(m, STORE_DAMAGED, "chunk %llu of message %lld is missing or cut short",
                           (unsigned long long)seq, (long long)id);
    content = sqlite3_column_blob(statement, 1);
    if (!content)
        return handle_fail(m, STORE_MEMORY, "no memory for a chunk");
    *got = (size_t)smaller(size, length - start);
    memcpy(buffer, content + start, *got);
    return STORE_OK;
}

/* `header`: octets of the message's header, unless it is NULL. */
static enum store_outcome read_some(struct maildrop *m, int64_t id, uint64_t offset, char *buffer,
                                    size_t size, size_t *got, uint64_t *header)
{
    int64_t header_size;
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_CONTENT, &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2,
                       (id << SCHEMA_CHUNK_BITS) + (int64_t)(offset / MAILDROP_CHUNK_SIZE));
    if ((outcome = handle_step_to_message(m, statement, id)) != STORE_OK)
        return outcome;
    outcome = copy_chunk(m, statement, id, offset, buffer, size, got);
    if (outcome == STORE_OK && header) {
        if (handle_column(statement, 2, &header_size) &&
            header_size <= sqlite3_column_int64(statement, 0))
            *header = (uint64_t)header_size;
        else
            outcome = handle_fail(m, STORE_DAMAGED, "message %lld has wrong sizes", (long long)id);
    }
    sqlite3_reset(statement);
    return outcome;
}

static enum store_outcome read_from(struct maildrop *maildrop, int64_t id, uint64_t offset,
                                    void *buffer, size_t size, size_t *got, uint64_t *header)
{
    const uint64_t end = (uint64_t)MAILDROP_CHUNK_SIZE << SCHEMA_CHUNK_BITS;
    enum store_outcome outcome;
    size_t filled = 0, part = 0;
    char *to = buffer;

    handle_begin_call(maildrop);
    if (id <= 0 || id >> (63 - SCHEMA_CHUNK_BITS) > 0)
        return handle_fail(maildrop, STORE_NOT_FOUND, "message %lld is not there", (long long)id);
    do {
        outcome = read_some(maildrop, id, offset < end ? offset + filled : end - 1, to + filled,
                            size - filled, &part, filled == 0 ? header : NULL);
        if (outcome != STORE_OK)
            return outcome;
        filled += part;
    } while (part > 0 && filled < size);
    *got = filled;
    return STORE_OK;
}

enum store_outcome maildrop_read(struct maildrop *maildrop, int64_t id, uint64_t offset,
                                 void *buffer, size_t size, size_t *got)
{
    return read_from(maildrop, id, offset, buffer, size, got, NULL);
}

enum store_outcome maildrop_read_first(struct maildrop *maildrop, int64_t id, void *buffer,
                                       size_t size, size_t *got, uint64_t *header)
{
    return read_from(maildrop, id, 0, buffer, size, got, header);
}

/* The size that this message was given at delivery is what clients were told. */
static bool is_as_told(const struct about *about, size_t made_size)
{
    return about->size - about->header_size + (int64_t)made_size == about->plain_size;
}

enum store_outcome maildrop_surrogate(struct maildrop *maildrop, int64_t id, char **header,
                                      size_t *size, uint64_t *body)
{
    struct about about = {0};
    char *raw = NULL, *made = NULL;
    size_t got = 0, made_size = 0;
    enum surrogate_outcome making;
    enum store_outcome outcome = read_row(maildrop, id, &about);

    if (outcome != STORE_OK)
        return outcome;
    if (about.form != MAILDROP_SURROGATE || about.header_size > SURROGATE_HEADER_MAX)
        return handle_fail(maildrop, STORE_DAMAGED, "message %lld has no surrogate", (long long)id);
    raw = malloc((size_t)about.header_size + 1);
    if (!raw)
        return handle_fail(maildrop, STORE_MEMORY, "no memory for a header");
    outcome = maildrop_read(maildrop, id, 0, raw, (size_t)about.header_size, &got);
    if (outcome != STORE_OK)
        goto out;
    making = surrogate_make(raw, got, &made, &made_size);
    if (making == SURROGATE_NO_MEMORY) {
        outcome = handle_fail(maildrop, STORE_MEMORY, "no memory for a surrogate");
    } else if (making != SURROGATE_OK || !is_as_told(&about, made_size)) {
        outcome = handle_fail(maildrop, STORE_DAMAGED, "message %lld has another surrogate",
                              (long long)id);
    } else {
        *header = made;
        *size = made_size;
        *body = (uint64_t)about.header_size;
        made = NULL;
    }
out:
    free(made);
    free(raw);
    return outcome;
}
