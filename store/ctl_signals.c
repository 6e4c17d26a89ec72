/*
 * ctl_signals.c - Ctrl-C and its kin in long work. Runs in poplarctl.
 */
#include "store/ctl_signals.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>

static volatile sig_atomic_t met;

static void on_signal(int number)
{
    met = number;
}

/* What was to be ignored from the start stays so: under nohup, or behind a script's '&'. */
static void catch_unless_ignored(int number)
{
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    struct sigaction before;
    if (sigaction(number, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(number, &action, NULL);
}

void ctl_signals_catch(void)
{
    catch_unless_ignored(SIGINT);
    catch_unless_ignored(SIGTERM);
    catch_unless_ignored(SIGHUP);
}

bool ctl_signals_met(void)
{
    return met != 0;
}

int ctl_signals_end(int status)
{
    if (met) {
        fflush(stdout);
        raise(met);
    }
    return status;
}
