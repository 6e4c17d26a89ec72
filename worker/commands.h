/*
 * commands.h - the commands of POP3, one table for each state of RFC 1939.
 */
#ifndef POPLAR_WORKER_COMMANDS_H
#define POPLAR_WORKER_COMMANDS_H

#include "worker/session.h"

enum { COMMAND_WORDS_MAX = 2 };

/* What a command did. Every one of them has answered the client, unless it says otherwise. */
enum command_outcome {
    COMMAND_DONE,
    COMMAND_BAD,        /* not answered, nothing done: wrong arguments */
    COMMAND_UNKNOWN,    /* not answered, nothing done: the configuration takes it away */
    COMMAND_NO_MESSAGE, /* not answered, nothing done: no message of this number */
    COMMAND_MALFORMED,  /* not answered, nothing done: a line of its exchange is not in its form */
    COMMAND_TOO_LONG    /* not answered, nothing done: such a line was too long */
};

/* What stands behind the command's name. */
struct command_arguments {
    const char *words[COMMAND_WORDS_MAX];
    size_t n;
    const char *text; /* ARGUMENTS_LINE, ARGUMENTS_SECRET: all of it */
    size_t size;
};

enum command_form {
    ARGUMENTS_WORDS, /* min to max words */
    ARGUMENTS_LINE,  /* one text, blanks around it taken away */
    ARGUMENTS_SECRET /* every octet after exactly one blank; not held to be UTF-8 */
};

struct command {
    const char *name;
    enum command_form form;
    size_t min, max; /* words */
    enum command_outcome (*run)(struct session *s, const struct command_arguments *arguments);
};

/* The command of this name (any case) in the session's state, or NULL. */
const struct command *commands_find(bool logged_in, const char *name, size_t size);

/* Octets that a line beginning like this may have (RFC 2449 section 4; more for credentials). The
 * context is the configuration. */
size_t commands_line_limit(const void *context, const char *beginning, size_t size);

#endif
