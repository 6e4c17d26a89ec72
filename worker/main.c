/*
 * main.c - poplar-worker. Started by poplard as the nursery, with the master's privilege, which
 * nursery.c gives up. `poplar-worker --sandbox` prints what the workers' filter allows.
 */
#include "daemon/base.h"
#include "worker/filter.h"
#include "worker/nursery.h"

#include <stdio.h>
#include <string.h>
#include <sysexits.h>

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--sandbox") == 0) {
        base_hold_standard();
        filter_print(stdout);
        return base_printed(EX_OK);
    }
    if (argc != 1) {
        fprintf(stderr, "poplar-worker: is started by poplard; by hand only as\n"
                        "poplar-worker --sandbox    print the system calls that workers may use\n");
        return EX_USAGE;
    }
    nursery_live();
}
