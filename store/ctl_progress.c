/*
 * ctl_progress.c - poplarctl's progress bar. Writes to stderr, and only if that is a terminal.
 */
#include "store/ctl_progress.h"
#include "daemon/base.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    REDRAW_MS = 100,
    SETTLED_MS = 1000, /* speed and time left mean nothing before */
    BAR_MIN = 10,
    BAR_MAX = 40,
    PIECES = 4,
    PIECE_SIZE = 48,
    LINE_SIZE = 200
};

static void put_percent(const struct ctl_progress *p, char *piece)
{
    uint64_t done = p->done < p->total ? p->done : p->total;
    snprintf(piece, PIECE_SIZE, " %3u%%",
             p->total ? (unsigned)((double)done * 100 / (double)p->total) : 0);
}

static void put_speed(const struct ctl_progress *p, char *piece)
{
    double speed = (double)p->done * 1000 / (double)p->elapsed_ms;
    if (speed >= 1e6)
        snprintf(piece, PIECE_SIZE, "  %.1f MB/s", speed / 1e6);
    else
        snprintf(piece, PIECE_SIZE, "  %.0f kB/s", speed / 1e3);
}

static void put_left(const struct ctl_progress *p, char *piece)
{
    uint64_t left =
        (uint64_t)((double)(p->total - p->done) / (double)p->done * (double)p->elapsed_ms / 1000);
    if (left >= 3600)
        snprintf(piece, PIECE_SIZE, "  %ju:%02u:%02u left", (uintmax_t)(left / 3600),
                 (unsigned)(left / 60 % 60), (unsigned)(left % 60));
    else
        snprintf(piece, PIECE_SIZE, "  %u:%02u left", (unsigned)(left / 60), (unsigned)(left % 60));
}

/* What stands right of the bar, the most important first. */
static void put_pieces(const struct ctl_progress *p, char pieces[PIECES][PIECE_SIZE])
{
    if (p->total > 0)
        put_percent(p, pieces[0]);
    if (p->unit)
        snprintf(pieces[1], PIECE_SIZE, "  %ju %s%s", (uintmax_t)p->done, p->unit,
                 base_plural(p->done));
    else
        snprintf(pieces[1], PIECE_SIZE, "  %ju message%s", (uintmax_t)p->messages,
                 base_plural(p->messages));
    if (p->elapsed_ms < SETTLED_MS || p->done == 0)
        return;
    if (!p->unit)
        put_speed(p, pieces[2]);
    if (p->total > p->done)
        put_left(p, pieces[3]);
}

static size_t put_bar(const struct ctl_progress *p, size_t width, char *to, size_t size)
{
    if (p->total == 0 || width < BAR_MIN || width + 4 > size)
        return 0;
    if (width > BAR_MAX)
        width = BAR_MAX;
    uint64_t done = p->done < p->total ? p->done : p->total;
    size_t full = (size_t)((double)width * (double)done / (double)p->total);
    to[0] = ' ';
    to[1] = '[';
    memset(to + 2, '#', full);
    memset(to + 2 + full, '.', width - full);
    to[2 + width] = ']';
    to[3 + width] = '\0';
    return width + 3;
}

void ctl_progress_format(const struct ctl_progress *progress, unsigned width, char *line,
                         size_t size)
{
    char pieces[PIECES][PIECE_SIZE] = {{0}};
    size_t whole = width < size ? width : size - 1, used = strlen(progress->verb), n = 0;
    if (used > whole)
        used = whole;
    memcpy(line, progress->verb, used);
    put_pieces(progress, pieces);
    size_t room = whole - used;
    while (n < PIECES && strlen(pieces[n]) <= room)
        room -= strlen(pieces[n++]);
    /* The bar takes what the words leave: three columns of it are the blank and the brackets. */
    used += put_bar(progress, room > 3 ? room - 3 : 0, line + used, size - used);
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(pieces[i]);
        memcpy(line + used, pieces[i], length);
        used += length;
    }
    memset(line + used, ' ', whole - used);
    line[whole] = '\0';
}

/* One column less than the terminal has: a full line makes some of them go to the next. */
static unsigned columns(void)
{
    struct winsize window;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1)
        return window.ws_col < LINE_SIZE ? window.ws_col - 1u : LINE_SIZE - 1u;
    return 79;
}

/* Never waits for the terminal: somebody may be waiting for what we hold meanwhile. */
static void draw(struct ctl_progress *progress)
{
    char line[LINE_SIZE];
    if (!base_stderr_has_room())
        return;
    ctl_progress_format(progress, columns(), line, sizeof line);
    fprintf(stderr, "\r%s", line);
    fflush(stderr);
    progress->shown = true;
}

void ctl_progress_begin(struct ctl_progress *progress, const char *verb, uint64_t total)
{
    uint64_t now = base_now_ms();
    *progress = (struct ctl_progress){.verb = verb,
                                      .total = total,
                                      .enabled = isatty(STDERR_FILENO) == 1,
                                      .started_ms = now,
                                      .drawn_ms = now};
}

void ctl_progress_update(struct ctl_progress *progress, uint64_t done, uint64_t messages)
{
    progress->done = done;
    progress->messages = messages;
    if (!progress->enabled)
        return;
    uint64_t now = base_now_ms();
    if (now - progress->drawn_ms < REDRAW_MS)
        return;
    progress->drawn_ms = now;
    progress->elapsed_ms = now - progress->started_ms;
    draw(progress);
}

void ctl_progress_hide(struct ctl_progress *progress)
{
    if (!progress->shown || !base_stderr_has_room())
        return;
    fprintf(stderr, "\r%*s\r", (int)columns(), "");
    progress->shown = false;
}
