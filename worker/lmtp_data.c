/*
 * lmtp_data.c - see lmtp_data.h. Runs in a worker, inside its sandbox, on octets from anybody.
 */
#include "worker/lmtp_data.h"

#include <string.h>

/* Inside a line most octets mean nothing. Returns how many were copied. */
static size_t copy_run(struct lmtp_data *data, const char *in, size_t size, char *out)
{
    const char *cr = memchr(in, '\r', size);
    size_t run = cr ? (size_t)(cr - in) + 1 : size;
    memcpy(out, in, run);
    data->state = cr ? LMTP_DATA_CR : LMTP_DATA_LINE;
    return run;
}

/* One octet where it may matter. Returns how many were put out. */
static size_t step(struct lmtp_data *data, char c, char *out)
{
    size_t put = 0;
    switch (data->state) {
    case LMTP_DATA_START:
        if (c == '.') {
            data->state = LMTP_DATA_DOT;
            return 0;
        }
        break;
    case LMTP_DATA_DOT:
        if (c == '\r') {
            data->state = LMTP_DATA_DOT_CR;
            return 0;
        }
        break;
    case LMTP_DATA_DOT_CR:
        if (c == '\n') {
            data->state = LMTP_DATA_END;
            return 0;
        }
        out[put++] = '\r';
        break;
    case LMTP_DATA_CR:
        if (c == '\n') {
            data->state = LMTP_DATA_START;
            out[put++] = c;
            return put;
        }
        break;
    default:
        break;
    }
    data->state = c == '\r' ? LMTP_DATA_CR : LMTP_DATA_LINE;
    out[put++] = c;
    return put;
}

size_t lmtp_data_take(struct lmtp_data *data, const void *in, size_t size, void *out, size_t *used)
{
    const char *from = in;
    char *to = out;
    size_t at = 0, put = 0;
    while (at < size && data->state != LMTP_DATA_END) {
        if (data->state == LMTP_DATA_LINE) {
            size_t run = copy_run(data, from + at, size - at, to + put);
            at += run;
            put += run;
        } else {
            put += step(data, from[at++], to + put);
        }
    }
    *used = at;
    return put;
}
