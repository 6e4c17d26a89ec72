/*
 * wire.c - message text as it is handed in, made into the octets that go on the wire.
 *
 * Runs in a worker (delivery) and in poplarctl (import), over octets that anybody may have
 * written. It must never read or write outside the two buffers it is given.
 */
#include "store/wire.h"
#include <string.h>

const char wire_line_end[2] = {'\r', '\n'};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Put out octets of which only the last may be a line end. */
static void account(struct wire *wire, const char *octets, size_t size)
{
    wire->octets += size;
    wire->line += size;
    wire->after_cr = octets[size - 1] == '\r';
    if (octets[size - 1] != '\n')
        return;
    if (wire->line == sizeof(wire_line_end) && wire->header == 0)
        wire->header = wire->octets;
    wire->line = 0;
}

size_t wire_convert(struct wire *wire, const void *in, size_t size, void *out, size_t room,
                    size_t *used)
{
    const char *from = in;
    char *to = out;
    size_t taken = 0, put = 0;

    while (taken < size && put < room) {
        const char *next = from + taken;
        const char *line_feed = memchr(next, '\n', smaller(size - taken, room - put));
        size_t run = line_feed ? (size_t)(line_feed - next) : smaller(size - taken, room - put);

        if (run > 0) {
            memcpy(to + put, next, run);
            taken += run;
        } else if (wire->after_cr) {
            to[put] = '\n';
            run = 1;
            taken++;
        } else {
            /* The LF itself stays for the next round, when there may be room for it. */
            to[put] = '\r';
            run = 1;
        }
        account(wire, to + put, run);
        put += run;
    }
    *used = taken;
    return put;
}

bool wire_unfinished(const struct wire *wire)
{
    return wire->line > 0;
}

uint64_t wire_header(const struct wire *wire)
{
    return wire->header > 0 ? wire->header : wire->octets;
}
