/*
 * ctl_run.h - commands of poplarctl in the test's own process, on maildrops in its place: what they
 * print and what they return. For tests; runs as anybody, the store user is whoever runs it.
 */
#ifndef POPLAR_TESTS_UNIT_CTL_RUN_H
#define POPLAR_TESTS_UNIT_CTL_RUN_H

#include "store/ctl.h"
#include "tests/support/place.h"
#include <fcntl.h>
#include <pwd.h>

static struct config *config;
static char printed[9000]; /* by the last command, on stdout */

/* For cmocka: a place, and a configuration for maildrops in it whose users need no accounts. */
static inline int ctl_run_begin(void **state)
{
    (void)state;
    const struct passwd *self = getpwuid(geteuid());
    if (!self || !place_make("/tmp", 0700))
        return -1;
    config = config_new();
    must_set(config, "server", "", "state_dir", place);
    must_set(config, "server", "", "store_user", self->pw_name);
    must_set(config, "auth", "", "canonical", "pam");
    must_set(config, "auth", "", "require_nss", "no");
    return 0;
}

static inline int ctl_run_end(void **state)
{
    (void)state;
    config_free(config);
    return place_remove();
}

/* Run a command, with its options in `ctl`, on words up to NULL. */
static inline int ctl_run(int (*command)(struct ctl *), struct ctl ctl, const char **words)
{
    ctl.config = config;
    ctl.words = words;
    while (words[ctl.n_words])
        ctl.n_words++;
    fflush(stdout);
    int kept = dup(STDOUT_FILENO);
    int file = open(in_place("output"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDOUT_FILENO);
    int status = command(&ctl);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    ssize_t got = pread(file, printed, sizeof printed - 1, 0);
    printed[got > 0 ? got : 0] = '\0';
    close(file);
    return status;
}

static inline void expect_printed(const char *text)
{
    if (!strstr(printed, text))
        fail_msg("printed: %s", printed);
}

#endif
