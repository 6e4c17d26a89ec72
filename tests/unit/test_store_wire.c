/*
 * test_store_wire.c - the CRLF normaliser against a plain restatement of its rule, in every way
 * that text and room can be cut.
 */
#include "test_store.h"

#include "store/wire.h"

/* The rule as one would write it down, octet by octet. */
static size_t expected(const char *in, size_t size, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < size; i++) {
        if (in[i] == '\n' && (i == 0 || in[i - 1] != '\r'))
            out[n++] = '\r';
        out[n++] = in[i];
    }
    if (size > 0 && in[size - 1] != '\n') {
        out[n++] = '\r';
        out[n++] = '\n';
    }
    return n;
}

/* Convert with input cut into pieces of `step` and output into rooms of `room`. */
static size_t convert(const char *in, size_t size, size_t step, size_t room, struct wire *wire,
                      char *out)
{
    size_t taken = 0, put = 0, used = 0;
    bool ended = false;

    *wire = (struct wire){0};
    while (taken < size || (wire_unfinished(wire) && !ended)) {
        size_t n = size - taken < step ? size - taken : step;

        if (taken < size) {
            put += wire_convert(wire, in + taken, n, out + put, room, &used);
            taken += used;
        } else {
            const char *end = wire_line_end;
            for (size_t left = 2; left > 0; left -= used, end += used)
                put += wire_convert(wire, end, left, out + put, room, &used);
            ended = true;
        }
    }
    return put;
}

static void check(const char *in, size_t size, uint64_t header)
{
    char want[512], got[512];
    struct wire wire;
    const size_t n = expected(in, size, want);

    for (size_t step = 1; step <= size + 1; step++) {
        for (size_t room = 1; room <= 8; room++) {
            const size_t m = convert(in, size, step, room, &wire, got);
            assert_int_equal(m, n);
            assert_memory_equal(got, want, n);
            assert_int_equal(wire.octets, n);
            assert_int_equal(wire_header(&wire), header);
        }
    }
}

#define CHECK(text, header) check(text, sizeof(text) - 1, header)

static void test_line_ends(void **state)
{
    (void)state;
    CHECK("", 0);
    CHECK("\n", 2);
    CHECK("\r\n", 2);
    CHECK("\r", 3);
    CHECK("a", 3);
    CHECK("a\r", 4);
    CHECK("a\nb\n", 6);
    CHECK("a\r\nb\r\n", 6);
    CHECK("a\r\rb\r\r\nc\n\r\n", 12);
    CHECK("a\0b\nc", 8);
    CHECK("\r\r\n\r\nx", 5);
    CHECK("\n\n\n", 2);
    CHECK(".\n..\n.x\n", 11);
}

static void test_header(void **state)
{
    (void)state;
    CHECK("A: b\n\nbody\n\nmore\n", 8);
    CHECK("A: b\r\n\r\nbody\r\n\r\n", 8);
    CHECK("A: b\n\r\nbody", 8);
    CHECK("A: b\n \n\nbody", 11);
    CHECK("A: b\nno end", 14);
    CHECK("A: b\n\r\r\n\nbody", 11);
}

/* Random text over the octets that matter. */
static void test_random(void **state)
{
    static const char alphabet[] = {'\r', '\n', '\0', 'x'};
    char in[24], want[64], got[64];
    struct wire wire;

    (void)state;
    srandom(42);
    for (int round = 0; round < 20000; round++) {
        const size_t size = (size_t)random() % sizeof(in);
        size_t n;

        for (size_t i = 0; i < size; i++)
            in[i] = alphabet[random() % 4];
        n = expected(in, size, want);
        assert_int_equal(
            convert(in, size, 1 + (size_t)random() % 7, 1 + (size_t)random() % 5, &wire, got), n);
        assert_memory_equal(got, want, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_ends),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_random),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
