/*
 * commands.c - what each POP3 command does (RFC 1939, 2449, 2595). Runs in a worker, inside its
 * sandbox. A handler answers or says what is wrong; counting, wiping and ending is pop3.c's.
 */
#include "worker/commands.h"
#include "daemon/base.h"
#include "worker/authenticate.h"
#include "worker/login.h"
#include "worker/retrieve.h"
#include "worker/scan.h"
#include "worker/utf8.h"

#include <string.h>
#include <strings.h>

enum { LINE_LIMIT = 255, CREDENTIAL_LINE_LIMIT = 512, SECONDS_PER_DAY = 86400 };

static void put_line(struct session *s, const char *text)
{
    stream_put_text(&s->stream, text);
    stream_put_text(&s->stream, "\r\n");
}

static void put_end(struct session *s)
{
    stream_put_text(&s->stream, ".\r\n");
}

/* RFC 5034 section 3: all in one line, or no line. */
static void put_sasl(struct session *s)
{
    const char *mechanism;
    for (size_t n = 0; (mechanism = authenticate_mechanism(s, n)) != NULL; n++) {
        stream_put_text(&s->stream, n == 0 ? "SASL " : " ");
        stream_put_text(&s->stream, mechanism);
    }
    if (authenticate_mechanism(s, 0))
        put_line(s, "");
}

static void put_number(struct session *s, const char *before, uint64_t number)
{
    stream_put_text(&s->stream, before);
    stream_put_number(&s->stream, number);
    put_line(s, "");
}

/* RFC 2449 section 6.7, in whole days, of which a message is sure. 0 would say that nothing may be
 * left on the server; the configuration has no time below a day. */
static void put_expire(struct session *s)
{
    uint64_t days = s->config->store.expire_after / SECONDS_PER_DAY;
    if (s->config->store.expire_after == 0)
        put_line(s, "EXPIRE NEVER");
    else
        put_number(s, "EXPIRE ", days);
}

/* RFC 2449 section 5: what is announced is there now; what AUTHORIZATION has is announced in both
 * states, but for STLS (RFC 2595 section 4). */
static enum command_outcome run_capa(struct session *s, const struct command_arguments *a)
{
    (void)a;
    session_ok(s, TEXT_CAPABILITIES);
    put_line(s, "TOP");
    put_line(s, "UIDL");
    put_line(s, "RESP-CODES");
    put_line(s, "AUTH-RESP-CODE");
    put_line(s, "PIPELINING");
    if (!s->logged_in && !session_has_tls(s) && tls_available(s->tls))
        put_line(s, "STLS");
    if (session_may_log_in(s))
        put_line(s, "USER");
    put_sasl(s);
    if (s->config->session.login_delay > 0)
        put_number(s, "LOGIN-DELAY ", s->config->session.login_delay);
    put_expire(s);
    put_line(s, "UTF8 USER");
    put_line(s, "LANG");
    put_line(s, "IMPLEMENTATION Poplar-" POPLAR_VERSION);
    put_end(s);
    return COMMAND_DONE;
}

/* Whatever came in the clear, before or behind STLS, may be somebody else's: it is forgotten. */
static enum command_outcome run_stls(struct session *s, const struct command_arguments *a)
{
    (void)a;
    if (session_has_tls(s) || !tls_available(s->tls)) {
        session_error(s, CODE_NONE, session_has_tls(s) ? TEXT_TLS_ALREADY : TEXT_TLS_NOT_HERE);
        return COMMAND_DONE;
    }
    session_ok(s, TEXT_TLS_BEGINS);
    stream_flush(&s->stream);
    session_check_stream(s);
    line_discard(&s->input);
    explicit_bzero(s->user, sizeof s->user);
    utf8_begin(s);
    if (s->end == 0)
        session_start_tls(s);
    return COMMAND_DONE;
}

static enum command_outcome run_user(struct session *s, const struct command_arguments *a)
{
    s->user[0] = '\0';
    if (a->size == 0)
        return COMMAND_BAD;
    if (!session_may_log_in(s)) {
        session_error(s, CODE_AUTH, TEXT_TLS_FIRST);
        return COMMAND_DONE;
    }
    if (!line_is_user(a->text, a->size)) {
        session_error(s, CODE_NONE, TEXT_NAME_UNFIT);
        return COMMAND_DONE;
    }
    memcpy(s->user, a->text, a->size);
    s->user[a->size] = '\0';
    session_ok(s, TEXT_NAME_ACCEPTED);
    return COMMAND_DONE;
}

static enum command_outcome run_pass(struct session *s, const struct command_arguments *a)
{
    char user[sizeof s->user];
    memcpy(user, s->user, sizeof user);
    s->user[0] = '\0';
    if (!session_may_log_in(s))
        session_error(s, CODE_AUTH, TEXT_TLS_FIRST);
    else if (!user[0])
        session_error(s, CODE_NONE, TEXT_NAME_FIRST);
    else if (a->size == 0)
        session_error(s, CODE_AUTH, TEXT_PASSWORD_EMPTY);
    else if (!line_is_password(a->text, a->size))
        session_error(s, CODE_AUTH, TEXT_PASSWORD_UNFIT);
    else
        login_try(
            s, &(struct login_credentials){
                   .mechanism = "PASS", .user = user, .secret = a->text, .secret_size = a->size});
    return COMMAND_DONE;
}

/* Without a mechanism it asks which there are, as clients did before CAPA. */
static enum command_outcome run_auth(struct session *s, const struct command_arguments *a)
{
    const char *mechanism;
    s->user[0] = '\0';
    if (a->n > 0)
        return authenticate_run(s, a->words[0], a->n > 1 ? a->words[1] : NULL);
    session_ok(s, TEXT_AUTH_MECHANISMS);
    for (size_t n = 0; (mechanism = authenticate_mechanism(s, n)) != NULL; n++)
        put_line(s, mechanism);
    put_end(s);
    return COMMAND_DONE;
}

static enum command_outcome run_quit(struct session *s, const struct command_arguments *a)
{
    (void)a;
    session_ok(s, TEXT_BYE);
    session_end(s, END_QUIT);
    return COMMAND_DONE;
}

/* RFC 1939 section 6. Where nothing is to be deleted, nothing that the client asked for can fail:
 * after an -ERR some of them fetch all messages again. That some could not be marked as retrieved
 * is the log's business. */
static enum command_outcome run_quit_update(struct session *s, const struct command_arguments *a)
{
    enum store_outcome outcome = view_commit(&s->view, s->config->store.undelete_for);
    if (outcome != STORE_OK) {
        enum session_code code = session_store_failed(s, outcome);
        if (s->view.n_deleted > 0) {
            session_error(s, code, TEXT_NOT_DELETED);
            return COMMAND_DONE;
        }
    }
    s->deleted = s->view.n_deleted;
    return run_quit(s, a);
}

static enum command_outcome run_stat(struct session *s, const struct command_arguments *a)
{
    (void)a;
    session_numbers(s, "+OK ", view_messages(&s->view), view_octets(&s->view));
    put_line(s, "");
    return COMMAND_DONE;
}

/* False, and the client is answered, when what it wants to know cannot be had. */
static bool is_there(struct session *s, enum store_outcome outcome)
{
    return outcome == STORE_OK || session_refuse_store(s, outcome);
}

/* The list of messages must be there. */
static bool load(struct session *s)
{
    return is_there(s, view_load(&s->view));
}

static bool find(const struct session *s, const char *word, size_t *index)
{
    uint64_t number;
    return line_number(word, &number) && view_find(&s->view, number, index);
}

/* LIST and UIDL: one message, or all that are not deleted. */
static enum command_outcome list(struct session *s, const struct command_arguments *a,
                                 enum scan_kind kind)
{
    size_t index;
    if (!load(s))
        return COMMAND_DONE;
    if (a->n == 0) {
        scan_all(s, kind);
        return COMMAND_DONE;
    }
    if (!find(s, a->words[0], &index))
        return COMMAND_NO_MESSAGE;
    scan_one(s, kind, index);
    return COMMAND_DONE;
}

static enum command_outcome run_list(struct session *s, const struct command_arguments *a)
{
    return list(s, a, SCAN_SIZES);
}

static enum command_outcome run_uidl(struct session *s, const struct command_arguments *a)
{
    return list(s, a, SCAN_UIDLS);
}

static enum command_outcome run_retr(struct session *s, const struct command_arguments *a)
{
    size_t index;
    if (!load(s))
        return COMMAND_DONE;
    if (!find(s, a->words[0], &index))
        return COMMAND_NO_MESSAGE;
    if (retrieve_message(s, index))
        view_mark_retrieved(&s->view, index);
    return COMMAND_DONE;
}

static enum command_outcome run_top(struct session *s, const struct command_arguments *a)
{
    size_t index;
    uint64_t lines;
    if (!line_number(a->words[1], &lines))
        return COMMAND_BAD;
    if (!load(s))
        return COMMAND_DONE;
    if (!find(s, a->words[0], &index))
        return COMMAND_NO_MESSAGE;
    retrieve_top(s, index, lines);
    return COMMAND_DONE;
}

static enum command_outcome run_dele(struct session *s, const struct command_arguments *a)
{
    size_t index;
    if (!load(s))
        return COMMAND_DONE;
    if (!find(s, a->words[0], &index))
        return COMMAND_NO_MESSAGE;
    view_mark_deleted(&s->view, index);
    session_ok(s, TEXT_DELETED);
    return COMMAND_DONE;
}

/* RFC 1460: a number that a client left behind may go on from. Not a capability. */
static enum command_outcome run_last(struct session *s, const struct command_arguments *a)
{
    uint64_t number = 0;
    (void)a;
    if (!s->config->session.last)
        return COMMAND_UNKNOWN;
    if (load(s) && is_there(s, view_last(&s->view, &number)))
        put_number(s, "+OK ", number);
    return COMMAND_DONE;
}

static enum command_outcome run_rset(struct session *s, const struct command_arguments *a)
{
    (void)a;
    view_reset(&s->view);
    session_ok(s, TEXT_RESET);
    return COMMAND_DONE;
}

static enum command_outcome run_noop(struct session *s, const struct command_arguments *a)
{
    (void)a;
    session_ok(s, TEXT_NOTHING_DONE);
    return COMMAND_DONE;
}

static const struct command authorization[] = {
    {"CAPA", ARGUMENTS_WORDS, 0, 0, run_capa},      {"STLS", ARGUMENTS_WORDS, 0, 0, run_stls},
    {"USER", ARGUMENTS_LINE, 0, 0, run_user},       {"PASS", ARGUMENTS_SECRET, 0, 0, run_pass},
    {"AUTH", ARGUMENTS_WORDS, 0, 2, run_auth},      {"UTF8", ARGUMENTS_WORDS, 0, 0, utf8_run},
    {"LANG", ARGUMENTS_WORDS, 0, 1, utf8_run_lang}, {"QUIT", ARGUMENTS_WORDS, 0, 0, run_quit},
};

static const struct command transaction[] = {
    {"CAPA", ARGUMENTS_WORDS, 0, 0, run_capa},        {"STAT", ARGUMENTS_WORDS, 0, 0, run_stat},
    {"LIST", ARGUMENTS_WORDS, 0, 1, run_list},        {"UIDL", ARGUMENTS_WORDS, 0, 1, run_uidl},
    {"RETR", ARGUMENTS_WORDS, 1, 1, run_retr},        {"TOP", ARGUMENTS_WORDS, 2, 2, run_top},
    {"DELE", ARGUMENTS_WORDS, 1, 1, run_dele},        {"RSET", ARGUMENTS_WORDS, 0, 0, run_rset},
    {"LAST", ARGUMENTS_WORDS, 0, 0, run_last},        {"UTF8", ARGUMENTS_WORDS, 0, 0, utf8_run},
    {"LANG", ARGUMENTS_WORDS, 0, 1, utf8_run_lang},   {"NOOP", ARGUMENTS_WORDS, 0, 0, run_noop},
    {"QUIT", ARGUMENTS_WORDS, 0, 0, run_quit_update},
};

static const struct command *find_in(const struct command *table, size_t n, const char *name,
                                     size_t size)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(table[i].name) == size && strncasecmp(table[i].name, name, size) == 0)
            return &table[i];
    return NULL;
}

const struct command *commands_find(bool logged_in, const char *name, size_t size)
{
    return logged_in ? find_in(transaction, ARRAY_SIZE(transaction), name, size)
                     : find_in(authorization, ARRAY_SIZE(authorization), name, size);
}

size_t commands_line_limit(const void *context, const char *beginning, size_t size)
{
    if (size >= 5 && strncasecmp(beginning, "AUTH ", 5) == 0)
        return authenticate_line_limit(context);
    bool credential = size >= 5 && (strncasecmp(beginning, "USER ", 5) == 0 ||
                                    strncasecmp(beginning, "PASS ", 5) == 0);
    return credential ? CREDENTIAL_LINE_LIMIT : LINE_LIMIT;
}
