/*
 * ctl.c - poplarctl: main. Runs with the privilege of whoever calls it: root, or the store user.
 * Reads the command line and the configuration, then runs one command of the table.
 */
#include "store/ctl.h"
#include "daemon/configfile.h"
#include "store/ctl_command.h"

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

static int run(struct ctl *ctl, const struct ctl_command *command)
{
    char error[1024];
    if (ctl->options & CTL_VERSION) {
        puts("poplarctl " POPLAR_VERSION);
        return 0;
    }
    if (ctl->options & CTL_HELP) {
        ctl_command_help(stdout, command, ctl->n_words > 0 ? ctl->words[0] : NULL);
        return 0;
    }
    if (command->needs != NEEDS_NOTHING) {
        ctl->config = configfile_read(ctl->config_file, error, sizeof error);
        if (!ctl->config)
            return ctl_fail(base_status(errno, EX_CONFIG), "%s%s", error,
                            ctl->options & CTL_CONFIG ? "" : " (--config names another file)");
    }
    if (geteuid() == 0)
        setgroups(0, NULL); /* under the store user's file-system ids root's would still count */
    int status = command->needs == NEEDS_MAILDROPS ? ctl_open_may(ctl) : 0;
    return status ? status : command->run(ctl);
}

int main(int argc, char **argv)
{
    struct ctl ctl = {.config_file = POPLAR_CONFIG};
    const struct ctl_command *command;
    char error[512];

    base_hold_standard();
    signal(SIGXFSZ, SIG_IGN); /* a file that is too large is an error */
    int status = ctl_command_parse(&ctl, argc - 1, argv + 1, &command, error, sizeof error);
    if (status)
        ctl_fail(status, "%s", error);
    else
        status = base_printed(run(&ctl, command));
    config_free(ctl.config);
    free(ctl.words);
    return status;
}
