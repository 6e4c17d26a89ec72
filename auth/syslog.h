/*
 * syslog.h - to hear what a library tells the log, where it tells nobody else. Runs in poplar-auth.
 */
#ifndef POPLAR_AUTH_SYSLOG_H
#define POPLAR_AUTH_SYSLOG_H

/* Hand each error that is told from now on to `hear` as well; NULL: to nobody. */
void syslog_overhear(void (*hear)(void *context, const char *text), void *context);

#endif
