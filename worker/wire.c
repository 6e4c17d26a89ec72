/*
 * wire.c - dot-stuffing and TOP's cut. Runs in a worker, inside its sandbox, on content that
 * anybody may have sent as mail; the store has made every line end CRLF.
 */
#include "worker/wire.h"

#include <string.h>

/* The octets up to the next dot that begins a line, the first one aside. Looked for by its dots:
 * they are rarer than line ends, above all in what makes mail large. */
static size_t plain_size(const unsigned char *octets, size_t size)
{
    const unsigned char *end = octets + size, *dot = octets;
    do
        dot = memchr(dot + 1, '.', (size_t)(end - dot) - 1);
    while (dot && dot[-1] != '\n');
    return dot ? (size_t)(dot - octets) : size;
}

size_t wire_stuff(struct wire *wire, const unsigned char *from, size_t from_size, unsigned char *to,
                  size_t to_size, size_t *taken)
{
    size_t in = 0, out = 0;
    while (in < from_size && out < to_size) {
        bool begins = in > 0 ? from[in - 1] == '\n' : !wire->inside;
        if (begins && from[in] == '.') {
            if (to_size - out < 2)
                break;
            to[out++] = '.';
        }
        /* As much as both sides have. */
        size_t most = from_size - in < to_size - out ? from_size - in : to_size - out;
        size_t size = plain_size(from + in, most);
        memcpy(to + out, from + in, size);
        in += size;
        out += size;
    }
    if (in > 0)
        wire->inside = from[in - 1] != '\n';
    *taken = in;
    return out;
}

size_t wire_end(const struct wire *wire, unsigned char to[WIRE_END_SIZE])
{
    size_t size = 0;
    if (wire->inside) {
        to[size++] = '\r';
        to[size++] = '\n';
    }
    to[size++] = '.';
    to[size++] = '\r';
    to[size++] = '\n';
    return size;
}

size_t wire_take(struct wire_cut *cut, const unsigned char *octets, size_t size)
{
    size_t at = size < cut->header ? size : (size_t)cut->header;
    cut->header -= at;
    while (at < size && cut->lines > 0) {
        const unsigned char *end = memchr(octets + at, '\n', size - at);
        if (!end)
            return size;
        at = (size_t)(end - octets) + 1;
        cut->lines--;
    }
    return at;
}

bool wire_taken(const struct wire_cut *cut)
{
    return cut->header == 0 && cut->lines == 0;
}
