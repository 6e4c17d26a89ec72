/*
 * pop3.c - the loop of a POP3 session: a line in, a command looked up and run, its outcome turned
 * into a reply. Runs in a worker, inside its sandbox.
 */
#include "worker/pop3.h"
#include "daemon/base.h"
#include "worker/commands.h"
#include "worker/proxied.h"
#include "worker/proxy.h"
#include "worker/utf8.h"

#include <string.h>
#include <strings.h>

static void greet(struct session *s)
{
    stream_put_text(&s->stream, "+OK Poplar at ");
    stream_put_text(&s->stream, s->config->server.hostname);
    stream_put(&s->stream, " ", 1);
    session_put_text(s, TEXT_READY);
    stream_put_text(&s->stream, "\r\n");
}

/* One -ERR, and one mistake more: a client that makes them without end is none. */
static void refuse(struct session *s, enum text text)
{
    unsigned limit = s->logged_in ? SESSION_BAD_AFTER_LOGIN : SESSION_BAD_BEFORE_LOGIN;
    bool last = ++s->bad >= limit;
    session_error(s, CODE_NONE, last ? TEXT_TOO_MANY_BAD : text);
    if (last)
        session_end(s, END_BAD_COMMANDS);
}

/* Strangers get so many answers and no more: each costs us more than asking does. */
static bool has_had_enough(struct session *s)
{
    if (s->logged_in || ++s->commands <= SESSION_COMMANDS_BEFORE_LOGIN)
        return false;
    session_error(s, CODE_NONE, TEXT_TOO_MANY_COMMANDS);
    session_end(s, END_BAD_COMMANDS);
    return true;
}

/* Other protocols that a browser can be made to speak: what follows could be chosen by whoever
 * made the page. And the header of a proxy that is none of ours. */
static bool is_foreign(const char *word, size_t size)
{
    static const char *const verbs[] = {"GET",    "POST",  "PUT",   "HEAD", "CONNECT", "OPTIONS",
                                        "DELETE", "PATCH", "TRACE", "PRI",  "PROXY"};
    for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
        if (strlen(verbs[i]) == size && strncasecmp(verbs[i], word, size) == 0)
            return true;
    return false;
}

/* Fill in the arguments in the form that the command wants; false when they are not of it. */
static bool take_arguments(const struct command *command, char *text, size_t size,
                           struct command_arguments *a)
{
    if (command->form == ARGUMENTS_SECRET) {
        /* `text` begins at the one blank that is not part of the secret, if it is there. */
        size_t skip = size > 0 ? 1 : 0;
        a->text = text + skip;
        a->size = size - skip;
        return true;
    }
    if (command->form == ARGUMENTS_LINE) {
        size_t blanks = strspn(text, " ");
        while (size > blanks && text[size - 1] == ' ')
            text[--size] = '\0';
        a->text = text + blanks;
        a->size = size - blanks;
        return true;
    }
    a->n = line_split(text, a->words, command->max);
    return a->n >= command->min && a->n <= command->max;
}

static void refuse_unknown(struct session *s, const char *word, size_t size)
{
    if (!s->logged_in && is_foreign(word, size))
        session_end(s, END_FOREIGN);
    else if (commands_find(!s->logged_in, word, size))
        refuse(s, s->logged_in ? TEXT_NOT_AFTER_LOGIN : TEXT_NOT_BEFORE_LOGIN);
    else
        refuse(s, TEXT_UNKNOWN_COMMAND);
}

static void run_command(struct session *s, const struct line *line)
{
    struct command_arguments a = {0};
    size_t word = line_word(line->text, line->size);
    const struct command *command = commands_find(s->logged_in, line->text, word);
    bool secret = command && command->form == ARGUMENTS_SECRET;
    if (!secret && !line_is_text(line->text, line->size)) {
        refuse(s, TEXT_MALFORMED);
        return;
    }
    if (!command) {
        refuse_unknown(s, line->text, word);
        return;
    }
    enum command_outcome outcome = COMMAND_BAD;
    if (take_arguments(command, line->text + word, line->size - word, &a))
        outcome = command->run(s, &a);
    if (outcome == COMMAND_BAD)
        refuse(s, TEXT_ARGUMENTS);
    else if (outcome == COMMAND_UNKNOWN)
        refuse(s, TEXT_UNKNOWN_COMMAND);
    else if (outcome == COMMAND_NO_MESSAGE)
        session_error(s, CODE_NONE, TEXT_NO_SUCH_MESSAGE);
    else if (outcome == COMMAND_MALFORMED)
        refuse(s, TEXT_AUTH_MALFORMED);
    else if (outcome == COMMAND_TOO_LONG)
        refuse(s, TEXT_LINE_TOO_LONG);
}

/* Credentials are none of the log's business, in whatever state they come, and however they were
 * typed. */
static void copy_masked(char *to, size_t size, const struct line *line)
{
    const char *word = line->text + strspn(line->text, " \t");
    bool secret = strncasecmp(word, "PASS", 4) == 0 || strncasecmp(word, "AUTH", 4) == 0;
    base_copy(to, size, secret ? word : line->text);
    if (secret)
        base_copy(to + 4, size - 4, " ********");
}

static void run_line(struct session *s, const struct line *line)
{
    char traced[256];
    if (!s->stream.tracing) {
        run_command(s, line);
        return;
    }
    copy_masked(traced, sizeof traced, line);
    run_command(s, line);
    session_trace(s, traced);
}

/* A TLS client that met the port without TLS: its first octets are a record's type and version. */
static bool is_tls_hello(const struct session *s)
{
    size_t size;
    const unsigned char *held = line_held(&s->input, &size);
    return !s->spoke && !s->stream.tls && size >= 2 && held[0] == 0x16 && held[1] == 0x03;
}

/* A header from where proxy_from does not expect one: what it says of its client is not believed,
 * so nothing that follows is heard. */
static bool is_proxy_header(const struct session *s)
{
    size_t size;
    const unsigned char *held = line_held(&s->input, &size);
    return !s->spoke && proxy_begins(held, size);
}

/* The client's next octets, or what they show at once. */
static void read_more(struct session *s)
{
    session_read_more(s);
    if (s->end == 0 && is_proxy_header(s)) {
        base_copy(s->detail, sizeof s->detail,
                  s->proxied ? "a second PROXY header"
                             : "a PROXY header from an address that is not in [listen] proxy_from");
        session_end(s, END_FOREIGN);
    }
    if (s->end == 0 && is_tls_hello(s)) {
        session_error(s, CODE_NONE, TEXT_TLS_ON_CLEAR_PORT);
        session_end(s, END_FOREIGN);
    }
}

static void take_line(struct session *s, const struct line *line)
{
    s->spoke = true;
    s->unended = false;
    if (!has_had_enough(s))
        run_line(s, line);
}

/* Evolution 3.46 forgets the end of this line, and waits for the answer to it. No other command
 * begins so; who sends the end later has been answered, see step(). */
static bool is_unended_utf8(const struct session *s)
{
    size_t size;
    const unsigned char *held = line_held(&s->input, &size);
    return !s->logged_in && size == 4 && memcmp(held, "UTF8", size) == 0;
}

static void take_unended_utf8(struct session *s)
{
    char text[] = "UTF8";
    line_take(&s->input, strlen(text));
    take_line(s, &(struct line){text, strlen(text)});
    s->unended = true;
}

static void step(struct session *s)
{
    struct line line;
    switch (line_next(&s->input, commands_line_limit, s->config, &line)) {
    case LINE_OK:
        if (s->unended && line.size == 0)
            s->unended = false;
        else
            take_line(s, &line);
        line_release(&s->input);
        break;
    case LINE_MORE:
        if (is_unended_utf8(s))
            take_unended_utf8(s);
        else
            read_more(s);
        break;
    case LINE_TOO_LONG:
        s->spoke = true;
        s->unended = false;
        refuse(s, TEXT_LINE_TOO_LONG);
        break;
    case LINE_ENDLESS:
        session_error(s, CODE_NONE, TEXT_LINE_TOO_LONG);
        session_end(s, END_LINE_TOO_LONG);
        break;
    }
    session_check_stream(s);
}

/* The last words. An idle client is told nothing (RFC 1939 section 3). The maildrop is closed
 * before they are sent: a client that comes back at once must not find it in use. */
static void take_leave(struct session *s)
{
    bool may_speak = s->stream.tls ? SSL_is_init_finished(s->stream.tls) : s->door == DOOR_POP3;
    if (s->end == END_LOGIN_TIMEOUT && may_speak) {
        /* The deadline has passed for reading; one line that the socket takes at once may go. It
         * may be the answer to PASS: without a code that would be wrong. */
        bool asked = s->control.state == STATE_LOGIN;
        s->stream.failure = STREAM_OK;
        session_error(s, asked ? CODE_SYS_TEMP : CODE_NONE, TEXT_LOGIN_TIMEOUT);
    }
    if (s->last)
        view_leave(&s->view);
    else
        view_close(&s->view);
    stream_close(&s->stream);
}

void pop3_serve(struct session *s)
{
    utf8_begin(s);
    s->stream.deadline = base_now_ms() + s->config->session.login_timeout * 1000;
    if (s->proxied)
        proxied_begin(s);
    if (s->end == 0 && s->door == DOOR_POP3S)
        session_start_tls(s);
    if (s->end == 0)
        greet(s);
    while (s->end == 0)
        step(s);
    take_leave(s);
}
