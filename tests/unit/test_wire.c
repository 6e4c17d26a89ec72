/*
 * test_wire.c - dot-stuffing with the content cut at every point and outputs of every size; TOP's
 * cut at every point.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/base.h"
#include "worker/wire.h"
#include <stdlib.h>
#include <string.h>

struct sample {
    const char *content, *wire;
};

static const struct sample samples[] = {
    {"", ".\r\n"},
    {"a\r\n", "a\r\n.\r\n"},
    {".\r\n", "..\r\n.\r\n"},
    {"..\r\n", "...\r\n.\r\n"},
    {".x\r\na.b\r\n.\r\n", "..x\r\na.b\r\n..\r\n.\r\n"},
    {"\r\n.\r\n\r\n", "\r\n..\r\n\r\n.\r\n"},
    {"a\r.b\r\n", "a\r.b\r\n.\r\n"},  /* a CR alone begins no line */
    {"a\n.b\r\n", "a\n..b\r\n.\r\n"}, /* some clients take LF for a line end */
    {"torn", "torn\r\n.\r\n"},        /* the terminator stands on a line of its own */
    {"a\r\n.", "a\r\n..\r\n.\r\n"},
};

/* Stuff a piece through outputs of `room` octets. */
static size_t stuff(struct wire *wire, const char *from, size_t size, size_t room, char *to)
{
    size_t filled = 0;
    while (size > 0) {
        size_t taken;
        filled += wire_stuff(wire, (const unsigned char *)from, size, (unsigned char *)to + filled,
                             room, &taken);
        from += taken;
        size -= taken;
    }
    return filled;
}

static void test_stuffing_at_every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
        size_t size = strlen(samples[i].content);
        for (size_t cut = 0; cut <= size; cut++)
            for (size_t room = 2; room < 9; room++) {
                char to[100];
                struct wire wire = {0};
                size_t filled = stuff(&wire, samples[i].content, cut, room, to);
                filled += stuff(&wire, samples[i].content + cut, size - cut, room, to + filled);
                filled += wire_end(&wire, (unsigned char *)to + filled);
                assert_int_equal(filled, strlen(samples[i].wire));
                assert_memory_equal(to, samples[i].wire, filled);
            }
    }
}

/* A dot and its double go together: with room for one nothing does, and the line still begins. */
static void test_no_room_for_a_dot(void **state)
{
    struct wire wire = {0};
    unsigned char to[4];
    size_t taken = 99;
    (void)state;
    assert_int_equal(wire_stuff(&wire, (const unsigned char *)".x", 2, to, 1, &taken), 0);
    assert_int_equal(taken, 0);
    assert_int_equal(wire_stuff(&wire, (const unsigned char *)".x", 2, to, 3, &taken), 3);
    assert_int_equal(taken, 2);
    assert_memory_equal(to, "..x", 3);
}

/* What a client undoes is what was there. */
static void test_stuffing_can_be_undone(void **state)
{
    static const char letters[] = ".\r\nx";
    (void)state;
    for (unsigned code = 0; code < 1U << 16; code++) {
        char content[8], to[32], back[32];
        struct wire wire = {0};
        size_t size = 0;
        for (size_t i = 0; i < sizeof content; i++)
            content[i] = letters[code >> 2 * i & 3];
        size_t filled = stuff(&wire, content, sizeof content, sizeof to, to);
        for (size_t at = 0; at < filled; at++)
            if (to[at] != '.' || (at > 0 && to[at - 1] != '\n') || to[at + 1] != '.')
                back[size++] = to[at];
            else
                back[size++] = to[at++];
        assert_int_equal(size, sizeof content);
        assert_memory_equal(back, content, size);
    }
}

static void test_top_at_every_cut(void **state)
{
    static const char message[] = "A: b\r\nC: d\r\n\r\none\r\ntwo\r\nthree\r\n";
    static const struct {
        uint64_t header, lines;
        const char *top;
    } cases[] = {
        {14, 0, "A: b\r\nC: d\r\n\r\n"},
        {14, 1, "A: b\r\nC: d\r\n\r\none\r\n"},
        {14, 2, "A: b\r\nC: d\r\n\r\none\r\ntwo\r\n"},
        {14, 3, message},
        {14, 4, message},
        {14, UINT64_MAX, message},
        {0, 1, "A: b\r\n"},
        {0, 0, ""},
        {sizeof message - 1, 5, message},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        for (size_t cut = 0; cut < sizeof message; cut++) {
            const unsigned char *octets = (const unsigned char *)message;
            struct wire_cut c = {cases[i].header, cases[i].lines};
            size_t taken = wire_take(&c, octets, cut);
            if (taken == cut)
                taken += wire_take(&c, octets + cut, sizeof message - 1 - cut);
            else
                assert_true(wire_taken(&c));
            assert_int_equal(taken, strlen(cases[i].top));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stuffing_at_every_cut),
        cmocka_unit_test(test_no_room_for_a_dot),
        cmocka_unit_test(test_stuffing_can_be_undone),
        cmocka_unit_test(test_top_at_every_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
