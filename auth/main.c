/*
 * main.c - poplar-auth: checks passwords through PAM and opens maildrops, one login at a time.
 *
 * Exec'd by the master, as root with the few capabilities that the master kept. Never talks to a
 * client, never parses mail, never opens a maildrop before PAM said yes or the master said so.
 */
#include "auth/service.h"
#include "daemon/pam_service.h"
#include "daemon/privileges.h"

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

/* `why`: what the system said, if it is that; else 0. */
_Noreturn static void give_up(struct child *child, int why, const char *error)
{
    child_log(&child->control, LOG_ERR, "%s", error);
    exit(base_status(why, EX_CONFIG));
}

/* What modules expect of a root daemon; and modules that write to a lost server must not end us. */
static void settle(pid_t parent)
{
    service_harden(parent);
    umask(077);
    signal(SIGPIPE, SIG_IGN);
    if (chdir("/") < 0 || (geteuid() == 0 && setgroups(0, NULL) < 0))
        fatal(EX_OSERR,
              "cannot leave directory or groups: %s; it takes CAP_SETGID, and no user "
              "namespace (PrivateUsers=)",
              strerror(errno));
}

/* Services are looked for here alone: a mistyped directory is not a lack of services. */
static void check_confdir(struct child *child)
{
    const char *dir = child->config->auth.pam_confdir;
    char line[800];
    struct stat st;
    if (!dir || !child->strict || (stat(dir, &st) == 0 && S_ISDIR(st.st_mode)))
        return;
    config_refuse(child->config, "auth", "", "pam_confdir", dir, line, sizeof line,
                  "no such directory; make it, or leave this out for /etc/pam.d");
    give_up(child, 0, line);
}

/* Find the service and hold its modules. One that nobody can use is a reason not to start, but none
 * to stop serving the others. */
static void pin_service(struct child *child, struct pam_pins *pins, const char *section,
                        const char *name, const char *service)
{
    const char *confdir = child->config->auth.pam_confdir;
    char problem[400], line[800];
    errno = 0;
    bool good = pam_service_find(service, confdir, problem, sizeof problem);
    int why = errno; /* of any call in it: where one lacked something the rest says little */
    good = good && pam_pins_add(pins, service, confdir, problem, sizeof problem);
    if (good && (!*problem || !child->strict)) /* a warning is given once */
        return;
    const char *where = config_where(child->config, section, name, "pam_service");
    snprintf(line, sizeof line, "%s: [%s%s%s] %s", where, section, *name ? " " : "", name, problem);
    if (!good && child->strict)
        give_up(child, why, line);
    child_log(&child->control, LOG_WARNING, "%s", line);
}

int main(void)
{
    static struct child child;
    static struct pam_pins pins;
    char error[512];
    uid_t worker;
    gid_t group;
    pid_t parent = getppid();

    child_begin(&child, ROLE_AUTH, NULL, NULL);
    settle(parent);
    if (!privileges_find_worker(child.config, &worker, &group, error, sizeof error))
        give_up(&child, errno, error);
    struct grant_root *root = grant_root_open(child.config, error, sizeof error);
    if (!root)
        give_up(&child, errno, error);
    if (child.strict && !grant_root_is_usable(root, child.config, worker, error, sizeof error))
        give_up(&child, 0, error);
    check_confdir(&child);
    pin_service(&child, &pins, "auth", "", child.config->auth.pam_service);
    for (size_t i = 0; i < child.config->auth.n_domains; i++) {
        const struct config_domain *d = &child.config->auth.domains[i];
        pin_service(&child, &pins, "domain", d->name, d->pam_service);
    }
    child_ready(&child);
    service_run(&child, root, parent);
}
