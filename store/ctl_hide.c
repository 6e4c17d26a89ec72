/*
 * ctl_hide.c - a message without the notes that a server keeps in its header. Runs in poplarctl,
 * over what anybody may have written.
 */
#include "store/ctl_hide.h"

#include <string.h>
#include <strings.h>

static const char *const names[] = {
    "Status:", "X-Status:", "X-Keywords:", "X-UID:", "X-IMAP:", "X-IMAPbase:", "Content-Length:"};

static bool is_note(const char *line, size_t size)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (size == strlen(names[i]) && strncasecmp(line, names[i], size) == 0)
            return true;
    return false;
}

size_t ctl_hide_end(struct ctl_hide *hide, char *out)
{
    size_t n = hide->n;
    memcpy(out, hide->name, n);
    hide->n = 0;
    return n;
}

/* One more octet of a line that may be a note. Returns the octets put out. */
static size_t look(struct ctl_hide *hide, char c, char *out)
{
    bool continued = hide->n == 0 && (c == ' ' || c == '\t');
    hide->name[hide->n++] = c;
    if (!continued && c != '\n' && c != ':' && hide->n < CTL_HIDE_NAME)
        return 0;
    hide->in_line = c != '\n';
    hide->in_body = c == '\n' && (hide->n == 1 || (hide->n == 2 && hide->name[0] == '\r'));
    if (!continued)
        hide->hidden = is_note(hide->name, hide->n);
    if (hide->hidden)
        hide->n = 0;
    return ctl_hide_end(hide, out);
}

size_t ctl_hide_take(struct ctl_hide *hide, const char *in, size_t size, char *out)
{
    size_t put = 0;
    for (size_t i = 0; i < size; i++) {
        if (hide->in_body) {
            memcpy(out + put, in + i, size - i);
            return put + size - i;
        }
        if (!hide->in_line) {
            put += look(hide, in[i], out + put);
            continue;
        }
        if (!hide->hidden)
            out[put++] = in[i];
        hide->in_line = in[i] != '\n';
    }
    return put;
}
