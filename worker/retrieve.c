/*
 * retrieve.c - streams content chunk by chunk. Runs in a worker, inside its sandbox. No transaction
 * is open between two chunks, so a slow client keeps nothing in the store from going on.
 */
#include "worker/retrieve.h"
#include "worker/wire.h"

#include <stdlib.h>
#include <string.h>

/* In place of a NUL, with [session] nul=replace: one octet, because sizes were told, and one that a
 * reader can see. */
enum { NUL_REPLACEMENT = '?' };

/* One message on its way: the header of a surrogate, if it is one, then content of the store. */
struct passage {
    int64_t id;
    uint64_t size, offset; /* octets of both; of these, read */
    char *header;          /* malloc'd */
    size_t header_size;
    uint64_t body; /* where the content begins that follows it */
    bool top;      /* as far as `cut` says, not whole */
    struct wire_cut cut;
    struct wire wire;
};

static void replace_nuls(unsigned char *octets, size_t size)
{
    for (unsigned char *at = octets; (at = memchr(at, '\0', size - (size_t)(at - octets)));)
        *at = NUL_REPLACEMENT;
}

/* The next chunk. A message that ends before its recorded size is damaged. */
static enum store_outcome read_chunk(struct session *s, struct passage *p, size_t *got)
{
    uint64_t left = p->size - p->offset;
    size_t wanted = left < sizeof s->chunk ? (size_t)left : sizeof s->chunk;
    enum store_outcome outcome = STORE_OK;
    uint64_t unwanted;
    *got = 0;
    if (wanted == 0)
        return STORE_OK;
    if (p->offset < p->header_size) {
        size_t rest = p->header_size - (size_t)p->offset;
        *got = wanted < rest ? wanted : rest;
        memcpy(s->chunk, p->header + p->offset, *got);
    } else if (p->offset == 0) {
        outcome = maildrop_read_first(s->view.maildrop, p->id, s->chunk, wanted, got,
                                      p->top ? &p->cut.header : &unwanted);
    } else {
        outcome = maildrop_read(s->view.maildrop, p->id, p->offset - p->header_size + p->body,
                                s->chunk, wanted, got);
    }
    if (outcome == STORE_OK && *got == 0)
        return STORE_DAMAGED;
    if (s->config->session.nul)
        replace_nuls(s->chunk, *got);
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

static void put_first_line(struct session *s, const struct passage *p)
{
    if (p->top) {
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
static bool pass(struct session *s, struct passage *p)
{
    size_t got;
    enum store_outcome outcome = read_chunk(s, p, &got);
    if (outcome != STORE_OK)
        return session_refuse_store(s, outcome);
    put_first_line(s, p);
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

/* A message in the form that this session gets; false, and the client is answered, when it cannot
 * have it. */
static bool begin(struct session *s, size_t index, struct passage *p)
{
    struct maildrop_entry entry = maildrop_snapshot_entry(s->view.snapshot, index);
    enum maildrop_form form = s->view.utf8 ? MAILDROP_AS_IS : entry.form;
    *p = (struct passage){.id = entry.id, .size = view_size_of(&s->view, &entry)};
    if (form == MAILDROP_UTF8_ONLY) {
        session_error(s, CODE_UTF8, TEXT_UTF8_ONLY);
        return false;
    }
    if (form == MAILDROP_SURROGATE) {
        enum store_outcome outcome =
            maildrop_surrogate(s->view.maildrop, p->id, &p->header, &p->header_size, &p->body);
        if (outcome != STORE_OK)
            return session_refuse_store(s, outcome);
        p->cut.header = p->header_size;
    }
    return true;
}

bool retrieve_message(struct session *s, size_t index)
{
    struct passage p;
    if (!begin(s, index, &p))
        return false;
    p.cut = (struct wire_cut){.header = p.size};
    bool whole = pass(s, &p);
    s->retrieved += whole;
    free(p.header);
    return whole;
}

bool retrieve_top(struct session *s, size_t index, uint64_t lines)
{
    struct passage p;
    if (!begin(s, index, &p))
        return false;
    p.cut.lines = lines;
    p.top = true;
    bool whole = pass(s, &p);
    free(p.header);
    return whole;
}
