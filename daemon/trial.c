/*
 * trial.c - the first start and every reload: a configuration is tried, with its sockets, a nursery
 * and an auth process of its own, before anything that serves is touched. Runs in the master.
 */
#include "daemon/base.h"
#include "daemon/check.h"
#include "daemon/configfile.h"
#include "daemon/master.h"
#include "daemon/setup.h"
#include "daemon/spawn.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

static void close_programs(struct programs *p)
{
    base_close(p->worker);
    base_close(p->auth);
    *p = (struct programs){-1, -1};
}

static void keep_programs(struct trial *t)
{
    const char *dir = t->config->server.program_dir;
    t->programs.worker = spawn_keep(dir, "poplar-worker");
    t->programs.auth = spawn_keep(dir, "poplar-auth");
}

pid_t trial_spawn(const struct master *m, const struct config *config, bool strict,
                  enum proto_role role, struct channel *channel)
{
    bool auth = role == ROLE_AUTH;
    int kept = auth ? m->programs.auth : m->programs.worker;
    return spawn_child(config->server.program_dir, auth ? "poplar-auth" : "poplar-worker",
                       m->outdated && !strict ? kept : -1, role, channel);
}

static void free_trial(struct trial *t)
{
    close_programs(&t->programs);
    listen_close(t->listeners, t->n_listeners);
    config_free(t->config);
    free(t);
}

static void answer(struct asker **askers, int status, const char *text)
{
    while (*askers) {
        struct asker *a = *askers;
        *askers = a->next;
        control_reply(a->fd, status, text);
        free(a);
    }
}

void trial_failed(struct master *m, int status, const char *why)
{
    struct trial *t = m->trial;
    struct asker *askers = t->askers;
    m->trial = NULL;
    log_line(LOG_ERR, m->serving ? LOG_EVENT_RELOAD_FAILED : LOG_EVENT_NOT_STARTED, NULL, "%s%s",
             m->serving ? "reload failed, the old configuration stays: " : "", why);
    m->counts[COUNT_RELOADS_FAILED] += m->serving;
    if (t->auth) {
        t->auth->killed = true;
        kill(t->auth->pid, SIGKILL);
    }
    if (t->generation) /* it ends by itself: killed, it could leave its empty directory behind */
        generation_retire(m, t->generation, false);
    auths_retire_all(m, t->config);
    free_trial(t);
    answer(&askers, status ? status : EX_SOFTWARE, why); /* who is told finds all as it was */
    if (m->serving) {
        notify_state(m, "READY=1\nSTATUS=Reload failed, the old configuration stays: %s", why);
        if (m->reload_again)
            trial_begin(m, -1);
    } else {
        notify_state(m, "STATUS=%s", why);
        m->exit_status = status > 0 && status < 127 ? status : EX_SOFTWARE;
        sd_event_exit(m->event, m->exit_status);
    }
}

/* poplarctl knows the control socket by its place, and whom it is open to is settled when it is
 * made: both stay for as long as we run. */
static bool check_fixed(const struct master *m, const struct config *config, char *error,
                        size_t size)
{
    if (!m->serving)
        return true;
    const struct {
        const char *key, *now, *wanted;
    } fixed[] = {{"run_dir", m->config->server.run_dir, config->server.run_dir},
                 {"store_user", m->config->server.store_user, config->server.store_user}};
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
        if (strcmp(fixed[i].now, fixed[i].wanted) != 0)
            return config_refuse(config, "server", "", fixed[i].key, fixed[i].wanted, error, size,
                                 "is %s until the next start; restart poplard", fixed[i].now);
    return true;
}

struct config *trial_read(const struct master *m, char *error, size_t size)
{
    struct config *config = configfile_read(m->config_file, error, size);
    if (config && !config->server.program_dir)
        config->server.program_dir = base_strdup(m->own_dir);
    return config;
}

/* What a trial can be of: read, fit, its sockets open, its programs and certificates there. 0, or
 * an exit status with one line in `error`. */
static int prepare(const struct master *m, struct trial *t, char *error, size_t size)
{
    t->config = trial_read(m, error, size);
    if (!t->config)
        return base_status(errno, EX_CONFIG);
    if (!check_prefixes(t->config, error, size) || !check_mechanisms(t->config, error, size) ||
        !check_descriptors(t->config, error, size) || !check_fixed(m, t->config, error, size))
        return EX_CONFIG;
    if (!listen_open(t->config, m->listeners, m->n_listeners, &t->listeners, &t->n_listeners, error,
                     size))
        return base_status(errno, EX_CONFIG);
    if (!check_programs(t->config, error, size))
        return EX_OSFILE;
    return setup_keep(t->config, error, size) ? 0 : base_status(errno, EX_CONFIG);
}

static void begin(struct master *m)
{
    char error[2048] = "";
    struct trial *t = m->trial = base_alloc(sizeof *t);
    t->askers = m->askers;
    m->askers = NULL;
    m->reload_again = false;
    t->programs = (struct programs){-1, -1};
    if (m->serving)
        notify_state(m, "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=Reloading",
                     (unsigned long long)base_now_us());
    int status = prepare(m, t, error, sizeof error);
    if (status) {
        trial_failed(m, status, error);
        return;
    }
    keep_programs(t);
    t->generation = generation_spawn(m, t->config, true);
    t->auth = auths_spawn(m, t->config, true);
    if (t->generation->channel.fd < 0) {
        base_copy(error, sizeof error, t->generation->last_error);
        trial_failed(m, t->generation->status, error);
    } else if (!t->auth)
        trial_failed(m, EX_OSERR, "poplar-auth cannot be started");
}

void trial_begin(struct master *m, int reply_fd)
{
    if (reply_fd >= 0) {
        struct asker *a = base_alloc(sizeof *a);
        *a = (struct asker){m->askers, reply_fd};
        m->askers = a;
    }
    if (m->stopping)
        answer(&m->askers, EX_TEMPFAIL, "poplard is stopping");
    else if (m->trial)
        m->reload_again = true;
    else
        begin(m);
}

static bool commit(struct master *m, struct trial *t)
{
    char error[2048];
    struct config *before = m->config;
    struct listener *old = m->listeners;
    size_t n_old = m->n_listeners;
    bool first = !m->serving;

    m->config = t->config;
    if (first && !control_open(m, error, sizeof error)) {
        m->config = NULL;
        trial_failed(m, base_status(errno, EX_CANTCREAT), error);
        return false;
    }
    log_open(t->config->server.log_to, t->config->server.log_level);
    m->listeners = t->listeners;
    m->n_listeners = t->n_listeners;
    close_programs(&m->programs);
    m->programs = t->programs;
    m->outdated = false;
    m->trial = NULL;
    m->serving = true;
    m->announced = false;
    m->nursery_failures = 0;
    listen_replace(old, n_old, m->listeners, m->n_listeners);
    if (!listen_attach(m)) { /* who starts us again may find more room */
        log_line(LOG_ERR, LOG_EVENT_OTHER, NULL, "the listening sockets cannot be watched");
        m->exit_status = EX_OSERR;
        sd_event_exit(m->event, m->exit_status);
    }
    if (before)
        auths_retire_all(m, before);
    config_free(before);
    if (m->current)
        m->current->outlived = RETIRED_RELOAD;
    generation_serve(m, t->generation);
    login_tick(m);
    log_line(LOG_NOTICE, first ? LOG_EVENT_STARTED : LOG_EVENT_RELOADED, NULL, "%s",
             first ? "serving" : "reloaded");
    if (first && geteuid() != 0)
        log_line(LOG_WARNING, LOG_EVENT_OTHER, NULL,
                 "not root: everything runs as uid %u, without the separation of users",
                 (unsigned)geteuid());
    if (!check_use(m->config, error, sizeof error))
        log_line(LOG_WARNING, LOG_EVENT_OTHER, NULL, "%s", error);
    if (!check_places(m->config, error, sizeof error))
        log_line(LOG_WARNING, LOG_EVENT_OTHER, NULL, "%s", error);
    m->counts[COUNT_RELOADS] += !first;
    answer(&t->askers, 0, "reloaded");
    free(t);
    return true;
}

void trial_step(struct master *m)
{
    struct trial *t = m->trial;
    if (!t->generation->ready || t->auth->channel.state != STATE_IDLE)
        return;
    if (commit(m, t) && m->reload_again)
        trial_begin(m, -1);
}
