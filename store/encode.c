/*
 * encode.c - header text written in ASCII: encoded-words, MIME parameters, folded lines.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl, over octets that anybody may have
 * written. It must never write past its block, nor an octet above 0x7e that it was not given by
 * encode_put().
 */
#include "store/encode.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LINE_MAX_ENCODED = 76, /* octets of a line with encoded-words (RFC 2047 section 2) */
    WORD_MAX = 75,         /* octets of one of them */
    WORD_FRAME = 12,       /* of these "=?UTF-8?B?" and "?=" */
    WORD_LEAST = 16,       /* octets of payload below which a word goes into the next line */
    PIECE_MAX = 48,        /* octets of one piece of a parameter's value */
};

static const char charset_b[] = "=?UTF-8?B?", charset_q[] = "=?UTF-8?Q?", word_end[] = "?=";

bool encode_is_ascii(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)text[i] >= 0x80)
            return false;
    }
    return true;
}

static bool make_room(struct encode *e, size_t more)
{
    size_t room = e->room * 2 + more + 256;
    char *text;

    if (e->too_large || e->no_memory)
        return false;
    if (more > e->limit - e->size) {
        e->too_large = true;
        return false;
    }
    if (more <= e->room - e->size)
        return true;
    text = realloc(e->text, room);
    if (!text) {
        e->no_memory = true;
        return false;
    }
    e->text = text;
    e->room = room;
    return true;
}

void encode_put(struct encode *e, const char *text, size_t size)
{
    if (size == 0 || !make_room(e, size))
        return;
    memcpy(e->text + e->size, text, size);
    e->size += size;
    for (size_t i = 0; i < size; i++)
        e->column = text[i] == '\n' ? 0 : e->column + 1;
}

void encode_put_text(struct encode *e, const char *text)
{
    encode_put(e, text, strlen(text));
}

void encode_space(struct encode *e, size_t next)
{
    if (e->column > 0 && e->column + 1 + next > LINE_MAX_ENCODED)
        encode_put_text(e, "\r\n");
    encode_put(e, " ", 1);
}

/* Octets that stand for themselves in Q, in a phrase too (RFC 2047 section 5, rule 3). */
static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!*+-/", c));
}

static size_t q_size(char c)
{
    return is_plain(c) || c == ' ' ? 1 : 3;
}

/* Octets of the character at hand; the text is well-formed. */
static size_t character_size(const char *text, size_t size)
{
    size_t n = 1;

    while (n < size && ((unsigned char)text[n] & 0xc0) == 0x80)
        n++;
    return n;
}

static void put_q(struct encode *e, const char *text, size_t size)
{
    char hex[4];

    for (size_t i = 0; i < size; i++) {
        if (is_plain(text[i])) {
            encode_put(e, text + i, 1);
        } else if (text[i] == ' ') {
            encode_put(e, "_", 1);
        } else {
            snprintf(hex, sizeof(hex), "=%02X", (unsigned char)text[i]);
            encode_put(e, hex, 3);
        }
    }
}

static void put_b(struct encode *e, const char *text, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < size; i += 3) {
        const size_t n = size - i < 3 ? size - i : 3;
        unsigned long bits = 0;
        char group[] = {'=', '=', '=', '='};

        for (size_t j = 0; j < 3; j++)
            bits = bits << 8 | (j < n ? (unsigned char)text[i + j] : 0UL);
        for (size_t j = 0; j <= n; j++)
            group[j] = digits[bits >> (18 - 6 * j) & 0x3f];
        encode_put(e, group, sizeof(group));
    }
}

/* How many octets of the text one word of this payload holds: whole characters, at least one. */
static size_t word_takes(const char *text, size_t size, bool q, size_t payload)
{
    size_t taken = 0, used = 0;

    while (taken < size) {
        const size_t n = character_size(text + taken, size - taken);
        size_t more = 0;

        for (size_t i = 0; i < n; i++)
            more += q_size(text[taken + i]);
        if (taken > 0 && (q ? used + more > payload : (taken + n + 2) / 3 * 4 > payload))
            break;
        used += more;
        taken += n;
    }
    return taken;
}

void encode_words(struct encode *e, const char *text, size_t size)
{
    size_t q = 0;
    bool use_q;

    for (size_t i = 0; i < size; i++)
        q += q_size(text[i]);
    use_q = q <= (size + 2) / 3 * 6;
    for (size_t at = 0; at < size;) {
        size_t payload = WORD_MAX - WORD_FRAME, taken;

        encode_space(e, WORD_FRAME + WORD_LEAST);
        if (e->column + WORD_FRAME + payload > LINE_MAX_ENCODED)
            payload = LINE_MAX_ENCODED - WORD_FRAME - e->column;
        taken = word_takes(text + at, size - at, use_q, payload);
        encode_put_text(e, use_q ? charset_q : charset_b);
        if (use_q)
            put_q(e, text + at, taken);
        else
            put_b(e, text + at, taken);
        encode_put_text(e, word_end);
        at += taken;
    }
}

/* attribute-char of RFC 2231 section 7, without those that some clients stumble over. */
static bool is_attribute(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("-._", c));
}

/* How much of a value fits into one piece: whole characters, at least one. */
static size_t piece_takes(const char *value, size_t size)
{
    size_t taken = 0, used = 0;

    while (taken < size) {
        const size_t n = character_size(value + taken, size - taken);

        for (size_t i = 0; i < n; i++)
            used += is_attribute(value[taken + i]) ? 1 : 3;
        if (taken > 0 && used > PIECE_MAX)
            break;
        taken += n;
    }
    return taken;
}

static void put_piece(struct encode *e, const char *value, size_t size)
{
    char hex[4];

    for (size_t i = 0; i < size; i++) {
        if (is_attribute(value[i])) {
            encode_put(e, value + i, 1);
        } else {
            snprintf(hex, sizeof(hex), "%%%02X", (unsigned char)value[i]);
            encode_put(e, hex, 3);
        }
    }
}

void encode_parameter(struct encode *e, const char *name, size_t name_size, const char *value,
                      size_t size)
{
    const bool one_piece = piece_takes(value, size) == size;
    unsigned number = 0;
    size_t at = 0;
    char text[24];

    do {
        const size_t taken = piece_takes(value + at, size - at);

        encode_put_text(e, ";");
        encode_space(e, name_size + PIECE_MAX + 12);
        encode_put(e, name, name_size);
        if (!one_piece) {
            snprintf(text, sizeof(text), "*%u", number);
            encode_put_text(e, text);
        }
        encode_put_text(e, number == 0 ? "*=UTF-8''" : "*=");
        put_piece(e, value + at, taken);
        at += taken;
        number++;
    } while (at < size);
}
