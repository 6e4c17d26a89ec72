/*
 * model.h - what becomes of a message between its delivery and a client, said once more, without a
 * thought for speed or memory.
 */
#ifndef POPLAR_TESTS_FUZZ_MODEL_H
#define POPLAR_TESTS_FUZZ_MODEL_H

#include "tests/fuzz/fuzz.h"

struct text {
    unsigned char *octets;
    size_t size;
};

static inline struct text room_for(size_t size)
{
    const struct text text = {malloc(size + 1), 0};
    promise(text.octets);
    return text;
}

static inline void add(struct text *text, unsigned char c)
{
    text->octets[text->size++] = c;
}

/* As it is stored: every line, the last one too, ends in CRLF. */
static inline struct text model_convert(const uint8_t *data, size_t size)
{
    struct text out = room_for(2 * size + 2);
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '\n' && (i == 0 || data[i - 1] != '\r'))
            add(&out, '\r');
        add(&out, data[i]);
    }
    if (size > 0 && data[size - 1] != '\n') {
        add(&out, '\r');
        add(&out, '\n');
    }
    return out;
}

/* Octets up to and including the first empty line; all of them if there is none. */
static inline uint64_t model_header(const struct text *content)
{
    for (size_t i = 0; i + 1 < content->size; i++)
        if (memcmp(content->octets + i, "\r\n", 2) == 0 &&
            (i == 0 || content->octets[i - 1] == '\n'))
            return i + 2;
    return content->size;
}

/* As a multi-line reply holds it: `header` octets, then `lines` lines. */
static inline struct text model_send(const struct text *content, uint64_t header, uint64_t lines)
{
    struct text out = room_for(2 * content->size + 5);
    bool start = true;
    for (size_t i = 0; i < content->size && (i < header || lines > 0); i++) {
        if (start && content->octets[i] == '.')
            add(&out, '.');
        add(&out, content->octets[i]);
        start = content->octets[i] == '\n';
        if (i >= header && start)
            lines--;
    }
    memcpy(out.octets + out.size, ".\r\n", 3);
    out.size += 3;
    return out;
}

#endif
