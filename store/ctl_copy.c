/*
 * ctl_copy.c - one stored message into a file or a pipe. Runs in poplarctl. It must never write
 * what could not be read back as the same message.
 */
#include "store/ctl_copy.h"
#include "store/ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    FROM_SIZE = 5, /* "From " */
    /* A chunk, what a line begins with and was held back, and one '>' for each line of them. */
    OUT_ROOM = 2 * (MAILDROP_CHUNK_SIZE + 8)
};

size_t ctl_copy_convert(struct ctl_copy_lines *lines, const char *in, size_t size, char *out)
{
    size_t put = 0;
    for (size_t i = 0; i < size; i++) {
        if (lines->after_cr && in[i] != '\n') {
            out[put++] = '\r';
            lines->put_cr = true;
        }
        lines->lossy |= lines->after_cr && in[i] == '\n' && lines->put_cr;
        lines->after_cr = in[i] == '\r';
        if (!lines->after_cr) {
            out[put++] = in[i];
            lines->put_cr = false;
        }
    }
    return put;
}

enum store_outcome ctl_copy_maildrop(void *from, int64_t id, uint64_t offset, void *buffer,
                                     size_t size, size_t *got)
{
    return maildrop_read(from, id, offset, buffer, size, got);
}

static const char from[FROM_SIZE + 1] = "From ";

/* Quoting under way: how far the line at hand is like ">>From ". */
struct quote {
    bool inside; /* past what could be quoted */
    size_t from; /* letters of "From " that were held back */
};

static size_t give_back(struct quote *quote, char *out)
{
    size_t put = quote->from;
    memcpy(out, from, put);
    quote->from = 0;
    return put;
}

/* Lines of any number of '>' and "From " get one more '>'. The arrows of a line go out at once: one
 * more among them is as good as one before them. */
static size_t quote_lines(struct quote *quote, const char *in, size_t size, char *out)
{
    size_t put = 0;
    for (size_t i = 0; i < size; i++) {
        char c = in[i];
        if (!quote->inside && quote->from == 0 && c == '>') {
            out[put++] = c;
            continue;
        }
        if (!quote->inside && c == from[quote->from]) {
            if (++quote->from < FROM_SIZE)
                continue;
            out[put++] = '>';
            put += give_back(quote, out + put);
            quote->inside = true;
            continue;
        }
        put += give_back(quote, out + put);
        out[put++] = c;
        quote->inside = c != '\n';
    }
    return put;
}

/* One pass over the message; `fd` -1 only looks whether LF alone can give it back. */
static enum store_outcome pass(const struct ctl_copy *copy, int64_t id, int fd, bool crlf,
                               bool *lossy, int *error)
{
    char *in = base_alloc(MAILDROP_CHUNK_SIZE), *lf = base_alloc(MAILDROP_CHUNK_SIZE + 1);
    char *out = base_alloc(OUT_ROOM);
    struct ctl_copy_lines lines = {0};
    struct quote quote = {0};
    enum store_outcome outcome;
    uint64_t offset = 0;
    size_t got;
    while ((outcome = copy->read(copy->from, id, offset, in, MAILDROP_CHUNK_SIZE, &got)) ==
               STORE_OK &&
           got > 0 && !*error) {
        size_t size = crlf ? got : ctl_copy_convert(&lines, in, got, lf);
        const char *text = crlf ? in : lf;
        offset += got;
        if (fd < 0)
            continue;
        if (copy->quote) {
            size = quote_lines(&quote, text, size, out);
            text = out;
        }
        if (!ctl_write_all(fd, text, size))
            *error = errno;
        if (copy->progress)
            copy->progress(copy->context, offset);
    }
    *lossy = lines.lossy || lines.after_cr;
    free(in);
    free(lf);
    free(out);
    return outcome;
}

enum store_outcome ctl_copy_message(const struct ctl_copy *copy, int64_t id, int fd, int *error)
{
    bool crlf = copy->crlf, lossy = false;
    enum store_outcome outcome = STORE_OK;
    *error = 0;
    if (!crlf)
        outcome = pass(copy, id, -1, false, &lossy, error);
    if (outcome == STORE_OK)
        outcome = pass(copy, id, fd, crlf || lossy, &lossy, error);
    return outcome;
}
