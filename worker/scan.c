/*
 * scan.c - the listings of LIST and UIDL (RFC 1939 sections 5 and 7). Runs in a worker, inside its
 * sandbox. Lines are put together where they are sent from.
 */
#include "worker/scan.h"

/* Number, blank, what there is to say, line end; and the NUL behind a UIDL. */
enum { LINE_MAX_SIZE = STREAM_DIGITS_MAX + 1 + MAILDROP_UIDL_MAX + 2 };

static size_t make_line(const struct view *view, enum scan_kind kind, size_t number,
                        const struct maildrop_entry *entry, char *line)
{
    size_t n = stream_digits(number, line);
    line[n++] = ' ';
    n += kind == SCAN_UIDLS ? maildrop_entry_uidl(entry, line + n)
                            : stream_digits(view_size_of(view, entry), line + n);
    line[n++] = '\r';
    line[n++] = '\n';
    return n;
}

void scan_one(struct session *s, enum scan_kind kind, size_t index)
{
    char line[LINE_MAX_SIZE];
    struct maildrop_entry entry = maildrop_snapshot_entry(s->view.snapshot, index);
    size_t size = make_line(&s->view, kind, index + 1, &entry, line);
    stream_put_text(&s->stream, "+OK ");
    stream_put(&s->stream, line, size);
}

void scan_all(struct session *s, enum scan_kind kind)
{
    struct maildrop_walk walk = maildrop_snapshot_walk(s->view.snapshot);
    const struct maildrop_entry *entry;
    stream_put_text(&s->stream, "+OK ");
    stream_put_number(&s->stream, view_messages(&s->view));
    stream_put(&s->stream, " ", 1);
    session_put_text(s, TEXT_MESSAGES);
    stream_put_text(&s->stream, "\r\n");
    for (size_t index = 0; (entry = maildrop_walk_next(&walk)) != NULL; index++) {
        size_t space;
        char *line;
        if (!view_visible(&s->view, index))
            continue;
        line = (char *)stream_space(&s->stream, LINE_MAX_SIZE, &space);
        if (!line)
            return;
        stream_added(&s->stream, make_line(&s->view, kind, index + 1, entry, line));
    }
    stream_put_text(&s->stream, ".\r\n");
}
