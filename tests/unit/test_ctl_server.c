/*
 * test_ctl_server.c - poplarctl status and reload against a control socket of our own: the answer,
 * its status, and every way in which there is none.
 */
#include "ctl_run.h"

#include "daemon/channel.h"
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sysexits.h>

/* The control socket is looked for in the place, and is made in the working directory. */
static int begin(void **state)
{
    if (ctl_run_begin(state) < 0)
        return -1;
    must_set(config, "server", "", "run_dir", place);
    return chdir(place);
}

enum behaviour { ANSWER, HANG_UP, BABBLE };

/* What the master would do with one caller. */
static void serve(int listener, enum behaviour behaviour, enum proto_type asked, unsigned status,
                  const char *text)
{
    struct channel c;
    static struct message m;
    int fd = accept(listener, NULL, NULL);
    channel_open(&c, fd, ROLE_MASTER, ROLE_CTL, STATE_IDLE);
    if (channel_receive(&c, &m, true, NULL) != CHANNEL_OK || m.rule->type != asked)
        _exit(1);
    if (behaviour == BABBLE && write(fd, "\xff?", 2) != 2)
        _exit(1);
    if (behaviour == ANSWER) {
        message_begin(&m, PROTO_REPLY);
        message_put_u32(&m, status);
        message_put_text(&m, text);
        if (channel_send(&c, &m, true) != CHANNEL_OK)
            _exit(1);
    }
    _exit(0);
}

/* The socket where the master listens. */
static int listen_here(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "control"};
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    unlink("control");
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 1), 0);
    return listener;
}

static pid_t start_master(enum behaviour behaviour, enum proto_type asked, unsigned status,
                          const char *text)
{
    int listener = listen_here();
    pid_t child = fork();
    if (child == 0)
        serve(listener, behaviour, asked, status, text);
    close(listener);
    return child;
}

/* Run a command with one or two words, or none. */
static int run(int (*command)(struct ctl *), unsigned options, const char *a, const char *b)
{
    return ctl_run(command, (struct ctl){.options = options}, (const char *[]){a, b, NULL});
}

static void expect(enum behaviour behaviour, enum proto_type type, unsigned options, unsigned reply,
                   const char *text, int status, const char *output)
{
    int ended;
    pid_t master = start_master(behaviour, type, reply, text);
    int (*command)(struct ctl *) = type == PROTO_STATUS ? ctl_status : ctl_reload;
    assert_int_equal(run(command, options, NULL, NULL), status);
    assert_string_equal(printed, output);
    assert_int_equal(waitpid(master, &ended, 0), master);
    assert_int_equal(ended, 0);
}

static void passes_the_answer_on(void **state)
{
    (void)state;
    expect(ANSWER, PROTO_STATUS, 0, EX_PROTOCOL, "another version", EX_PROTOCOL, "");
    expect(ANSWER, PROTO_RELOAD, 0, 0, "", 0, "");
    expect(ANSWER, PROTO_RELOAD, 0, 0, "reloaded", 0, "reloaded\n");
    expect(ANSWER, PROTO_RELOAD, 0, EX_CONFIG, "poplar.conf:3: no such key", EX_CONFIG, "");
    expect(ANSWER, PROTO_RELOAD, CTL_JSON, EX_CONFIG, "line 3", EX_CONFIG,
           "{\"status\":78,\"text\":\"line 3\"}\n");
    expect(ANSWER, PROTO_RELOAD, CTL_JSON, EX_CONFIG, "caf\xe9.pem: none", EX_CONFIG,
           "{\"status\":78,\"text\":\"caf\\\\xe9.pem: none\"}\n");
}

static void survives_a_bad_master(void **state)
{
    (void)state;
    expect(HANG_UP, PROTO_STATUS, 0, 0, "", EX_UNAVAILABLE, "");
    expect(BABBLE, PROTO_RELOAD, 0, 0, "", EX_PROTOCOL, "");
}

static void says_when_nobody_is_there(void **state)
{
    (void)state;
    unlink("control");
    assert_int_equal(run(ctl_status, 0, NULL, NULL), EX_UNAVAILABLE);
    close(listen_here()); /* a socket that a killed master left behind */
    assert_int_equal(run(ctl_reload, 0, NULL, NULL), EX_UNAVAILABLE);
    assert_string_equal(printed, "");
}

/* What a master has to tell, and how it takes orders. */
struct told {
    struct {
        uint64_t number, age_ms;
        unsigned state, door;
        const char *user, *tls;
    } sessions[6];
    struct {
        unsigned part;
        const char *name, *detail;
        uint64_t value;
    } items[6];
    unsigned kick_status;
    const char *kick_text;
    bool stays;    /* who is kicked */
    bool hangs_up; /* after an order */
    bool confused; /* answers orders by what is no answer */
    uint64_t each; /* every number, if not 0 */
};

static void put_end(struct message *m, unsigned status, const char *text)
{
    message_begin(m, PROTO_REPLY);
    message_put_u32(m, status);
    message_put_text(m, text);
}

static void put_entry(struct message *m, const struct told *told, unsigned part, uint64_t from)
{
    if (part == STATUS_COUNTS && told->each && from < COUNTS) {
        message_begin(m, PROTO_COUNT);
        message_put_u64(m, from + 1);
        message_put_u32(m, (uint32_t)from);
        message_put_u64(m, told->each);
        return;
    }
    if (part == STATUS_COUNTS && !told->each && from < 2) {
        message_begin(m, PROTO_COUNT);
        message_put_u64(m, from + 1);
        message_put_u32(m, from == 0 ? COUNT_SESSIONS : COUNTS + 7); /* one of a newer version */
        message_put_u64(m, 3);
        return;
    }
    for (uint64_t i = from; part == STATUS_SESSIONS && i < ARRAY_SIZE(told->sessions); i++)
        if (told->sessions[i].number) {
            message_begin(m, PROTO_SESSION);
            message_put_u64(m, i + 1);
            message_put_u64(m, told->sessions[i].number);
            message_put_u32(m, 4711);
            message_put_u32(m, told->sessions[i].state);
            message_put_u32(m, told->sessions[i].door);
            message_put_text(m, told->sessions[i].user);
            message_put_text(m, "192.0.2.1:1024");
            message_put_text(m, told->sessions[i].tls);
            message_put_u64(m, told->sessions[i].age_ms);
            return;
        }
    for (uint64_t i = from; i < ARRAY_SIZE(told->items); i++)
        if (told->items[i].name && told->items[i].part == part) {
            message_begin(m, PROTO_ITEM);
            message_put_u64(m, i + 1);
            message_put_text(m, told->items[i].name);
            message_put_text(m, told->items[i].detail);
            message_put_u64(m, told->items[i].value);
            return;
        }
    put_end(m, 0, "");
}

/* A master that answers for as long as its caller is there. */
static pid_t start_telling(struct told told)
{
    int listener = listen_here();
    pid_t child = fork();
    if (child != 0) {
        close(listener);
        return child;
    }
    struct channel c;
    static struct message m;
    bool go_on = true;
    channel_open(&c, accept(listener, NULL, NULL), ROLE_MASTER, ROLE_CTL, STATE_IDLE);
    while (go_on && channel_receive(&c, &m, true, NULL) == CHANNEL_OK) {
        bool order = m.rule->type != PROTO_STATUS;
        uint64_t number = message_get_u64(&m);
        if (order) {
            for (size_t i = 0; i < ARRAY_SIZE(told.sessions) && !told.stays; i++)
                if (told.sessions[i].number == number)
                    told.sessions[i].number = 0;
            put_end(&m, told.kick_status, told.kick_text ? told.kick_text : "");
            if (told.confused)
                put_entry(&m, &told, STATUS_COUNTS, 0);
        } else {
            unsigned part = message_get_u32(&m);
            put_entry(&m, &told, part, message_get_u64(&m));
        }
        go_on = channel_send(&c, &m, true) == CHANNEL_OK && !(order && told.hangs_up);
    }
    _exit(0);
}

/* Run a command in front of such a master, with a word and 7, or without words. */
static void expect_told(const struct told *told, int (*command)(struct ctl *), unsigned options,
                        const char *word, int status, const char *wanted)
{
    pid_t master = start_telling(*told);
    assert_int_equal(run(command, options, word, word ? "7" : NULL), status);
    expect_printed(wanted);
    assert_int_equal(waitpid(master, NULL, 0), master);
}

static const struct told busy = {.sessions = {{1, 90000, STATE_CLIENT, DOOR_POP3, "", ""},
                                              {2, 90061000, STATE_LOGIN, DOOR_POP3S, "", ""},
                                              {3, 1000, STATE_MAIL, DOOR_POP3S, "alice", "TLSv1.3"},
                                              {4, 1000, STATE_DELIVERY, DOOR_LMTP, "", ""},
                                              {5, 1000, STATE_DONE, DOOR_POP3, "bob", ""},
                                              {6, 1000, STATE_MAIL, DOOR_POP3, "alice", ""}},
                                 .items = {{STATUS_CERTIFICATES, "", "/etc/a.pem", 0},
                                           {STATUS_CERTIFICATES, "b\"", "/etc/b.pem", 1},
                                           {STATUS_SOURCES, "192.0.2.1", "", 1500},
                                           {STATUS_USERS, "eve", "", 1},
                                           {STATUS_TRACED, "mallory", "", 0}}};

static void tells_of_sessions(void **state)
{
    (void)state;
    expect_told(&busy, ctl_sessions, 0, NULL, 0, " login     pop3s  TLS      1d 1:01:01 ");
    expect_told(&busy, ctl_sessions, 0, NULL, 0, " greeted   pop3   -        0:01:30");
    expect_told(&busy, ctl_sessions, 0, NULL, 0, " delivery  lmtp   - ");
    expect_told(&busy, ctl_sessions, 0, NULL, 0, " ending    pop3   - ");
    expect_told(&busy, ctl_sessions, CTL_JSON, NULL, 0,
                "\"door\":\"pop3s\",\"tls\":\"TLSv1.3\",\"state\":\"mail\",\"seconds\":1}");
}

static void tells_of_the_rest(void **state)
{
    (void)state;
    expect_told(&busy, ctl_status, 0, NULL, 0, "/etc/a.pem: not read yet");
    expect_told(&busy, ctl_status, 0, NULL, 0, "/etc/b.pem: EXPIRED, on 1970-01-01; renew it");
    expect_told(&busy, ctl_status, CTL_JSON, NULL, 0, "{\"name\":\"\",\"file\":\"/etc/a.pem\"}");
    expect_told(&busy, ctl_status, 0, NULL, 0, "192.0.2.1: its logins are refused, for 2 s more");
    expect_told(&busy, ctl_metrics, 0, NULL, 0, "name=\"b\\\"\"");
    expect_told(&busy, ctl_metrics, CTL_JSON, NULL, 0, "poplar_certificate_days_left");
}

static void one_is_one(void **state)
{
    (void)state;
    struct told told = {.each = 1};
    static const char *const ones[] = {
        "1 logged in, 1 delivering; 1 connection waiting\n", "1 idle worker, 1 starting;",
        "1 of 1 auth processes, 1 busy; 1 login waiting\n",  "1 connection, 1 refused; 1 login, ",
        "1 message retrieved, 1 deleted, 1 delivered\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(ones); i++)
        expect_told(&told, ctl_status, 0, NULL, 0, ones[i]);
    told.each = 2;
    expect_told(&told, ctl_status, 0, NULL, 0, "2 connections, 2 refused; 2 logins, ");
}

/* What no user is called is refused before the server hears of anything. */
static void kicks_no_nonsense(void **state)
{
    (void)state;
    unlink("control");
    assert_int_equal(run(ctl_kick, 0, " ", NULL), EX_NOUSER);
    assert_int_equal(run(ctl_kick, 0, "7", "a/b"), EX_NOUSER);
    assert_int_equal(run(ctl_kick, 0, "7", "a"), EX_UNAVAILABLE);
    assert_string_equal(printed, "");
}

static void kicks(void **state)
{
    (void)state;
    struct told told = busy;
    expect_told(&told, ctl_kick, 0, "3", EX_NOINPUT, "1 session ended\n"); /* there is no 7 */
    expect_told(&told, ctl_kick, CTL_JSON, "1", EX_NOINPUT, "{\"ended\":1}\n");
    expect_told(&told, ctl_kick, 0, "alice", EX_NOINPUT, "2 sessions ended\n");
    expect_told(&told, ctl_kick, 0, "1234567890123456789", EX_NOINPUT, "0 sessions ended\n");
    must_set(config, "auth", "", "canonical",
             "nss"); /* users who are no more, by what the rules make of them */
    char endless[120] = "";
    memset(endless, '%', sizeof endless - 1);
    expect_told(&told, ctl_kick, 0, "ALICE", EX_NOINPUT, "2 sessions ended\n");
    expect_told(&told, ctl_kick, 0, "nobody-here", EX_NOINPUT, "0 sessions ended\n");
    expect_told(&told, ctl_kick, 0, endless, EX_NOINPUT, "0 sessions ended\n");
    must_set(config, "auth", "", "canonical", "pam");
    told.kick_status = EX_NOINPUT; /* it left by itself */
    expect_told(&told, ctl_kick, 0, "3", EX_NOINPUT, "1 session ended\n");
    told.kick_status = EX_NOPERM;
    expect_told(&told, ctl_kick, 0, "3", EX_NOPERM, "");
    told.kick_text = "only root may";
    expect_told(&told, ctl_kick, 0, "3", EX_NOPERM, "");
    told = busy;
    told.hangs_up = true;
    expect_told(&told, ctl_kick, 0, "3", EX_UNAVAILABLE, "");
    told = busy;
    told.confused = true;
    expect_told(&told, ctl_kick, 0, "3", EX_PROTOCOL, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_the_answer_on),      cmocka_unit_test(survives_a_bad_master),
        cmocka_unit_test(says_when_nobody_is_there), cmocka_unit_test(tells_of_sessions),
        cmocka_unit_test(tells_of_the_rest),         cmocka_unit_test(one_is_one),
        cmocka_unit_test(kicks_no_nonsense),         cmocka_unit_test(kicks),
    };
    return cmocka_run_group_tests(tests, begin, ctl_run_end);
}
