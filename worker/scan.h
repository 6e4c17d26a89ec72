/*
 * scan.h - the listings of LIST and UIDL, which may be of a hundred thousand lines.
 */
#ifndef POPLAR_WORKER_SCAN_H
#define POPLAR_WORKER_SCAN_H

#include "worker/session.h"

enum scan_kind { SCAN_SIZES, SCAN_UIDLS };

/* Both after view_load(). The reply for one message, or for all that are not marked as deleted. */
void scan_one(struct session *s, enum scan_kind kind, size_t index);
void scan_all(struct session *s, enum scan_kind kind);

#endif
