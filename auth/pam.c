/*
 * pam.c - one login through PAM: the conversation, the steps, and what their results mean.
 *
 * Runs in poplar-auth as root, and runs the administrator's modules inside this process: they may
 * block, crash, exit or change anything, so service.c trusts nothing after they ran. What modules
 * say is for the log only.
 */
#include "auth/pam.h"
#include "auth/syslog.h"
#include "daemon/base.h"
#include "daemon/privileges.h"

#include <errno.h>
#include <security/pam_appl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a status means in the authentication phase and in the account phase. Before the password
 * is known to be right, nothing about the account may show. All others: LOGIN_UNAVAILABLE. */
static const struct {
    int status;
    enum login_outcome authentication, account;
} meanings[] = {
    {PAM_SUCCESS, LOGIN_OK, LOGIN_OK},
    {PAM_USER_UNKNOWN, LOGIN_DENIED, LOGIN_DENIED},
    {PAM_AUTH_ERR, LOGIN_DENIED, LOGIN_ACCOUNT},
    {PAM_MAXTRIES, LOGIN_DENIED, LOGIN_ACCOUNT},
    {PAM_PERM_DENIED, LOGIN_DENIED, LOGIN_ACCOUNT},
    {PAM_CRED_INSUFFICIENT, LOGIN_DENIED, LOGIN_UNAVAILABLE},
    {PAM_ACCT_EXPIRED, LOGIN_DENIED, LOGIN_ACCOUNT},
    {PAM_AUTHTOK_EXPIRED, LOGIN_DENIED, LOGIN_EXPIRED},
    {PAM_CRED_EXPIRED, LOGIN_DENIED, LOGIN_EXPIRED},
    {PAM_NEW_AUTHTOK_REQD, LOGIN_EXPIRED, LOGIN_EXPIRED},
    {PAM_MODULE_UNKNOWN, LOGIN_MISCONFIGURED, LOGIN_MISCONFIGURED},
    {PAM_OPEN_ERR, LOGIN_MISCONFIGURED, LOGIN_MISCONFIGURED},
    {PAM_SYMBOL_ERR, LOGIN_MISCONFIGURED, LOGIN_MISCONFIGURED},
};

/* One prompt or text of a module; false for what no mail client could answer. The password is the
 * answer to the first prompt of a call: who asks for two secrets at once wants a new password and
 * its confirmation, which must not become the old one, or a second factor, which is then looked for
 * in the password. */
static bool answer(struct pam_login *login, const struct pam_message *message, bool *given,
                   char **reply)
{
    if (!message || !message->msg)
        return false;
    switch (message->msg_style) {
    case PAM_PROMPT_ECHO_OFF:
        if (!login->asking)
            return false;
        *reply = strdup(*given ? "" : login->secret);
        *given = true;
        return *reply != NULL;
    case PAM_PROMPT_ECHO_ON:
        return (*reply = strdup(login->user)) != NULL;
    case PAM_ERROR_MSG:
    case PAM_TEXT_INFO:
        base_copy(login->remark, sizeof login->remark, message->msg);
        return true;
    default:
        return false;
    }
}

static int converse(int n, const struct pam_message **messages, struct pam_response **responses,
                    void *context)
{
    if (n <= 0 || n > PAM_MAX_NUM_MSG || !messages || !responses)
        return PAM_CONV_ERR;
    struct pam_response *replies = calloc((size_t)n, sizeof *replies);
    bool given = false;
    if (!replies)
        return PAM_BUF_ERR;
    for (int i = 0; i < n; i++) {
        if (answer(context, messages[i], &given, &replies[i].resp))
            continue;
        while (i-- > 0) {
            if (replies[i].resp)
                explicit_bzero(replies[i].resp, strlen(replies[i].resp));
            free(replies[i].resp);
        }
        free(replies);
        return PAM_CONV_ERR;
    }
    *responses = replies; /* the module's now */
    return PAM_SUCCESS;
}

/* With this set, libpam does not sleep after a failure: the wait is the master's timer. */
static void ignore_delay(int status, unsigned microseconds, void *context)
{
    (void)status;
    (void)microseconds;
    (void)context;
}

/* What libpam finds wrong with a service it says to the log alone. A line that it cannot read lets
 * nobody pass then, as if every password were wrong; a module that is missing may do no harm. */
struct said {
    char fault[160], module[160]; /* the first of each */
};

static void hear(void *context, const char *text)
{
    struct said *said = context;
    bool module =
        strstr(text, "dlopen") || strstr(text, "faulty module") || strstr(text, "resolve symbol");
    char *to = module ? said->module : said->fault;
    if (!*to && !strstr(text, "no default config")) /* nor is one needed */
        base_copy(to, sizeof said->fault, text);
}

static int start_any(const char *service, const char *confdir, const char *user,
                     struct pam_login *login, pam_handle_t **handle, struct said *said)
{
    struct pam_conv conversation = {converse, login};
    *said = (struct said){0};
    syslog_overhear(hear, said);
    int status = confdir ? pam_start_confdir(service, user, &conversation, confdir, handle)
                         : pam_start(service, user, &conversation, handle);
    syslog_overhear(NULL, NULL);
    return status;
}

/* After any service libpam reads "other", of which we use no line: what is wrong with that alone
 * keeps nobody out. */
static int start(const char *service, const char *confdir, const char *user,
                 struct pam_login *login, pam_handle_t **handle, struct said *said)
{
    struct said others;
    pam_handle_t *other = NULL;
    int status = start_any(service, confdir, user, login, handle, said);
    if (status != PAM_SUCCESS || !*said->fault)
        return status;
    if (start_any("other", confdir, NULL, NULL, &other, &others) == PAM_SUCCESS)
        pam_end(other, PAM_SUCCESS);
    if (strcmp(said->fault, others.fault) == 0)
        said->fault[0] = '\0';
    return status;
}

static enum login_outcome explain(struct pam_login *login, const char *step,
                                  enum login_outcome outcome)
{
    bool ours = outcome == LOGIN_MISCONFIGURED;
    if (outcome == LOGIN_UNAVAILABLE || ours)
        snprintf(login->problem, sizeof login->problem, "PAM service %s: %s: %s%s", login->service,
                 step,
                 ours && *login->said ? login->said : pam_strerror(login->handle, login->status),
                 ours ? "; check the service's file and that its modules are installed" : "");
    return outcome;
}

static enum login_outcome prepare(struct pam_login *login)
{
    struct said said;
    login->status =
        start(login->service, login->confdir, login->user, login, &login->handle, &said);
    base_copy(login->said, sizeof login->said, *said.fault ? said.fault : said.module);
    login->faulty = *said.fault;
    if (login->status != PAM_SUCCESS) {
        login->handle = NULL;
        return explain(login, "start",
                       login->status == PAM_BUF_ERR ? LOGIN_UNAVAILABLE : LOGIN_MISCONFIGURED);
    }
    const void *delay = (const void *)(uintptr_t)ignore_delay;
    if ((login->status = pam_set_item(login->handle, PAM_RHOST, login->peer)) != PAM_SUCCESS ||
        (login->status = pam_set_item(login->handle, PAM_TTY, "poplar")) != PAM_SUCCESS ||
        (login->status = pam_set_item(login->handle, PAM_FAIL_DELAY, delay)) != PAM_SUCCESS)
        return explain(login, "set-up", LOGIN_UNAVAILABLE);
    return LOGIN_OK;
}

enum login_outcome pam_login_check(struct pam_login *login)
{
    const void *user = NULL;
    enum login_outcome outcome = prepare(login);
    if (outcome != LOGIN_OK)
        return outcome;

    login->asking = true;
    if (!login->vouched)
        login->status = pam_authenticate(login->handle, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);
    login->asking = false;
    bool authenticated = login->status == PAM_SUCCESS;
    if (authenticated)
        login->status = pam_acct_mgmt(login->handle, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);

    outcome = LOGIN_UNAVAILABLE;
    for (size_t i = 0; i < ARRAY_SIZE(meanings); i++)
        if (meanings[i].status == login->status)
            outcome = authenticated ? meanings[i].account : meanings[i].authentication;
    if (login->status == PAM_PERM_DENIED && login->faulty)
        outcome = LOGIN_MISCONFIGURED;
    if (outcome != LOGIN_OK)
        return explain(login, authenticated ? "account" : "authentication", outcome);

    login->status = pam_get_item(login->handle, PAM_USER, &user);
    if (login->status != PAM_SUCCESS || !user)
        return explain(login, "user name", LOGIN_UNAVAILABLE);
    if (!base_copy(login->name, sizeof login->name, user))
        login->name[0] = '\0'; /* a name cut short would be somebody else's */
    return LOGIN_OK;
}

/* The child's whole life. What it changes in itself dies with it. */
_Noreturn static void run_session(pam_handle_t *handle, pid_t parent)
{
    privileges_die_with(parent);
    int status = pam_setcred(handle, PAM_ESTABLISH_CRED | PAM_SILENT);
    if (status == PAM_SUCCESS)
        status = pam_open_session(handle, PAM_SILENT);
    if (status == PAM_SUCCESS)
        status = pam_close_session(handle, PAM_SILENT);
    _exit(status);
}

enum login_outcome pam_login_session(struct pam_login *login)
{
    pid_t self = getpid(), child = fork(), ended;
    int status = 0;
    if (child == 0)
        run_session(login->handle, self);
    do
        ended = child < 0 ? -1 : waitpid(child, &status, 0);
    while (ended < 0 && errno == EINTR);
    login->status = ended == child && WIFEXITED(status) ? WEXITSTATUS(status) : PAM_SYSTEM_ERR;
    enum login_outcome failed =
        login->status == PAM_MODULE_UNKNOWN ? LOGIN_MISCONFIGURED : LOGIN_UNAVAILABLE;
    return explain(login, "session", login->status == PAM_SUCCESS ? LOGIN_OK : failed);
}

void pam_login_end(struct pam_login *login)
{
    if (login->handle)
        pam_end(login->handle, login->status);
    login->handle = NULL;
}

bool pam_pins_add(struct pam_pins *pins, const char *service, const char *confdir, char *problem,
                  size_t size)
{
    struct said said;
    pam_handle_t *handle = NULL;
    int status = start(service, confdir, NULL, NULL, &handle, &said); /* never converses */
    bool good = status == PAM_SUCCESS && !*said.fault;
    const char *what = *said.fault ? said.fault : said.module;
    problem[0] = '\0';
    if (!good || *what)
        snprintf(problem, size,
                 "pam_service=%s: %s; mend the service's file, or install the module", service,
                 *what ? what : pam_strerror(handle, status));
    if (status != PAM_SUCCESS)
        return false;
    pins->handles = base_grow(pins->handles, pins->n, sizeof(pam_handle_t *));
    pins->handles[pins->n++] = handle;
    return good;
}

void pam_pins_release(struct pam_pins *pins)
{
    for (size_t i = 0; i < pins->n; i++)
        pam_end(pins->handles[i], PAM_SUCCESS);
    free(pins->handles);
    *pins = (struct pam_pins){0};
}
