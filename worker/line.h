/*
 * line.h - from octets as they arrive to command lines and their words. Pure: no descriptor.
 *
 * A line ends with LF; one CR before it belongs to the line end, any other CR is a control
 * character. A line longer than its limit is dropped whole, its tail is never a line of its own.
 * Every octet that was given out or dropped is wiped: some of these lines are passwords.
 */
#ifndef POPLAR_WORKER_LINE_H
#define POPLAR_WORKER_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LINE_BUFFER_SIZE = 49152, /* no limit of a line may be larger: a token in base64 fits */
    LINE_READ_SIZE = 4096,    /* octets read at once: a buffer used no further costs no memory */
    LINE_ENDLESS_SIZE = 65536 /* octets without a line end that nobody sends by mistake */
};

enum line_outcome {
    LINE_OK,       /* a line */
    LINE_MORE,     /* none complete yet */
    LINE_TOO_LONG, /* one that was longer than its limit ended and is gone */
    LINE_ENDLESS,  /* LINE_ENDLESS_SIZE octets without an end */
};

/* A line without its line end, followed by a NUL; may hold NULs itself. Valid until the next call
 * with its line_input. */
struct line {
    char *text;
    size_t size;
};

/* Octets read and not yet taken. Starts as all zeros. */
struct line_input {
    size_t start, end; /* what is held */
    size_t scanned;    /* octets from start on that hold no LF */
    size_t given;      /* octets from start on that are the line given out last */
    size_t dropped;    /* octets dropped so far of a line that is too long */
    bool dropping;
    unsigned char octets[LINE_BUFFER_SIZE];
};

/* Octets that a line beginning like this may have, line end included. */
typedef size_t line_limit(const void *context, const char *beginning, size_t size);

/* Room to read into, never none after LINE_MORE; then how much of it was filled. */
unsigned char *line_space(struct line_input *in, size_t *size);
void line_added(struct line_input *in, size_t size);

/* The next line. `context` is for the limit. */
enum line_outcome line_next(struct line_input *in, line_limit *limit, const void *context,
                            struct line *line);

/* Wipe the line given out last: it is not needed any more. */
void line_release(struct line_input *in);

/* Forget and wipe everything held. */
void line_discard(struct line_input *in);

/* What is held and not yet given out; then how much of it was used, and is wiped. */
const unsigned char *line_held(const struct line_input *in, size_t *size);
void line_take(struct line_input *in, size_t size);

/* Whether no octet is above 0x7f, whatever else is in it. */
bool line_is_ascii(const char *text, size_t size);

/* Whether this is well-formed UTF-8 without control characters. */
bool line_is_text(const char *text, size_t size);

/* Whether this may go to auth as a user name: text of 1 to PROTO_USER_MAX octets, no '/', neither
 * "." nor "..". */
bool line_is_user(const char *name, size_t size);

/* Whether this may go to auth as a password: 1 to PROTO_PASSWORD_MAX octets, no NUL, CR, LF. */
bool line_is_password(const char *secret, size_t size);

/* Octets before the first blank. */
size_t line_word(const char *text, size_t size);

/* Cut text at blanks into at most `max` words, in place. How many there are; max + 1: too many. */
size_t line_split(char *text, const char **words, size_t max);

/* A decimal number: digits and nothing else. What is too large becomes UINT64_MAX. */
bool line_number(const char *text, uint64_t *value);

#endif
