/*
 * ctl_signals.h - Ctrl-C and its kin in long work: what was begun is ended properly first.
 */
#ifndef POPLAR_STORE_CTL_SIGNALS_H
#define POPLAR_STORE_CTL_SIGNALS_H

#include <stdbool.h>

/* From now on SIGINT, SIGTERM and SIGHUP are only noted, each once: a second one ends the program
 * at once, which loses nothing but what is not committed. Those that are ignored stay so. */
void ctl_signals_catch(void);

/* Whether one was met. */
bool ctl_signals_met(void);

/* At the end: what was printed goes out, then the signal that was met ends the program after all.
 * Without one, returns `status`. */
int ctl_signals_end(int status);

#endif
