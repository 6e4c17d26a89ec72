/*
 * fuzz_wire.c - line ends, dot-stuffing, TOP's cut and command lines, each against a simple model,
 * in pieces of any size.
 *
 * Promised: what the model gives, octet for octet, wherever the pieces are cut; what is stuffed on
 * its way out is the same after it is unstuffed on its way in.
 */
#include "store/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/model.h"
#include "worker/line.h"
#include "worker/lmtp_data.h"

/* It has a struct wire of its own. */
#define wire worker_wire
#include "worker/wire.h"
#undef wire

/* Sizes of pieces, from the input. */
struct pieces {
    const uint8_t *sizes;
    size_t n, at;
};

static size_t next_piece(struct pieces *p, size_t left)
{
    size_t size = p->n > 0 ? (size_t)p->sizes[p->at++ % p->n] + 1 : left;
    return size < left ? size : left;
}

static void feed(struct wire *w, struct pieces *pieces, const void *from, size_t size,
                 struct text *out)
{
    for (size_t done = 0; done < size;) {
        size_t part = next_piece(pieces, size - done), room = next_piece(pieces, 300), used = 0;
        char *in = fuzz_copy((const uint8_t *)from + done, part, false), *to = malloc(room);
        const size_t put = wire_convert(w, in, part, to, room, &used);
        promise(put <= room && used <= part && (put > 0 || used > 0));
        memcpy(out->octets + out->size, to, put);
        out->size += put;
        done += used;
        free(to);
        free(in);
    }
}

static struct text try_convert(struct pieces *pieces, const uint8_t *data, size_t size)
{
    struct text wanted = model_convert(data, size), out = room_for(2 * size + 2);
    struct wire w = {0};
    feed(&w, pieces, data, size, &out);
    if (wire_unfinished(&w))
        feed(&w, pieces, wire_line_end, sizeof wire_line_end, &out);
    promise(out.size == wanted.size && memcmp(out.octets, wanted.octets, out.size) == 0);
    promise(w.octets == out.size);
    promise(wire_header(&w) == model_header(&wanted));
    free(wanted.octets);
    return out;
}

/* worker/lmtp_data.h: the message up to CRLF "." CRLF, a dot before a line's others removed. */
static bool model_unstuff(const uint8_t *data, size_t size, struct text *out, size_t *used)
{
    bool start = true;
    for (size_t i = 0; i < size;) {
        if (start && size - i >= 3 && memcmp(data + i, ".\r\n", 3) == 0) {
            *used = i + 3;
            return true;
        }
        if (start && data[i] == '.') {
            i++;
            start = false;
            continue;
        }
        add(out, data[i]);
        start = data[i] == '\n' && i > 0 && data[i - 1] == '\r';
        i++;
    }
    *used = size;
    return false;
}

static struct text try_unstuff(struct pieces *pieces, const uint8_t *data, size_t size, bool *ended)
{
    struct lmtp_data state = {0};
    struct text wanted = room_for(size), out = room_for(size);
    size_t used = 0, all = 0;
    *ended = model_unstuff(data, size, &wanted, &used);
    while (all < size && state.state != LMTP_DATA_END) {
        size_t part = next_piece(pieces, size - all), took = 0;
        char *in = fuzz_copy(data + all, part, false), *to = malloc(part + 1);
        size_t put = lmtp_data_take(&state, in, part, to, &took);
        promise(took <= part && put <= part + 1 && out.size + put <= size + 1);
        memcpy(out.octets + out.size, to, put);
        out.size += put;
        all += took;
        free(to);
        free(in);
    }
    promise((state.state == LMTP_DATA_END) == *ended);
    if (*ended) {
        promise(all == used && out.size == wanted.size &&
                memcmp(out.octets, wanted.octets, out.size) == 0);
    } else {
        /* What waits for its next octet is not put out yet. */
        promise(out.size <= wanted.size && wanted.size - out.size <= 1 &&
                memcmp(out.octets, wanted.octets, out.size) == 0);
    }
    free(wanted.octets);
    return out;
}

/* worker/wire.h */
static struct text try_send(struct pieces *pieces, const struct text *content, uint64_t header,
                            uint64_t lines)
{
    struct text wanted = model_send(content, header, lines), out = room_for(2 * content->size + 5);
    struct worker_wire w = {0};
    struct wire_cut cut = {header, lines};
    for (size_t at = 0; at < content->size && !wire_taken(&cut);) {
        const size_t part = next_piece(pieces, content->size - at);
        unsigned char *in = (unsigned char *)fuzz_copy(content->octets + at, part, false);
        const size_t belongs = wire_take(&cut, in, part);
        promise(belongs == part || wire_taken(&cut));
        for (size_t done = 0; done < belongs;) {
            size_t room = 1 + next_piece(pieces, 300), taken = 0;
            unsigned char *to = malloc(room);
            const size_t put = wire_stuff(&w, in + done, belongs - done, to, room, &taken);
            promise(put <= room && taken > 0);
            memcpy(out.octets + out.size, to, put);
            out.size += put;
            done += taken;
            free(to);
        }
        at += part;
        free(in);
    }
    out.size += wire_end(&w, out.octets + out.size);
    promise(out.size == wanted.size && memcmp(out.octets, wanted.octets, out.size) == 0);
    free(wanted.octets);
    return out;
}

/* worker/line.h: lines of at most 80 octets, of at most 40 if they begin with 'a'. */
static size_t limit_of(const void *context, const char *beginning, size_t size)
{
    (void)context;
    return size > 0 && beginning[0] == 'a' ? 40 : 80;
}

static void try_lines(struct pieces *pieces, const uint8_t *data, size_t size)
{
    struct line_input *in = calloc(1, sizeof *in);
    size_t fed = 0, at = 0;
    for (;;) {
        struct line line = {0};
        const enum line_outcome outcome = line_next(in, limit_of, NULL, &line);
        const uint8_t *end = at < size ? memchr(data + at, '\n', size - at) : NULL;
        if (outcome == LINE_MORE) {
            size_t room, part;
            if (fed == size)
                break;
            unsigned char *space = line_space(in, &room);
            part = next_piece(pieces, size - fed);
            part = part < room ? part : room;
            promise(part > 0);
            memcpy(space, data + fed, part);
            line_added(in, part);
            fed += part;
            continue;
        }
        if (outcome == LINE_ENDLESS)
            break;
        promise(end);
        const size_t whole = (size_t)(end - (data + at)) + 1;
        size_t text = whole - 1 - (whole > 1 && end[-1] == '\r');
        const bool fits = whole <= limit_of(NULL, (const char *)data + at, text);
        promise((outcome == LINE_OK) == fits);
        if (outcome == LINE_OK) {
            const char *words[3];
            uint64_t value;
            promise(line.size == text && memcmp(line.text, data + at, text) == 0);
            promise(line.text[text] == '\0');
            line_number(line.text, &value);
            if (line_is_text(line.text, line.size)) {
                promise(line_word(line.text, line.size) <= line.size);
                promise(line_split(line.text, words, 3) <= 4);
            }
            line_release(in);
        }
        at += whole;
    }
    free(in);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pieces pieces = {.n = fuzz_octet(&data, &size) % 8};
    const uint64_t lines = fuzz_octet(&data, &size);
    bool ended;
    pieces.n = pieces.n < size ? pieces.n : size;
    pieces.sizes = data;
    data += pieces.n;
    size -= pieces.n;

    struct text content = try_convert(&pieces, data, size);
    struct text sent = try_send(&pieces, &content, model_header(&content), lines);
    free(sent.octets);
    sent = try_send(&pieces, &content, content.size, 0);
    struct text back = try_unstuff(&pieces, sent.octets, sent.size, &ended);
    promise(ended && back.size == content.size &&
            memcmp(back.octets, content.octets, back.size) == 0);
    free(back.octets);
    free(sent.octets);
    free(content.octets);
    back = try_unstuff(&pieces, data, size, &ended);
    free(back.octets);
    try_lines(&pieces, data, size);
    return 0;
}
