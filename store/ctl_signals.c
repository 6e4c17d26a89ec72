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

void ctl_signals_catch(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
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
