/*
 * worker.h - the life of one worker: born by the nursery, one client, the end.
 */
#ifndef POPLAR_WORKER_WORKER_H
#define POPLAR_WORKER_WORKER_H

#include "daemon/config.h"
#include "worker/filter.h"
#include "worker/tls.h"
#include <sys/types.h>

/* What a worker inherits from the nursery. */
struct heritage {
    const struct config *config;
    struct tls *tls;
    const struct filter *filter;
    pid_t master;
};

/* In the new process: its end of the channel to the master is `control_fd`. */
_Noreturn void worker_live(const struct heritage *heritage, int control_fd);

#endif
