/*
 * script.h - what a session says and what it must hear: the words of a script, one command of a
 * word, and the reading of replies. Knows nothing of sockets.
 */
#ifndef POPLAR_TESTS_BENCH_SCRIPT_H
#define POPLAR_TESTS_BENCH_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCRIPT_MAX = 16, SCRIPT_LINE_MAX = 512 };

/* How a reply ends. */
enum reply_kind {
    REPLY_LINE,  /* one line */
    REPLY_MULTI, /* a line and, unless it is an error, a text that ends with a dot */
    REPLY_SMTP,  /* lines until one without a hyphen after its code */
};

struct word {
    const char *name;
    enum reply_kind reply;
    enum { WORD_ONCE, WORD_EACH, WORD_DELIVER, WORD_HOLD } repeat;
    const char *command; /* of WORD_EACH: with %u for the message number */
};

struct script {
    size_t n;
    const struct word *words[SCRIPT_MAX];
};

/* From words with blanks between them; false names the bad one. */
bool script_parse(const char *text, struct script *script, const char **bad);

/* A reply on its way in. */
struct reader {
    enum reply_kind kind;
    bool in_text;
    unsigned matched; /* octets of CRLF.CRLF */
    size_t size;
    char line[SCRIPT_LINE_MAX]; /* the first, or the last of SMTP, without its end */
    uint64_t text_octets; /* of a whole text, as it is on the wire, without the line that ends it */
};

void reader_begin(struct reader *r, enum reply_kind kind);

/* Take octets of the reply; true when it is whole. `used` says how many were taken; of these, those
 * from `*text` on, `*text_size` many, belong to a text (the end of it included). */
bool reader_take(struct reader *r, const char *octets, size_t size, size_t *used, const char **text,
                 size_t *text_size);

/* Whether a whole reply says yes. */
bool reader_good(const struct reader *r);

#endif
