/*
 * test_proto.c - every row of the contract, sent as it must not be: by the wrong role, in the wrong
 * state, oversized, truncated, with octets left over, with wrong descriptors, twice. The receiver
 * refuses each and goes on.
 */
#include "daemon/base.h"
#include "daemon/channel.h"
#include "tests/support/raw.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* The first role or state of a set. */
static unsigned lowest(unsigned set)
{
    return set & (~set + 1);
}

/* A pair of channels, as the row's sender and receiver hold them. */
static void open_pair(const struct proto_rule *rule, struct channel *sender,
                      struct channel *receiver)
{
    int ends[2];
    assert_int_equal(channel_pair(ends, true), 0);
    channel_open(receiver, ends[0], lowest(rule->to), lowest(rule->from), lowest(rule->states));
    channel_open(sender, ends[1], lowest(rule->from), lowest(rule->to), lowest(rule->states));
}

static void close_pair(struct channel *sender, struct channel *receiver)
{
    channel_close(sender);
    channel_close(receiver);
}

static void compose(const struct proto_rule *rule, struct message *m)
{
    message_begin(m, rule->type);
    for (const char *kind = rule->fields; *kind; kind++) {
        switch (*kind) {
        case 'u':
            message_put_u32(m, 7);
            break;
        case 'q':
            message_put_u64(m, UINT64_C(0x123456789abcdef0));
            break;
        case 's':
            message_put_text(m, "text");
            break;
        default:
            message_put_octets(m, "\0\1\2", 3);
        }
    }
    for (unsigned i = 0; i < rule->min_fds; i++)
        message_put_fd(m, STDIN_FILENO);
}

static void send_raw(int fd, const void *octets, size_t size, unsigned n)
{
    assert_int_equal(raw_send(fd, octets, size, STDIN_FILENO, n), size);
}

static unsigned open_descriptors(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void expect_fault(struct channel *receiver, const char *expected)
{
    struct message m;
    const char *fault = NULL;
    assert_int_equal(channel_receive(receiver, &m, true, &fault), CHANNEL_BAD);
    assert_string_equal(fault, expected);
    assert_int_equal(m.n_fds, 0);
}

/* Whatever came before, a good record is still understood. */
static void expect_good(const struct proto_rule *rule, struct channel *sender,
                        struct channel *receiver)
{
    struct message m;
    compose(rule, &m);
    assert_int_equal(channel_send(sender, &m, true), CHANNEL_OK);
    assert_int_equal(channel_receive(receiver, &m, true, NULL), CHANNEL_OK);
    assert_int_equal(m.rule->type, rule->type);
    assert_int_equal(m.n_fds, rule->min_fds);
    message_clear(&m);
}

static void each_row_round_trip(void **state)
{
    (void)state;
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *rule = proto_rule(type);
        struct channel sender, receiver;
        open_pair(rule, &sender, &receiver);
        expect_good(rule, &sender, &receiver);
        close_pair(&sender, &receiver);
    }
}

static void each_row_is_sane(void **state)
{
    (void)state;
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *rule = proto_rule(type);
        assert_int_equal(rule->type, type);
        assert_true(rule->from && rule->to && rule->states);
        assert_false(rule->from & rule->to);
        assert_true(rule->max_size > 0 && rule->max_size <= PROTO_MESSAGE_MAX);
        assert_true(rule->min_fds <= rule->max_fds && rule->max_fds <= PROTO_FDS_MAX);
        assert_int_equal(strspn(rule->fields, "uqsb"), strlen(rule->fields));
    }
    assert_null(proto_rule(0));
    assert_null(proto_rule(PROTO_TYPES));
    assert_null(proto_rule(255));
}

/* What the row does not allow from this peer, or in this state. */
static void expect_refused(const struct proto_rule *rule, unsigned peer, unsigned state,
                           const char *fault)
{
    struct channel sender, receiver;
    struct message m;
    open_pair(rule, &sender, &receiver);
    receiver.peer = peer;
    receiver.state = state;
    compose(rule, &m);
    send_raw(sender.fd, m.data, m.size, m.n_fds);
    expect_fault(&receiver, fault);
    close_pair(&sender, &receiver);
}

/* The kernel tells first that the peer ended over what it had not taken, and once. What the peer
 * said before is there all the same. */
static void last_words(void **state)
{
    const struct proto_rule *rule = proto_rule(PROTO_SUMMARY), *order = proto_rule(PROTO_FINISH);
    struct channel worker, master;
    struct message m;
    (void)state;
    for (int untaken = 0; untaken < 2; untaken++) {
        open_pair(rule, &worker, &master);
        compose(rule, &m);
        assert_int_equal(channel_send(&worker, &m, true), CHANNEL_OK);
        if (untaken) {
            master.state = STATE_MAIL;
            compose(order, &m);
            assert_int_equal(channel_send(&master, &m, true), CHANNEL_OK);
        }
        channel_close(&worker);
        assert_int_equal(channel_receive(&master, &m, true, NULL), CHANNEL_OK);
        assert_int_equal(m.rule->type, PROTO_SUMMARY);
        message_clear(&m);
        assert_int_equal(channel_receive(&master, &m, true, NULL), CHANNEL_END);
        channel_close(&master);
    }
}

static void wrong_role(void **state)
{
    (void)state;
    static const unsigned roles[] = {ROLE_MASTER, ROLE_NURSERY, ROLE_WORKER, ROLE_AUTH, ROLE_CTL};
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *rule = proto_rule(type);
        for (size_t i = 0; i < ARRAY_SIZE(roles); i++)
            if (!(rule->from & roles[i]))
                expect_refused(rule, roles[i], lowest(rule->states), "not this role's to send");
    }
}

static void wrong_state(void **state)
{
    (void)state;
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *rule = proto_rule(type);
        for (unsigned bit = STATE_STARTING; bit <= STATE_DELIVERY; bit <<= 1)
            if (!(rule->states & bit))
                expect_refused(rule, lowest(rule->from), bit, "not allowed in this state");
    }
}

static void truncated_and_left_over(void **state)
{
    (void)state;
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *rule = proto_rule(type);
        struct channel sender, receiver;
        struct message m;
        open_pair(rule, &sender, &receiver);
        compose(rule, &m);
        for (size_t size = 1; size < m.size; size++) {
            send_raw(sender.fd, m.data, size, rule->min_fds);
            expect_fault(&receiver, "malformed");
        }
        if (m.size < rule->max_size) {
            m.data[m.size] = 0;
            send_raw(sender.fd, m.data, m.size + 1, rule->min_fds);
            expect_fault(&receiver, "malformed");
        }
        expect_good(rule, &sender, &receiver);
        close_pair(&sender, &receiver);
    }
}

static void oversized(void **state)
{
    (void)state;
    static unsigned char octets[PROTO_MESSAGE_MAX + 100];
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *rule = proto_rule(type);
        struct channel sender, receiver;
        open_pair(rule, &sender, &receiver);
        octets[0] = (unsigned char)type;
        send_raw(sender.fd, octets, rule->max_size + 1, rule->min_fds);
        expect_fault(&receiver, "too large");
        send_raw(sender.fd, octets, sizeof octets, rule->min_fds);
        expect_fault(&receiver, "cut by the kernel");
        expect_good(rule, &sender, &receiver);
        close_pair(&sender, &receiver);
    }
}

static void wrong_descriptors(void **state)
{
    (void)state;
    unsigned before = open_descriptors();
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *rule = proto_rule(type);
        for (unsigned n = 0; n <= 8; n++) {
            struct channel sender, receiver;
            struct message m;
            if (n >= rule->min_fds && n <= rule->max_fds)
                continue;
            open_pair(rule, &sender, &receiver);
            compose(rule, &m);
            send_raw(sender.fd, m.data, m.size, n);
            const char *fault = NULL;
            assert_int_equal(channel_receive(&receiver, &m, true, &fault), CHANNEL_BAD);
            close_pair(&sender, &receiver);
        }
    }
    assert_int_equal(open_descriptors(), before); /* none of them stayed with the receiver */
}

/* Where the kernel need not tell who sends it has room for more descriptors than a record has. */
static void too_many_descriptors(void **state)
{
    (void)state;
    unsigned before = open_descriptors();
    int ends[2];
    struct channel receiver;
    struct message m;
    assert_int_equal(channel_pair(ends, false), 0);
    channel_open(&receiver, ends[0], ROLE_WORKER, ROLE_AUTH, STATE_EXCHANGE);
    compose(proto_rule(PROTO_VERDICT), &m);
    send_raw(ends[1], m.data, m.size, 8);
    expect_fault(&receiver, "with a wrong number of descriptors");
    send_raw(ends[1], "", 0, 1); /* not the end */
    expect_fault(&receiver, "empty");
    channel_close(&receiver);
    close(ends[1]);
    assert_int_equal(open_descriptors(), before);
}

static void twice(void **state)
{
    (void)state;
    for (unsigned type = 1; type < PROTO_TYPES; type++) {
        const struct proto_rule *rule = proto_rule(type);
        struct channel sender, receiver;
        struct message m;
        open_pair(rule, &sender, &receiver);
        expect_good(rule, &sender, &receiver);
        if (rule->once) {
            compose(rule, &m);
            send_raw(sender.fd, m.data, m.size, m.n_fds);
            expect_fault(&receiver, "sent twice");
        } else {
            expect_good(rule, &sender, &receiver);
        }
        close_pair(&sender, &receiver);
    }
}

static void unknown_types(void **state)
{
    (void)state;
    struct channel sender, receiver;
    open_pair(proto_rule(PROTO_PING), &sender, &receiver);
    for (unsigned type = 0; type < 256; type++) {
        unsigned char octet = (unsigned char)type;
        if (proto_rule(type))
            continue;
        send_raw(sender.fd, &octet, 1, 0);
        expect_fault(&receiver, "of no known type");
    }
    close_pair(&sender, &receiver);
}

static void text_with_nul(void **state)
{
    (void)state;
    struct channel sender, receiver;
    struct message m;
    const struct proto_rule *rule = proto_rule(PROTO_LOG);
    open_pair(rule, &sender, &receiver);
    compose(rule, &m);
    m.data[m.size - 1] = '\0';
    send_raw(sender.fd, m.data, m.size, 0);
    expect_fault(&receiver, "malformed");
    close_pair(&sender, &receiver);
}

static void peer_gone(void **state)
{
    (void)state;
    struct channel sender, receiver;
    struct message m;
    open_pair(proto_rule(PROTO_PING), &sender, &receiver);
    assert_int_equal(channel_receive(&receiver, &m, false, NULL), CHANNEL_AGAIN);
    channel_close(&sender);
    assert_int_equal(channel_receive(&receiver, &m, true, NULL), CHANNEL_END);
    channel_close(&receiver);
}

static void sender_is_the_kernels_word(void **state)
{
    (void)state;
    struct channel sender, receiver;
    struct message m;
    open_pair(proto_rule(PROTO_READY), &sender, &receiver);
    compose(proto_rule(PROTO_READY), &m);
    assert_int_equal(channel_send(&sender, &m, true), CHANNEL_OK);
    assert_int_equal(channel_receive(&receiver, &m, true, NULL), CHANNEL_OK);
    assert_int_equal(m.sender, getpid());
    message_clear(&m);
    close_pair(&sender, &receiver);
}

/* What else the kernel may tell of a record is passed over. */
static void what_the_kernel_adds(void **state)
{
    (void)state;
    struct channel sender, receiver;
    struct message m;
    int on = 1;
    open_pair(proto_rule(PROTO_READY), &sender, &receiver);
    assert_int_equal(setsockopt(receiver.fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on), 0);
    compose(proto_rule(PROTO_READY), &m);
    assert_int_equal(channel_send(&sender, &m, true), CHANNEL_OK);
    assert_int_equal(channel_receive(&receiver, &m, true, NULL), CHANNEL_OK);
    assert_int_equal(m.sender, getpid());
    assert_int_equal(m.n_fds, 0);
    message_clear(&m);
    close_pair(&sender, &receiver);
}

/* A name of its own for each number, and one for what is none. */
static void expect_names(const char *(*name)(unsigned), unsigned first, unsigned end)
{
    for (unsigned i = first; i < end; i++) {
        assert_string_not_equal(name(i), "unknown");
        for (unsigned k = first; k < i; k++)
            assert_string_not_equal(name(i), name(k));
    }
    assert_string_equal(name(end), "unknown");
    assert_string_equal(name((unsigned)-1), "unknown");
    if (first > 0)
        assert_string_equal(name(0), "unknown");
}

static void numbers_have_names(void **state)
{
    (void)state;
    expect_names(proto_end_name, 1, END_REASONS);
    expect_names(proto_door_name, 1, DOORS);
    expect_names(proto_outcome_name, 0, LOGIN_OUTCOMES);
    expect_names(proto_retirement_name, 0, RETIREMENTS);
}

static void latency_bounds_grow(void **state)
{
    (void)state;
    for (unsigned n = 0; n + 2 < PROTO_LATENCIES; n++)
        assert_true(proto_latency_bound(n) < proto_latency_bound(n + 1));
    assert_int_equal(proto_latency_bound(PROTO_LATENCIES - 1), 0);
    assert_int_equal(proto_latency_bound(PROTO_LATENCIES), 0);
}

static void values_survive(void **state)
{
    (void)state;
    struct message m;
    char text[8];
    size_t size;
    message_begin(&m, PROTO_VERDICT);
    message_put_u32(&m, 0xfffefdfc);
    message_put_text(&m, "alice");
    assert_true(message_well_formed(&m));
    assert_int_equal(message_get_u32(&m), 0xfffefdfc);
    assert_false(message_get_text(&m, text, 5)); /* no room for the NUL */
    message_begin(&m, PROTO_BEGIN);
    message_put_text(&m, "PLAIN");
    message_put_text(&m, "");
    message_put_octets(&m, "se\0cret", 7);
    assert_true(message_well_formed(&m));
    assert_true(message_get_text(&m, text, sizeof text));
    assert_string_equal(text, "PLAIN");
    assert_true(message_get_text(&m, text, sizeof text));
    assert_string_equal(text, "");
    assert_memory_equal(message_get_octets(&m, &size), "se\0cret", 7);
    assert_int_equal(size, 7);
}

static void descriptors_are_taken_once(void **state)
{
    (void)state;
    struct message m;
    message_begin(&m, PROTO_FORK);
    message_put_fd(&m, STDERR_FILENO);
    assert_int_equal(message_take_fd(&m), STDERR_FILENO);
    assert_int_equal(message_take_fd(&m), -1);
    message_clear(&m); /* it is the taker's */
    assert_true(fcntl(STDERR_FILENO, F_GETFD) >= 0);
}

static void cleared_of_secrets(void **state)
{
    (void)state;
    static struct message m; /* all of it is searched */
    message_begin(&m, PROTO_BEGIN);
    message_put_text(&m, "PLAIN");
    message_put_text(&m, "alice");
    message_put_octets(&m, "canary", 6);
    message_clear(&m);
    assert_null(memmem(m.data, sizeof m.data, "canary", 6));
}

static void begin_no_type(struct message *m)
{
    message_begin(m, PROTO_TYPES);
}

static void put_another_kind(struct message *m)
{
    message_put_text(m, "a number is due");
}

static void put_one_too_many(struct message *m)
{
    message_put_u32(m, 1);
    message_put_u32(m, 1);
}

static void put_too_large(struct message *m)
{
    static char large[PROTO_MESSAGE_MAX];
    memset(large, 'x', sizeof large - 1);
    message_begin(m, PROTO_BEGIN);
    message_put_text(m, large);
}

static void put_too_much(struct message *m)
{
    char most[512];
    memset(most, 'x', sizeof most - 1);
    most[sizeof most - 1] = '\0';
    message_begin(m, PROTO_RECIPIENT);
    message_put_text(m, most);
}

static void get_past_the_end(struct message *m)
{
    message_put_u32(m, 1);
    (void)message_well_formed(m);
    (void)message_get_u32(m);
    (void)message_get_u32(m);
}

static void put_unwanted_fd(struct message *m)
{
    message_put_fd(m, STDIN_FILENO);
}

/* Send what fits its row but for one thing. */
static void send_wrong(struct message *m, unsigned self, unsigned peer, unsigned state)
{
    struct channel sender, receiver;
    open_pair(m->rule, &sender, &receiver);
    sender.self = self;
    sender.peer = peer;
    sender.state = state;
    (void)channel_send(&sender, m, false);
}

static void send_as_another(struct message *m)
{
    message_put_u32(m, 1);
    send_wrong(m, ROLE_AUTH, ROLE_MASTER, STATE_IDLE);
}

static void send_to_another(struct message *m)
{
    message_put_u32(m, 1);
    send_wrong(m, ROLE_NURSERY, ROLE_AUTH, STATE_IDLE);
}

static void send_too_early(struct message *m)
{
    message_put_u32(m, 1);
    send_wrong(m, ROLE_NURSERY, ROLE_MASTER, STATE_STARTING);
}

static void send_unfinished(struct message *m)
{
    send_wrong(m, ROLE_NURSERY, ROLE_MASTER, STATE_IDLE);
}

static void send_without_fd(struct message *m)
{
    message_begin(m, PROTO_FORK);
    send_wrong(m, ROLE_MASTER, ROLE_NURSERY, STATE_IDLE);
}

/* What only a defect of ours can do to a record ends the process before the record is sent. */
static void own_defects_end_the_process(void **state)
{
    static void (*const defects[])(struct message *) = {
        begin_no_type,   put_another_kind, put_one_too_many, put_too_large,
        put_too_much,    get_past_the_end, put_unwanted_fd,  send_as_another,
        send_to_another, send_too_early,   send_unfinished,  send_without_fd,
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(defects); i++) {
        struct message m;
        int status;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            close(STDERR_FILENO);
            signal(SIGABRT, SIG_DFL);
            message_begin(&m, PROTO_FORK_FAILED); /* one number */
            defects[i](&m);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
            fail_msg("defect %zu was not noticed", i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_row_round_trip),
        cmocka_unit_test(each_row_is_sane),
        cmocka_unit_test(last_words),
        cmocka_unit_test(wrong_role),
        cmocka_unit_test(wrong_state),
        cmocka_unit_test(truncated_and_left_over),
        cmocka_unit_test(oversized),
        cmocka_unit_test(wrong_descriptors),
        cmocka_unit_test(too_many_descriptors),
        cmocka_unit_test(twice),
        cmocka_unit_test(unknown_types),
        cmocka_unit_test(text_with_nul),
        cmocka_unit_test(peer_gone),
        cmocka_unit_test(sender_is_the_kernels_word),
        cmocka_unit_test(what_the_kernel_adds),
        cmocka_unit_test(numbers_have_names),
        cmocka_unit_test(latency_bounds_grow),
        cmocka_unit_test(values_survive),
        cmocka_unit_test(descriptors_are_taken_once),
        cmocka_unit_test(cleared_of_secrets),
        cmocka_unit_test(own_defects_end_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
