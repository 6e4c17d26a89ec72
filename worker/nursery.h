/*
 * nursery.h - the process that pays once for what every worker needs, and forks them.
 */
#ifndef POPLAR_WORKER_NURSERY_H
#define POPLAR_WORKER_NURSERY_H

/* Take the configuration on PROTO_FD_CONTROL, set up, serve the master until it ends. */
_Noreturn void nursery_live(void);

#endif
