/*
 * service.c - one exchange: a worker's credentials in, an outcome and a maildrop's files out.
 *
 * Runs in poplar-auth as root. The master's orders are trusted, the worker's one record is not: it
 * is bounded again here, and a bad one ends the exchange and nothing else. For each PROTO_SERVE
 * the master gets one PROTO_OUTCOME, then one PROTO_VACANT or the end of this process; a secret is
 * wiped before the exchange is over, however it ends.
 */
#include "auth/service.h"
#include "auth/canonical.h"
#include "auth/recipient.h"
#include "auth/selfcheck.h"
#include "daemon/pam_service.h"
#include "daemon/privileges.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <syslog.h>
#include <unistd.h>

enum {
    BEGIN_WAIT_MS = 5000, /* for the worker, which had the credentials before it asked for us */
    SECRET_MAX = 32768,   /* the most that token_max can be set to */
};

struct service {
    struct child *child;
    const struct grant_root *root;
    pid_t parent;
    uint64_t served;
    struct selfcheck start;
    struct message message; /* the one being received or sent */
};

struct exchange {
    struct channel worker;
    uint64_t session;
    char peer[PROTO_ADDRESS_MAX + 1];
    char user[PROTO_USER_MAX + 1]; /* canonical, as far as known */
    const char *pam_service;
    bool vouched; /* EXTERNAL: the worker checked a certificate, there is no secret */
    char secret[SECRET_MAX + 1];
    uint64_t denied; /* digest of what was denied last on this connection; 0: nothing was */
    uint64_t digest; /* of name and secret, when they are denied */
    int spool;       /* -1: none, as these */
    int files[MAILDROP_FILES];
};

static void tell_master(struct service *s)
{
    enum channel_outcome sent = channel_send(&s->child->control, &s->message, true);
    message_clear(&s->message);
    if (sent != CHANNEL_OK)
        child_lost_master(sent, NULL);
}

static void note(struct service *s, const struct exchange *x, int priority, const char *text)
{
    if (*text && priority <= (int)s->child->config->server.log_level)
        child_log(&s->child->control, priority, "session %llu: %s", (unsigned long long)x->session,
                  text);
}

/* Whether the administrator wants this way in. Workers announce no other, but might lie: above all,
 * none may vouch for users where certificates are not in use. */
static bool is_open(struct service *s, const struct exchange *x, const char *mechanism)
{
    const struct config *config = s->child->config;
    bool open = strcmp(mechanism, "PASS") == 0 || textlist_has(&config->auth.mechanisms, mechanism);
    open = open && (strcasecmp(mechanism, "EXTERNAL") != 0 || config->tls.client_ca);
    if (!open)
        note(s, x, LOG_NOTICE,
             "asked by a way that [auth] mechanisms does not name: a reload took it away since the "
             "client came, or the worker lies");
    return open;
}

/* An empty secret never reaches a module: some take it for "no password needed". */
static bool take_secret(const struct config *config, const char *mechanism, struct message *m,
                        char secret[SECRET_MAX + 1])
{
    bool token = strcasecmp(mechanism, "XOAUTH2") == 0 || strcasecmp(mechanism, "OAUTHBEARER") == 0;
    uint64_t limit = token ? config->auth.token_max : PROTO_PASSWORD_MAX;
    size_t size;
    const unsigned char *octets = message_get_octets(m, &size);
    if (strcasecmp(mechanism, "EXTERNAL") == 0)
        return size == 0;
    if (size == 0 || size > limit || size > SECRET_MAX)
        return false;
    for (size_t i = 0; i < size; i++)
        if (octets[i] == '\0' || octets[i] == '\r' || octets[i] == '\n')
            return false;
    memcpy(secret, octets, size);
    secret[size] = '\0';
    return true;
}

/* The worker's record: name folded, PAM service and secret known (LOGIN_OK), or why not. */
static enum login_outcome take_credentials(struct service *s, struct exchange *x)
{
    struct pollfd poller = {.fd = x->worker.fd, .events = POLLIN};
    const char *fault = "not there in time";
    poll(&poller, 1, BEGIN_WAIT_MS);
    enum channel_outcome got = channel_receive(&x->worker, &s->message, false, &fault);
    if (got == CHANNEL_END)
        return LOGIN_UNAVAILABLE; /* the client left, and its worker with it */
    if (got != CHANNEL_OK) {
        char text[80];
        snprintf(text, sizeof text, "the worker's credentials are %s", fault);
        note(s, x, LOG_WARNING, text);
        return got == CHANNEL_BAD ? LOGIN_BROKEN : LOGIN_UNAVAILABLE;
    }
    char mechanism[32], given[PROTO_USER_MAX + 1];
    enum login_outcome outcome = LOGIN_DENIED;
    if (message_get_text(&s->message, mechanism, sizeof mechanism) &&
        message_get_text(&s->message, given, sizeof given)) {
        if (!is_open(s, x, mechanism))
            outcome = LOGIN_UNAVAILABLE; /* the client is told no lie of its password */
        else if (take_secret(s->child->config, mechanism, &s->message, x->secret) &&
                 canonical_fold(s->child->config, given, x->user, &x->pam_service) == CANONICAL_OK)
            outcome = LOGIN_OK;
    }
    message_clear(&s->message);
    x->vouched = outcome == LOGIN_OK && strcasecmp(mechanism, "EXTERNAL") == 0;
    return outcome;
}

/* Whom PAM meant, by our own rules. */
static enum login_outcome settle_user(struct service *s, struct exchange *x, const char *pam_user)
{
    static const char *const words[] = {
        [CANONICAL_MALFORMED] = "PAM names a user that no maildrop may have",
        [CANONICAL_UNKNOWN] = "right password, but no such account (getpwnam); see require_nss",
        [CANONICAL_REFUSED] = "right password, but an account below first_uid",
        [CANONICAL_UNAVAILABLE] = "account look-up failed (getpwnam)",
    };
    enum canonical_outcome outcome = canonical_finish(s->child->config, pam_user, x->user);
    if (outcome == CANONICAL_OK)
        return LOGIN_OK;
    note(s, x, outcome == CANONICAL_UNAVAILABLE ? LOG_WARNING : LOG_NOTICE, words[outcome]);
    return outcome == CANONICAL_UNAVAILABLE ? LOGIN_UNAVAILABLE : LOGIN_DENIED;
}

static enum login_outcome run_pam(struct service *s, struct exchange *x)
{
    const struct config *config = s->child->config;
    struct pam_login login = {.service = x->pam_service,
                              .confdir = config->auth.pam_confdir,
                              .user = x->user,
                              .secret = x->secret,
                              .peer = x->peer,
                              .vouched = x->vouched};
    if (!pam_service_find(login.service, login.confdir, login.problem, sizeof login.problem)) {
        note(s, x, LOG_ERR, login.problem);
        return LOGIN_MISCONFIGURED;
    }
    const struct selfcheck_fd exchange = selfcheck_record_fd(x->worker.fd);
    enum login_outcome outcome = pam_login_check(&login);
    if (outcome == LOGIN_OK)
        outcome = settle_user(s, x, login.name);
    if (outcome == LOGIN_OK && config->auth.session)
        outcome = pam_login_session(&login);
    pam_login_end(&login);

    if (!selfcheck_same_fds(&s->start) || !selfcheck_same_fd(&exchange))
        fatal(EX_SOFTWARE, "a PAM module of service %s closed a descriptor of ours", login.service);
    note(s, x, LOG_DEBUG, login.remark);
    note(s, x, outcome == LOGIN_MISCONFIGURED ? LOG_ERR : LOG_WARNING, login.problem);
    /* Under foreign ids nothing may be opened; the check at the end says so and replaces us. */
    return outcome == LOGIN_OK && !selfcheck_same_ids(&s->start) ? LOGIN_UNAVAILABLE : outcome;
}

/* Ask the master to end the session that holds the maildrop; true when it is gone. */
static bool holder_ends(struct service *s, const struct exchange *x)
{
    const char *fault = "not the answer to what was asked";
    message_begin(&s->message, PROTO_LOCKED);
    message_put_u64(&s->message, x->session);
    message_put_text(&s->message, x->user);
    tell_master(s);
    enum channel_outcome got = channel_receive(&s->child->control, &s->message, true, &fault);
    if (got != CHANNEL_OK)
        child_lost_master(got, fault);
    if (s->message.rule->type != PROTO_RETRY)
        child_lost_master(CHANNEL_BAD, fault);
    bool gone = message_get_u32(&s->message) != 0;
    message_clear(&s->message);
    return gone;
}

static enum login_outcome open_maildrop(struct service *s, struct exchange *x)
{
    char error[512] = "";
    bool create = s->child->config->store.create;
    enum login_outcome outcome =
        grant_open(s->root, x->user, create, true, x->files, error, sizeof error);
    if (outcome == LOGIN_IN_USE && s->child->config->session.lock == LOCK_TAKEOVER &&
        holder_ends(s, x))
        outcome = grant_open(s->root, x->user, create, true, x->files, error, sizeof error);
    bool defect = outcome == LOGIN_STORE_TEMP || outcome == LOGIN_STORE_PERM;
    note(s, x, defect ? LOG_ERR : LOG_INFO, error);
    return outcome;
}

/* The master first: who is logged in is known to it before the worker can act on it. */
static void announce(struct service *s, struct exchange *x, enum login_outcome outcome)
{
    struct message *m = &s->message;
    message_begin(m, PROTO_OUTCOME);
    message_put_u64(m, x->session);
    message_put_u32(m, outcome);
    message_put_text(m, x->user);
    message_put_u64(m, x->digest);
    tell_master(s);

    message_begin(m, PROTO_VERDICT);
    message_put_u32(m, outcome);
    message_put_text(m, outcome == LOGIN_OK ? x->user : "");
    if (x->spool >= 0)
        message_put_fd(m, x->spool);
    for (unsigned i = 0; outcome == LOGIN_OK && i < MAILDROP_FILES && x->files[i] >= 0; i++)
        message_put_fd(m, x->files[i]);
    channel_send(&x->worker, m, false); /* a worker that is gone needs none */
    message_clear(m);                   /* closes the files */
}

/* FNV-1a. */
static uint64_t add_octets(uint64_t digest, const char *octets, size_t size)
{
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ (unsigned char)octets[i]) * UINT64_C(0x100000001b3);
    return digest;
}

/* The master compares these to tell a forgotten client from an attack. Keyed, so that it means
 * nothing outside this run of poplard; who could look into the master could do worse. The NUL is
 * between the two. */
static uint64_t digest_login(uint64_t key, const char *user, const char *secret)
{
    return add_octets(add_octets(key, user, strlen(user) + 1), secret, strlen(secret));
}

/* A mail program whose password is wrong may try it by each mechanism in turn. PAM, where modules
 * count failures and lock, is asked once a connection. */
static enum login_outcome log_in(struct service *s, struct exchange *x)
{
    enum login_outcome outcome = take_credentials(s, x);
    uint64_t digest = 0;
    if (x->secret[0])
        digest = digest_login(s->child->digest_key, x->user, x->secret);
    if (outcome == LOGIN_OK)
        outcome = digest != 0 && digest == x->denied ? LOGIN_DENIED : run_pam(s, x);
    if (outcome == LOGIN_DENIED)
        x->digest = digest;
    explicit_bzero(x->secret, sizeof x->secret);
    return outcome == LOGIN_OK ? open_maildrop(s, x) : outcome;
}

/* Mail on its way in: no credentials, the peer's uid stands for them. */
static enum login_outcome find_recipient(struct service *s, struct exchange *x, const char *address,
                                         uid_t peer, enum proto_service service)
{
    char error[512];
    enum login_outcome outcome = recipient_open(s->child->config, s->root, address, peer, service,
                                                x->user, x->files, error, sizeof error);
    if (outcome == LOGIN_OK && service == SERVE_FIRST) {
        x->spool = grant_spool(s->root, error, sizeof error);
        for (int i = 0; x->spool < 0 && i < MAILDROP_FILES; i++)
            base_close(x->files[i]);
        outcome = x->spool < 0 ? LOGIN_STORE_TEMP : LOGIN_OK;
    }
    note(s, x, outcome == LOGIN_UNAVAILABLE ? LOG_WARNING : LOG_ERR, error);
    return outcome;
}

static void serve(struct service *s)
{
    struct message *m = &s->message;
    char named[PROTO_RECIPIENT_MAX + 1];
    struct exchange x = {.spool = -1, .files = {-1, -1, -1, -1}};
    x.session = message_get_u64(m);
    uint32_t wanted = message_get_u32(m);
    if (!message_get_text(m, named, sizeof named) || !message_get_text(m, x.peer, sizeof x.peer))
        child_lost_master(CHANNEL_BAD, "with a text too long");
    uid_t peer = message_get_u32(m);
    x.denied = message_get_u64(m);
    channel_open(&x.worker, message_take_fd(m), ROLE_AUTH, ROLE_WORKER, STATE_EXCHANGE);
    message_clear(m);

    enum login_outcome outcome;
    if (wanted >= SERVE_CHECK) {
        outcome = find_recipient(s, &x, named, peer, wanted);
    } else if (wanted == SERVE_GRANT) {
        base_copy(x.user, sizeof x.user, named);
        outcome = open_maildrop(s, &x);
    } else {
        outcome = log_in(s, &x);
    }
    announce(s, &x, outcome);
    channel_close(&x.worker);
}

/* Between two exchanges: be as before, or be replaced. */
static void recover(struct service *s)
{
    char difference[80];
    bool same = selfcheck_same(&s->start, difference, sizeof difference);
    if (!same)
        child_log(&s->child->control, LOG_WARNING,
                  "a PAM module changed this process (%s); it is replaced", difference);
    /* _exit: what modules have registered for the end of a program is not for us to run. */
    if (!same || ++s->served >= s->child->config->auth.requests_per_process)
        _exit(PROTO_EXIT_RECYCLE);
    service_harden(s->parent);
    message_begin(&s->message, PROTO_VACANT);
    tell_master(s);
    s->child->control.state = STATE_IDLE;
}

void service_run(struct child *child, const struct grant_root *root, pid_t parent)
{
    struct service *s = base_alloc(sizeof *s);
    *s = (struct service){.child = child, .root = root, .parent = parent};
    selfcheck_record(&s->start);
    service_harden(parent); /* state_dir was opened under other ids since */
    for (;;) {
        const char *fault = NULL;
        enum channel_outcome got = channel_receive(&child->control, &s->message, true, &fault);
        if (got != CHANNEL_OK)
            child_lost_master(got, fault);
        if (s->message.rule->type == PROTO_PING) {
            message_begin(&s->message, PROTO_PONG);
            tell_master(s);
        } else if (s->message.rule->type == PROTO_SERVE) {
            child->control.state = STATE_BUSY;
            serve(s);
            recover(s);
        } else {
            child_lost_master(CHANNEL_BAD, "not one to serve");
        }
    }
}

void service_harden(pid_t parent)
{
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        fatal(EX_OSERR, "prctl(PR_SET_DUMPABLE): %s", strerror(errno));
    privileges_die_with(parent);
}
