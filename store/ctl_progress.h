/*
 * ctl_progress.h - a progress bar on stderr, for long work on a terminal.
 */
#ifndef POPLAR_STORE_CTL_PROGRESS_H
#define POPLAR_STORE_CTL_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How far something is. */
struct ctl_progress {
    const char *verb;     /* "importing" */
    uint64_t done, total; /* octets; total 0: not known */
    uint64_t messages;
    uint64_t elapsed_ms;
    const char *unit; /* one of what done and total count, if it is not octets: then it is shown,
                       * instead of messages and speed; NULL: octets */

    bool enabled, shown;
    uint64_t started_ms, drawn_ms;
};

/* The bar as one line of exactly `width` characters, or as many as fit `size`. What does not fit
 * is left out, the least important first. Pure. */
void ctl_progress_format(const struct ctl_progress *progress, unsigned width, char *line,
                         size_t size);

/* Start; nothing is ever shown unless stderr is a terminal. */
void ctl_progress_begin(struct ctl_progress *progress, const char *verb, uint64_t total);
/* Show where things are; cheap, draws a few times a second. */
void ctl_progress_update(struct ctl_progress *progress, uint64_t done, uint64_t messages);
/* Take the bar off the terminal: before any other line, and at the end. */
void ctl_progress_hide(struct ctl_progress *progress);

#endif
