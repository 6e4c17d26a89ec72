/*
 * ctl_ask.c - "are you sure?" Runs in poplarctl; reads one line from a terminal, never from a pipe.
 */
#include "store/ctl_ask.h"

#include <stdarg.h>
#include <stdio.h>
#include <sysexits.h>
#include <unistd.h>

int ctl_ask(const struct ctl *ctl, const char *question, ...)
{
    char line[600], safe[1200], answer[16] = "";
    va_list arguments;
    if (ctl->options & CTL_YES)
        return 0;
    va_start(arguments, question);
    vsnprintf(line, sizeof line, question, arguments);
    va_end(arguments);
    if (!isatty(STDIN_FILENO))
        return ctl_fail(EX_USAGE, "%s? Say --yes", line);
    base_escape(safe, sizeof safe, line);
    fprintf(stderr, "%s? [y/N] ", safe);
    if (fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y'))
        return 0;
    return ctl_fail(EX_USAGE, "nothing was done");
}
