/*
 * world.c - what is around a conversation: settings, accounts, mail, and what master and auth say
 * to the worker. For tests.
 */
#include "tests/protocol/walk.h"

/* ---- master and auth ---- */

/* The outcome of this name; LOGIN_OUTCOMES if there is none. */
static unsigned find_outcome(const char *name)
{
    unsigned outcome = 0;
    while (outcome < LOGIN_OUTCOMES && strcmp(name, proto_outcome_name(outcome)) != 0)
        outcome++;
    return outcome;
}

/* Called with the credentials in hand: what auth says to them. "last" is a denial after which the
 * master wants the connection closed, "dies" none at all. */
static void decide(struct harness *harness)
{
    struct played *auth = &harness->auth;
    const char *answer = "denied";
    for (size_t i = 0; i < w.n_accounts; i++)
        if (strcmp(auth->user, w.accounts[i].name) == 0 &&
            strcmp(auth->secret, w.accounts[i].secret) == 0)
            answer = w.accounts[i].answer;
    auth->last = strcmp(answer, "last") == 0;
    auth->dies = strcmp(answer, "dies") == 0;
    auth->verdict = auth->last || auth->dies ? (unsigned)LOGIN_DENIED : find_outcome(answer);
}

void world_begin(void)
{
    if (w.begun)
        return;
    w.begun = true;
    if (w.without_certificate)
        harness_start_clear(&h, w.settings);
    else
        harness_start(&h, w.settings);
}

void world_connect(void)
{
    harness_connect(&h, w.door, w.peer);
    w.connected = true;
    h.auth.while_deciding = decide;
    h.auth.refusal = w.refusal;
}

void world_deliver(void)
{
    if (!w.mailing)
        return;
    world_begin();
    harness_deliver_octets(&h, w.mail.at, w.mail.size);
    w.mailing = false;
    w.mail.size = 0;
}

/* Before anything is said or heard. */
void world_in_session(void)
{
    world_deliver();
    world_begin();
    if (h.client >= 0)
        return;
    if (w.connected)
        wrong("the session is over; 'again' begins another");
    world_connect();
}

/* ---- the head, and what the others do ---- */

void run_set(const char *setting)
{
    if (w.begun || w.n_settings == SETTINGS_MAX)
        wrong("settings come first, %d at most", SETTINGS_MAX);
    w.settings[w.n_settings++] = base_strdup(setting);
}

void run_certificate(const char *text)
{
    if (w.begun || strcmp(text, "none") != 0)
        wrong("'certificate none' comes first");
    w.without_certificate = true;
}

void run_door(const char *name)
{
    bool tls = strcmp(name, "pop3s") == 0;
    if (!tls && strcmp(name, "pop3") != 0)
        wrong("a door is pop3 or pop3s");
    w.door = tls ? DOOR_POP3S : DOOR_POP3;
}

void run_peer(const char *address)
{
    base_copy(w.peer, sizeof w.peer, address);
}

/* A later line for the same name and password replaces an earlier one. */
void run_login(const char *text)
{
    if (w.n_accounts == ACCOUNTS_MAX)
        wrong("too many accounts");
    struct account *a = &w.accounts[w.n_accounts++];
    a->name = word_next(&text);
    a->secret = word_next(&text);
    a->answer = word_next(&text);
    if (find_outcome(a->answer) == LOGIN_OUTCOMES && strcmp(a->answer, "last") != 0 &&
        strcmp(a->answer, "dies") != 0)
        wrong("auth does not answer '%s'", a->answer);
}

void run_master(const char *text)
{
    static const char *const words[] = {"willing", "busy", "throttled"};
    if (w.say.size > 0)
        client_send();
    for (uint32_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            h.auth.refusal = w.refusal = i;
            return;
        }
    }
    wrong("the master is willing, busy or throttled");
}

void run_asked(const char *text)
{
    if (strcmp(text, "nothing") == 0) {
        if (h.auth.asked > 0)
            wrong("auth was asked about '%s'", h.auth.user);
        return;
    }
    char *mechanism = word_next(&text), *name = word_next(&text), *secret = word_next(&text);
    if (strcmp(mechanism, h.auth.mechanism) != 0 || strcmp(name, h.auth.user) != 0 ||
        strcmp(secret, h.auth.secret) != 0)
        wrong("auth was asked %s '%s' '%s'", h.auth.mechanism, h.auth.user, h.auth.secret);
    free(mechanism);
    free(name);
    free(secret);
}

void run_mail(const char *text)
{
    (void)text;
    w.mailing = true;
}

void run_mail_line(const char *text)
{
    if (!w.mailing)
        wrong("a message begins with 'mail'");
    octets_add(&w.mail, text, strlen(text));
    octets_add(&w.mail, "\r\n", 2);
}

void run_mail_raw(const char *text)
{
    if (!w.mailing)
        wrong("a message begins with 'mail'");
    octets_add_escaped(&w.mail, text);
}

void run_messages(const char *text)
{
    unsigned long long there = harness_count(&h), expected = strtoull(text, NULL, 10);
    if (there != expected)
        wrong("expected %llu messages in the store, there are %llu", expected, there);
}

void run_release(const char *text)
{
    (void)text;
    if (w.holding)
        test_drop_give_back(w.held);
    w.holding = false;
}

void run_hold(const char *text)
{
    (void)text;
    world_begin();
    if (!harness_grant(&h, true, w.held))
        wrong("the maildrop is in use");
    w.holding = true;
}

void run_sql(const char *text)
{
    if (w.say.size > 0)
        client_send();
    harness_sql(&h, text);
}
