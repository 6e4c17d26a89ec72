/*
 * ctl_ask.h - "are you sure?"
 */
#ifndef POPLAR_STORE_CTL_ASK_H
#define POPLAR_STORE_CTL_ASK_H

#include "store/ctl.h"

/* 0 if --yes was given or somebody at a terminal says yes to the question; else an exit status,
 * after saying that --yes is needed. */
int ctl_ask(const struct ctl *ctl, const char *question, ...) PRINTF(2, 3);

#endif
