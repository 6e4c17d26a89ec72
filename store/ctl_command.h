/*
 * ctl_command.h - poplarctl's command line: the tables of commands and options, and what a
 * mistyped one was probably meant to be. Decides only; nothing is opened here.
 */
#ifndef POPLAR_STORE_CTL_COMMAND_H
#define POPLAR_STORE_CTL_COMMAND_H

#include "store/ctl.h"
#include <stdio.h>

/* What a command cannot begin without. */
enum ctl_needs {
    NEEDS_NOTHING,
    NEEDS_CONFIG,
    NEEDS_MAILDROPS, /* a configuration, and a caller who may open them */
};

struct ctl_command {
    const char *words;     /* "message list" */
    const char *arguments; /* "USER PATH..." */
    size_t min, max;       /* how many of them */
    unsigned options;      /* set of enum ctl_option, beside those that all take */
    enum ctl_needs needs;
    int (*run)(struct ctl *ctl);
    const char *summary; /* one line for the list of commands */
    const char *help;    /* further lines, each with its line end; NULL: none */
};

/* The n-th command, NULL past the last. */
const struct ctl_command *ctl_command_at(size_t n);

/* Parse the words of the command line (without the program's name). 0: `ctl` is filled and
 * `command` found, NULL if only --help or --version was asked; the help then is on a group where a
 * word is left. EX_USAGE: one line in `error`.
 * ctl->words is allocated; the caller frees it. */
int ctl_command_parse(struct ctl *ctl, int argc, char **argv, const struct ctl_command **command,
                      char *error, size_t error_size);

/* Find a command by its words, at least one; `used` gets their number. NULL: `error` says what was
 * meant. */
const struct ctl_command *ctl_command_find(const char *const *words, size_t n_words, size_t *used,
                                           char *error, size_t error_size);

/* Whether commands have this as their first word of two. */
bool ctl_command_is_group(const char *word);

/* How many letters must be changed, added, left out or swapped to get from a to b. */
unsigned ctl_command_distance(const char *a, const char *b);

/* Help on one command, or on all of a group, or (both NULL) on all there are. */
void ctl_command_help(FILE *to, const struct ctl_command *command, const char *group);

#endif
