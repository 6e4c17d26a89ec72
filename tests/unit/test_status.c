/*
 * test_status.c - the master's state as it is told entry by entry: every number, every session in
 * order, certificates as the nursery counts them, throttled sources, traced users.
 */
#include "daemon/status.h"
#include "tests/support/place.h"

static struct master *make_master(void)
{
    struct master *m = base_alloc(sizeof *m);
    m->config = config_new();
    m->throttle = throttle_new();
    return m;
}

static void free_master(struct master *m)
{
    config_free(m->config);
    throttle_free(m->throttle);
    free(m);
}

/* The n-th class of the histogram counts what took at most its bound, and more than the one before.
 */
static void latencies(void **state)
{
    (void)state;
    struct master *m = make_master();
    uint64_t sum = 0;
    for (unsigned i = 0; i < PROTO_LATENCIES; i++) {
        uint64_t bound = proto_latency_bound(i);
        uint64_t ms = bound ? bound : UINT64_C(86400000);
        status_login(m, LOGIN_OK, ms);
        assert_int_equal(m->counts[proto_count_of(COUNT_LATENCY, i)], i == 0 ? 1 : 2);
        if (bound > 0)
            status_login(m, LOGIN_DENIED, ms + 1);
        sum += bound ? 2 * ms + 1 : ms;
    }
    assert_int_equal(m->counts[proto_count_of(COUNT_LOGIN, LOGIN_OK)], PROTO_LATENCIES);
    assert_int_equal(m->counts[proto_count_of(COUNT_LOGIN, LOGIN_DENIED)], PROTO_LATENCIES - 1);
    assert_int_equal(m->counts[COUNT_LOGIN_MS], sum);
    status_login(m, LOGIN_OK, 0);
    assert_int_equal(m->counts[COUNT_LATENCY], 2);
    free_master(m);
}

static void every_number(void **state)
{
    (void)state;
    static struct message answer;
    struct master *m = make_master();
    uint64_t from = 0, value = 0;
    for (unsigned i = 0; i < COUNT_NOW; i++)
        m->counts[i] = 1000 + i;
    for (unsigned i = 0; i < COUNTS; i++) {
        assert_true(status_next(m, STATUS_COUNTS, from, &answer));
        assert_true(message_well_formed(&answer));
        from = message_get_u64(&answer);
        assert_int_equal(message_get_u32(&answer), i);
        value = message_get_u64(&answer);
        assert_true(i >= COUNT_NOW || value == 1000 + i);
    }
    assert_false(status_next(m, STATUS_COUNTS, from, &answer));
    assert_false(status_next(m, STATUS_COUNTS, UINT64_MAX, &answer));
    free_master(m);
}

/* What systemctl status shows. */
static void the_line(void **state)
{
    (void)state;
    char text[256];
    struct master *m = make_master();
    for (unsigned i = 0; i < COUNT_NOW; i++)
        m->counts[i] = 1;
    status_line(m, text, sizeof text);
    assert_non_null(strstr(text, "0 sessions (0 logged in), 0 waiting, 0 idle workers, 0 auth "
                                 "processes (0 busy); since start: 1 session, 1 login, "));
    free_master(m);
}

/* Idle workers are no sessions; those that began first come first, wherever they are in the list.
 */
static void sessions_in_order(void **state)
{
    (void)state;
    static struct message answer;
    static const uint64_t numbers[] = {7, 0, 2, 9, 0, 4}, expected[] = {2, 4, 7, 9};
    struct master *m = make_master();
    struct worker workers[ARRAY_SIZE(numbers)];
    uint64_t from = 0;
    memset(workers, 0, sizeof workers);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        workers[i].session = numbers[i];
        workers[i].channel.state = STATE_MAIL;
        workers[i].client.door = DOOR_POP3S;
        memset(workers[i].canonical, 'x', sizeof workers[i].canonical - 1); /* as large as can be */
        memset(workers[i].peer_text, 'x', sizeof workers[i].peer_text - 1);
        memset(workers[i].tls, 'x', sizeof workers[i].tls - 1);
        workers[i].next = m->workers;
        m->workers = &workers[i];
    }
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        assert_true(status_next(m, STATUS_SESSIONS, from, &answer));
        from = message_get_u64((message_well_formed(&answer), &answer));
        assert_int_equal(message_get_u64(&answer), expected[i]);
    }
    assert_false(status_next(m, STATUS_SESSIONS, from, &answer));
    free_master(m);
}

/* [tls] may have none; the nursery counts those that it was sent. */
static void certificates(void **state)
{
    (void)state;
    static struct message answer;
    char name[64], file[64];
    struct master *m = make_master();
    uint64_t expires[3] = {100, 200, 0};
    struct generation g = {.expires = expires, .n_expires = ARRAY_SIZE(expires)};
    must_set(m->config, "tls", "one", "certificate", "/one.pem");
    must_set(m->config, "tls", "two", "certificate", "/two.pem");
    for (int i = 0; i < 2; i++) { /* while there is no nursery, nobody knows */
        uint64_t from = 0;
        for (unsigned n = 0; n < 2; n++) {
            assert_true(status_next(m, STATUS_CERTIFICATES, from, &answer));
            from = message_get_u64((message_well_formed(&answer), &answer));
            assert_true(message_get_text(&answer, name, sizeof name));
            assert_string_equal(name, n ? "two" : "one");
            assert_true(message_get_text(&answer, file, sizeof file));
            assert_string_equal(file, n ? "/two.pem" : "/one.pem");
            assert_int_equal(message_get_u64(&answer), m->current ? expires[n] : 0);
        }
        assert_false(status_next(m, STATUS_CERTIFICATES, from, &answer));
        m->current = &g;
    }
    free_master(m);
}

static void nothing_to_tell(void **state)
{
    (void)state;
    static struct message answer;
    struct master *m = make_master();
    for (unsigned part = 0; part < 20; part++) {
        if (part != STATUS_COUNTS)
            assert_false(status_next(m, part, 0, &answer));
        assert_false(status_next(m, part, UINT64_MAX, &answer));
    }
    free_master(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(latencies),         cmocka_unit_test(every_number),
        cmocka_unit_test(sessions_in_order), cmocka_unit_test(certificates),
        cmocka_unit_test(nothing_to_tell),   cmocka_unit_test(the_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
