/*
 * retrieve.c - streams content chunk by chunk. Runs in a worker, inside its sandbox. No transaction
 * is open between two chunks, so a slow client keeps nothing in the store from going on.
 */
#include "worker/retrieve.h"
#include "worker/wire.h"

/* One message on its way. */
struct passage {
    int64_t id;
    uint64_t size, offset; /* octets of content; of these, read */
    struct wire_cut cut;
    struct wire wire;
};

static bool store_failed(struct session *s, enum store_outcome outcome)
{
    enum session_code code = session_store_failed(s, outcome);
    session_error(s, code, code == CODE_SYS_PERM ? TEXT_STORE_PERM : TEXT_STORE_TEMP);
    return false;
}

/* The next chunk. A message that ends before its recorded size is damaged. */
static enum store_outcome read_chunk(struct session *s, struct passage *p, size_t *got)
{
    uint64_t left = p->size - p->offset;
    size_t wanted = left < sizeof s->chunk ? (size_t)left : sizeof s->chunk;
    *got = 0;
    if (wanted == 0)
        return STORE_OK;
    enum store_outcome outcome =
        maildrop_read(s->view.maildrop, p->id, p->offset, s->chunk, wanted, got);
    if (outcome == STORE_OK && *got == 0)
        return STORE_DAMAGED;
    p->offset += *got;
    return outcome;
}

static void put_content(struct session *s, struct wire *wire, const unsigned char *octets,
                        size_t size)
{
    while (size > 0) {
        size_t space, taken;
        unsigned char *to = stream_space(&s->stream, 2, &space);
        if (!to)
            return;
        stream_added(&s->stream, wire_stuff(wire, octets, size, to, space, &taken));
        octets += taken;
        size -= taken;
    }
}

static void put_first_line(struct session *s, const struct passage *p, bool whole)
{
    if (!whole) {
        session_ok(s, TEXT_TOP_FOLLOWS);
        return;
    }
    stream_put_text(&s->stream, "+OK ");
    stream_put_number(&s->stream, p->size);
    stream_put(&s->stream, " ", 1);
    session_put_text(s, TEXT_OCTETS);
    stream_put_text(&s->stream, "\r\n");
}

/* The first chunk is read before the client is told anything, so that most failures can still be
 * answered with -ERR. */
static bool pass(struct session *s, struct passage *p, bool whole)
{
    size_t got;
    enum store_outcome outcome = read_chunk(s, p, &got);
    if (outcome != STORE_OK)
        return store_failed(s, outcome);
    put_first_line(s, p, whole);
    while (got > 0) {
        put_content(s, &p->wire, s->chunk, wire_take(&p->cut, s->chunk, got));
        if (s->stream.failure != STREAM_OK || wire_taken(&p->cut))
            break;
        outcome = read_chunk(s, p, &got);
        if (outcome != STORE_OK) {
            session_store_failed(s, outcome);
            return false;
        }
    }
    unsigned char end[WIRE_END_SIZE];
    stream_put(&s->stream, end, wire_end(&p->wire, end));
    return s->stream.failure == STREAM_OK;
}

static struct passage passage(const struct session *s, size_t index)
{
    const struct maildrop_entry *entry = maildrop_snapshot_entry(s->view.snapshot, index);
    return (struct passage){.id = entry->id, .size = entry->size};
}

bool retrieve_message(struct session *s, size_t index)
{
    struct passage p = passage(s, index);
    p.cut = (struct wire_cut){.header = p.size};
    bool whole = pass(s, &p, true);
    s->retrieved += whole;
    return whole;
}

bool retrieve_top(struct session *s, size_t index, uint64_t lines)
{
    struct passage p = passage(s, index);
    enum store_outcome outcome = maildrop_header_size(s->view.maildrop, p.id, &p.cut.header);
    if (outcome != STORE_OK)
        return store_failed(s, outcome);
    p.cut.lines = lines;
    return pass(s, &p, false);
}
