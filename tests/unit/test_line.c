/*
 * test_line.c - the line assembler, each case cut at every point; words, numbers and text checks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/base.h"
#include "worker/commands.h"
#include "worker/line.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a table's input becomes: "[text]" for a line, "!" for one too long, "#" without end. */
struct transcript {
    char text[2000];
    size_t size;
};

static void note(struct transcript *t, const char *format, const char *text)
{
    t->size += (size_t)snprintf(t->text + t->size, sizeof t->text - t->size, format, text);
    assert_true(t->size < sizeof t->text);
}

static size_t limit_of_ten(const void *context, const char *beginning, size_t size)
{
    (void)context;
    return size >= 2 && memcmp(beginning, "P ", 2) == 0 ? 20 : 10;
}

static void take_all(struct line_input *in, struct transcript *t)
{
    struct line line;
    for (;;) {
        switch (line_next(in, limit_of_ten, NULL, &line)) {
        case LINE_OK:
            assert_int_equal(line.text[line.size], '\0');
            for (size_t i = 0; i < line.size; i++)
                if (line.text[i] == '\0')
                    line.text[i] = '0';
            note(t, "[%s]", line.text);
            break;
        case LINE_TOO_LONG:
            note(t, "%s", "!");
            break;
        case LINE_ENDLESS:
            note(t, "%s", "#");
            return;
        case LINE_MORE:
            return;
        }
    }
}

static void add(struct line_input *in, const char *octets, size_t size)
{
    while (size > 0) {
        size_t space;
        unsigned char *to = line_space(in, &space);
        assert_true(space > 0);
        size_t taken = size < space ? size : space;
        memcpy(to, octets, taken);
        line_added(in, taken);
        octets += taken;
        size -= taken;
    }
}

struct sample {
    const char *octets;
    size_t size;
    const char *lines;
};

#define OCTETS(text) text, sizeof text - 1

static const struct sample samples[] = {
    {OCTETS("NOOP\r\n"), "[NOOP]"},
    {OCTETS("NOOP\nDELE 1\r\n"), "[NOOP][DELE 1]"},
    {OCTETS("a\rb\r\n"), "[a\rb]"},
    {OCTETS("a\r\r\n"), "[a\r]"},
    {OCTETS("\r\n\n\r\n"), "[][][]"},
    {OCTETS("\r"), ""},
    {OCTETS("no end"), ""},
    {OCTETS("ST\0T\r\n"), "[ST0T]"},
    {OCTETS("12345678\r\n"), "[12345678]"}, /* ten octets */
    {OCTETS("123456789\r\n"), "!"},         /* eleven */
    {OCTETS("123456789\n"), "[123456789]"}, /* ten */
    {OCTETS("1234567890\n"), "!"},
    {OCTETS("12345678901234\r\nQUIT\r\n"), "![QUIT]"},
    {OCTETS("1234567890QUIT\nQUIT\n"), "![QUIT]"},
    {OCTETS("P 34567890123456\r\n"), "[P 34567890123456]"},
    {OCTETS("P 3456789012345678\r\na\r\n"), "[P 3456789012345678][a]"},
    {OCTETS("P 34567890123456789\r\na\r\n"), "![a]"},
    {OCTETS("P3456789\r\n"), "[P3456789]"},
    {OCTETS("P34567890\r\n"), "!"},
};

static void test_lines_at_every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
        const struct sample *s = &samples[i];
        for (size_t cut = 0; cut <= s->size; cut++) {
            struct line_input *in = base_alloc(sizeof *in);
            struct transcript t = {0};
            add(in, s->octets, cut);
            take_all(in, &t);
            add(in, s->octets + cut, s->size - cut);
            take_all(in, &t);
            assert_string_equal(t.text, s->lines);
            free(in);
        }
        struct line_input *in = base_alloc(sizeof *in);
        struct transcript t = {0};
        for (size_t at = 0; at < s->size; at++) {
            add(in, s->octets + at, 1);
            take_all(in, &t);
        }
        assert_string_equal(t.text, s->lines);
        free(in);
    }
}

static bool holds(const struct line_input *in, const char *text)
{
    return memmem(in->octets, sizeof in->octets, text, strlen(text)) != NULL;
}

static void test_what_was_taken_is_wiped(void **state)
{
    struct line_input *in = base_alloc(sizeof *in);
    struct line line;
    (void)state;
    add(in, OCTETS("a\r\nsecret\r\npart"));
    assert_int_equal(line_next(in, limit_of_ten, NULL, &line), LINE_OK);
    assert_int_equal(line_next(in, limit_of_ten, NULL, &line), LINE_OK);
    assert_string_equal(line.text, "secret");
    line_release(in);
    assert_false(holds(in, "secre"));
    assert_int_equal(line_next(in, limit_of_ten, NULL, &line), LINE_MORE);
    add(in, OCTETS("ly\r\n")); /* moved to the front: no copy stays behind */
    assert_int_equal(line_next(in, limit_of_ten, NULL, &line), LINE_OK);
    assert_string_equal(line.text, "partly");
    line_release(in);
    assert_false(holds(in, "part"));
    add(in, OCTETS("a secret that is too long\r\n"));
    assert_int_equal(line_next(in, limit_of_ten, NULL, &line), LINE_TOO_LONG);
    assert_false(holds(in, "secret"));
    add(in, OCTETS("secret"));
    line_discard(in);
    assert_false(holds(in, "secret"));
    free(in);
}

/* However much room there is, no more of it is used than what came needs. */
static void test_room(void **state)
{
    struct line_input *in = base_alloc(sizeof *in);
    size_t held = 0, size;
    (void)state;
    for (unsigned char *to; held < LINE_BUFFER_SIZE; held += size) {
        to = line_space(in, &size);
        assert_true(size > 0 && size <= LINE_READ_SIZE);
        assert_true(to + size <= in->octets + sizeof in->octets);
        memset(to, 'a', size);
        line_added(in, size);
    }
    line_discard(in);
    for (size_t i = 0; i < sizeof in->octets; i++)
        assert_int_equal(in->octets[i], 0);
    free(in);
}

static void test_a_line_without_end(void **state)
{
    struct line_input *in = base_alloc(sizeof *in);
    struct line line;
    size_t said = 0;
    enum line_outcome outcome;
    (void)state;
    do {
        add(in, OCTETS("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
        said += 32;
        outcome = line_next(in, limit_of_ten, NULL, &line);
    } while (outcome == LINE_MORE);
    assert_int_equal(outcome, LINE_ENDLESS);
    assert_true(said > LINE_ENDLESS_SIZE && said <= LINE_ENDLESS_SIZE + 64);
    free(in);
}

/* It is counted in each line anew. */
static void test_long_lines(void **state)
{
    struct line_input *in = base_alloc(sizeof *in);
    struct line line;
    (void)state;
    for (int i = 0; i < 3; i++) {
        for (size_t said = 0; said < LINE_ENDLESS_SIZE; said += 64) {
            add(in, OCTETS("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
            assert_int_equal(line_next(in, limit_of_ten, NULL, &line), LINE_MORE);
        }
        add(in, OCTETS("\r\n"));
        assert_int_equal(line_next(in, limit_of_ten, NULL, &line), LINE_TOO_LONG);
    }
    free(in);
}

static void test_text(void **state)
{
    static const struct {
        const char *octets;
        size_t size;
        bool good;
    } cases[] = {
        {OCTETS(""), true},
        {OCTETS("RETR 1"), true},
        {OCTETS("gr\xc3\xbc\xc3\x9f"), true},
        {OCTETS("\xe2\x82\xac \xf0\x9f\x90\xa6"), true},
        {OCTETS("\xf4\x8f\xbf\xbf"), true},
        {OCTETS("a\0b"), false},
        {OCTETS("a\tb"), false},
        {OCTETS("\x1b[0m"), false},
        {OCTETS("\x7f"), false},
        {OCTETS("\xc2\x85"), false}, /* a control character of two octets */
        {OCTETS("\xff"), false},
        {OCTETS("\x80"), false},
        {OCTETS("\xc3"), false}, /* cut short */
        {OCTETS("\xe2\x82"), false},
        {OCTETS("\xc3\x28"), false},
        {OCTETS("\xc0\xaf"), false}, /* overlong */
        {OCTETS("\xe0\x80\xaf"), false},
        {OCTETS("\xf0\x80\x80\xaf"), false},
        {OCTETS("\xed\xa0\x80"), false}, /* a surrogate */
        {OCTETS("\xf4\x90\x80\x80"), false},
        {OCTETS("\xf8\x88\x80\x80\x80"), false},
        {OCTETS("gr\xc3\xbc\x01\xc3\x9f\xff\xff"), false},
    };
    char made[16];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_int_equal(line_is_text(cases[i].octets, cases[i].size), cases[i].good);
        memcpy(made, cases[i].octets, cases[i].size);
        base_make_text(made, cases[i].size);
        assert_true(line_is_text(made, cases[i].size));
        assert_int_equal(memcmp(made, cases[i].octets, cases[i].size) == 0, cases[i].good);
    }
    assert_memory_equal(made, "gr\xc3\xbc?\xc3\x9f??", 9);
}

static void test_names_and_passwords(void **state)
{
    char longest[PROTO_PASSWORD_MAX + 1];
    memset(longest, 'a', sizeof longest);
    (void)state;
    assert_true(line_is_user("alice", 5));
    assert_true(line_is_user("...", 3));
    assert_true(line_is_user(".x", 2));
    assert_true(line_is_user(longest, PROTO_USER_MAX));
    assert_false(line_is_user(longest, PROTO_USER_MAX + 1));
    assert_false(line_is_user("", 0));
    assert_false(line_is_user(".", 1));
    assert_false(line_is_user("..", 2));
    assert_false(line_is_user("a/b", 3));
    assert_false(line_is_user("a\nb", 3));

    assert_true(line_is_password("/. \t\x7f\xff", 6));
    assert_true(line_is_password(longest, PROTO_PASSWORD_MAX));
    assert_false(line_is_password(longest, PROTO_PASSWORD_MAX + 1));
    assert_false(line_is_password("", 0));
    assert_false(line_is_password("a\0b", 3));
    assert_false(line_is_password("a\rb", 3));
    assert_false(line_is_password("a\nb", 3));
}

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        bool good;
        uint64_t value;
    } cases[] = {
        {"0", true, 0},
        {"1", true, 1},
        {"007", true, 7},
        {"4294967297", true, UINT64_C(4294967297)},
        {"18446744073709551615", true, UINT64_MAX},
        {"18446744073709551616", true, UINT64_MAX},
        {"18446744073709551617", true, UINT64_MAX},
        {"99999999999999999999999999999999", true, UINT64_MAX},
        {"9999999999999999999999999999999x", false, 0},
        {"", false, 0},
        {"-1", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"0x1", false, 0},
        {"1.0", false, 0},
        {"\xd9\xa1", false, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t value = 77;
        assert_int_equal(line_number(cases[i].text, &value), cases[i].good);
        assert_int_equal(value, cases[i].good ? cases[i].value : 77);
    }
}

static void test_words(void **state)
{
    static const struct {
        const char *text;
        size_t n;
        const char *first, *second;
    } cases[] = {
        {"", 0, NULL, NULL},        {"   ", 0, NULL, NULL}, {" 1", 1, "1", NULL},
        {"  1   2  ", 2, "1", "2"}, {"1 2", 2, "1", "2"},   {"1 2 3", 3, "1", "2"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[20];
        const char *words[2];
        base_copy(text, sizeof text, cases[i].text);
        assert_int_equal(line_split(text, words, 2), cases[i].n);
        if (cases[i].n > 0)
            assert_string_equal(words[0], cases[i].first);
        if (cases[i].n > 1)
            assert_string_equal(words[1], cases[i].second);
    }
}

static void test_commands(void **state)
{
    (void)state;
    assert_non_null(commands_find(false, OCTETS("user")));
    assert_non_null(commands_find(true, OCTETS("Retr")));
    assert_null(commands_find(false, OCTETS("RETR")));
    assert_null(commands_find(true, OCTETS("PASS")));
    assert_null(commands_find(true, OCTETS("RET")));
    assert_null(commands_find(true, OCTETS("RETRR")));
    assert_null(commands_find(true, OCTETS("")));
    struct config *config = config_new();
    assert_int_equal(commands_line_limit(config, OCTETS("PASS x")), 512);
    assert_int_equal(commands_line_limit(config, OCTETS("uSeR ")), 512);
    assert_int_equal(commands_line_limit(config, OCTETS("PASSx")), 255);
    assert_int_equal(commands_line_limit(config, OCTETS("PASS")), 255);
    assert_int_equal(commands_line_limit(config, OCTETS("RETR 1")), 255);
    assert_true(commands_line_limit(config, OCTETS("auth p")) > 1336);
    config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_at_every_cut),
        cmocka_unit_test(test_what_was_taken_is_wiped),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_a_line_without_end),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_names_and_passwords),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_commands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
