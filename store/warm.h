/*
 * warm.h - a connection made ready before there is a maildrop to connect to; for open.c.
 */
#ifndef POPLAR_STORE_WARM_H
#define POPLAR_STORE_WARM_H

#include "store/handle.h"

/* The handle of maildrop_library_warm() that fits these files, at the first call: the grant is its
 * own then. NULL: open a cold one. */
struct maildrop *warm_take(const int files[MAILDROP_FILES]);

/* Whether it is as good as a cold one for the file behind it: WAL mode, identity, the
 * schema that it knows, the totals. STORE_REFUSED: the schema is another, so open a cold one on the
 * same grant. Sets m->minor. */
enum store_outcome warm_check(struct maildrop *m);

#endif
