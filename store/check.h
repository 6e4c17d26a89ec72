/*
 * check.h - whether a maildrop is sound: SQLite's own check, then what the store promises.
 *
 * For poplarctl only. Changes nothing, and reads everything: one transaction over the whole check,
 * so that a maildrop in use is judged as of one moment.
 */
#ifndef POPLAR_STORE_CHECK_H
#define POPLAR_STORE_CHECK_H

#include "store/maildrop.h"

/* Called for each damage with one line of words, and for progress with NULL and the octets of
 * content that were looked at. False ends the check. */
typedef bool check_report(void *context, const char *damage, uint64_t octets);

/* STORE_OK: the check came to its end, and `report` heard of every damage (or ended it). Anything
 * else: it could not go on, and `maildrop_error()` says why. */
enum store_outcome check_run(struct maildrop *maildrop, check_report *report, void *context);

#endif
