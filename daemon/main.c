/*
 * main.c - poplard: the master process. Runs as root with a small bounding set (a developer may
 * run it as himself). Options, configuration, privileges, then the loop of supervise.c.
 */
#include "daemon/base.h"
#include "daemon/check.h"
#include "daemon/master.h"
#include "daemon/privileges.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

static const char usage[] =
    "usage: poplard [--config FILE] [--check]\n"
    "  --config FILE  configuration (" POPLAR_CONFIG ")\n"
    "  --check        say what is wrong with the configuration, or missing for it, and end\n"
    "  -V, --version  print the version and end\n"
    "  -h, --help     print this and end\n"
    "poplard stays in the foreground; SIGHUP reloads, SIGTERM stops.\n";

struct options {
    const char *config_file;
    bool config_given, check;
};

static void parse_options(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {{"config", required_argument, NULL, 'c'},
                                          {"check", no_argument, NULL, 'k'},
                                          {"version", no_argument, NULL, 'V'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int option, at = optind;
    while ((option = getopt_long(argc, argv, ":hV", known, NULL)) != -1) {
        switch (option) {
        case 'c':
            if (!*optarg)
                fatal(EX_USAGE, "--config needs a value; see poplard --help");
            options->config_file = optarg;
            options->config_given = true;
            break;
        case 'k':
            options->check = true;
            break;
        case 'V':
            puts("poplard " POPLAR_VERSION);
            exit(base_printed(EX_OK));
        case 'h':
            fputs(usage, stdout);
            exit(base_printed(EX_OK));
        case ':':
            fatal(EX_USAGE, "%s needs a value; see poplard --help", argv[optind - 1]);
        default:
            fatal(EX_USAGE, "no option '%s', or not with a value; see poplard --help", argv[at]);
        }
        at = optind;
    }
    if (optind < argc)
        fatal(EX_USAGE, "unexpected argument '%s'; see poplard --help", argv[optind]);
}

/* Where the other programs are: beside this one, as in a build tree, else where they install to. */
static char *program_dir(void)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length > 0) {
        path[length] = '\0';
        char *dir = base_strdup(dirname(path));
        char *sibling = base_format("%s/poplar-worker", dir);
        bool beside = access(sibling, X_OK) == 0;
        free(sibling);
        if (beside)
            return dir;
        free(dir);
    }
    return base_strdup(POPLAR_LIBEXEC);
}

/* The name of a file wherever we go. Links in it are left alone: FILE.d is beside the name that was
 * given, and that may lead elsewhere by the next reload. */
static char *absolute(const char *file)
{
    char *here = *file == '/' ? NULL : getcwd(NULL, 0);
    if (*file != '/' && !here)
        fatal(base_status(errno, EX_CONFIG), "the working directory: %s", strerror(errno));
    char *path = here ? base_format("%s/%s", here, file) : base_strdup(file);
    free(here);
    return path;
}

/* What master, auth and the PAM modules in it may ever have again. */
static void bound_privileges(void)
{
    static const int keep[] = {
        CAP_CHOWN,            /* what PAM modules make for a user: tallies, home directories */
        CAP_DAC_OVERRIDE,     /* password files, faillock tallies */
        CAP_DAC_READ_SEARCH,  /* the same */
        CAP_FOWNER,           /* as CAP_CHOWN */
        CAP_KILL,             /* workers run as another user */
        CAP_SETGID,           /* dropping to the worker user, the store's file-system ids */
        CAP_SETUID,           /* the same */
        CAP_NET_BIND_SERVICE, /* ports below 1024 */
        CAP_SYS_CHROOT,       /* the nursery's empty root */
        CAP_SYS_RESOURCE,     /* pam_limits in stacks that open sessions */
        CAP_AUDIT_WRITE,      /* pam_unix and others report to the audit log */
        -1,
    };
    privileges_bound(keep);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* As far as that can be told without starting anything: a certificate is not read, a port not
 * bound. */
static int check(const struct options *options, const struct config *config)
{
    if (check_all(config) > 0)
        return EX_CONFIG;
    printf("%s: no errors\n", options->config_file);
    return base_printed(EX_OK);
}

int main(int argc, char **argv)
{
    struct options options = {.config_file = POPLAR_CONFIG};
    struct master m = {.control_fd = -1};
    char error[2048];

    base_hold_standard();
    parse_options(argc, argv, &options);
    m.config_file = options.config_file;
    m.own_dir = program_dir();
    struct config *config = trial_read(&m, error, sizeof error);
    if (!config)
        fatal(base_status(errno, EX_CONFIG), "%s%s", error,
              options.config_given ? "" : " (--config names another file)");
    if (options.check)
        return check(&options, config);
    log_open(config->server.log_to, config->server.log_level);
    config_free(config); /* the trial reads it again, as every reload does */
    m.config_file = absolute(options.config_file);
    signal(SIGXFSZ, SIG_IGN); /* children too: a file that is too large is an error, no crash */
    umask(0022);
    raise_descriptor_limit();
    bound_privileges();
    return supervise_run(&m);
}
