/*
 * test_surrogate.c - headers in UTF-8 made readable in ASCII (RFC 6858): each kind of field,
 * folding, limits, and that nothing but ASCII ever comes out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/surrogate.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INVALID "<invalid@internationalized-address.invalid>"

/* The surrogate of a header, checked for what holds of every one. */
static char *make(const char *header, size_t size)
{
    char *made = NULL;
    size_t made_size = 0;

    assert_int_equal(surrogate_make(header, size, &made, &made_size), SURROGATE_OK);
    for (size_t i = 0; i < made_size; i++)
        assert_true((unsigned char)made[i] < 0x80);
    made = realloc(made, made_size + 1);
    assert_non_null(made);
    made[made_size] = '\0';
    return made;
}

static const struct pair {
    const char *header, *surrogate;
} pairs[] = {
    /* ASCII stays octet for octet, whatever it is. */
    {"Subject: =?utf-8?q?x?=\r\nFrom nobody\r\nX:\t a\r\n  b \r\n\r\n",
     "Subject: =?utf-8?q?x?=\r\nFrom nobody\r\nX:\t a\r\n  b \r\n\r\n"},
    /* Free text: words, the blanks between encoded ones, folded input, one at the end. */
    {"Subject: caf\xc3\xa9\r\n", "Subject: =?UTF-8?Q?caf=C3=A9?=\r\n"},
    {"Subject: a \xc3\xa9  \xc3\xa8 b c\r\n", "Subject: a =?UTF-8?B?w6kgIMOo?= b c\r\n"},
    {"Subject: a\r\n \xc3\xa9t\xc3\xa9\r\n", "Subject: a =?UTF-8?B?w6l0w6k=?=\r\n"},
    {"X-Unknown:  one  two \xc3\xa9 \r\n", "X-Unknown: one  two =?UTF-8?Q?=C3=A9?=\r\n"},
    {"Subject: caf\xc3\xa9s 007{Zz^}~\xc3\xa9\r\n",
     "Subject: =?UTF-8?Q?caf=C3=A9s_007=7BZz=5E=7D=7E=C3=A9?=\r\n"},
    {"Subject:\xe2\x82\xac\r\n", "Subject: =?UTF-8?B?4oKs?=\r\n"},
    /* Names of people. */
    {"From: Ren\xc3\xa9 <rene@example.org>\r\n",
     "From: =?UTF-8?Q?Ren=C3=A9?= <rene@example.org>\r\n"},
    {"From: \"Ren\xc3\xa9, \\\"R\\\"\" <rene@example.org>\r\n",
     "From: =?UTF-8?Q?Ren=C3=A9=2C_=22R=22?= <rene@example.org>\r\n"},
    {"To: \"a, b\" <a@b.example>, Ren\xc3\xa9 <r@e.example>,c@d.example\r\n",
     "To: \"a, b\" <a@b.example>, =?UTF-8?Q?Ren=C3=A9?= <r@e.example>, c@d.example\r\n"},
    {"cc: r@e.example (Ren\xc3\xa9)\r\n", "cc: =?UTF-8?Q?Ren=C3=A9?= <r@e.example>\r\n"},
    {"To: A <a@b.example> (\xc3\xa9)\r\n", "To: =?UTF-8?Q?A?= <a@b.example>\r\n"},
    {"To: (it\"s \xc3\xa9) a@b.example, c@d.example\r\n",
     "To: =?UTF-8?Q?it=22s_=C3=A9?= <a@b.example>, c@d.example\r\n"},
    /* Addresses that cannot be shown. */
    {"From: <ren\xc3\xa9@example.org>\r\n",
     "From: =?UTF-8?Q?ren=C3=A9=40example=2Eorg?=\r\n " INVALID "\r\n"},
    {"Sender: r@\xc3\xa9.example\r\n",
     "Sender: =?UTF-8?Q?r=40=C3=A9=2Eexample?=\r\n " INVALID "\r\n"},
    {"Bcc: R <r@\xc3\xa9.x>\r\n", "Bcc: =?UTF-8?Q?R_=28r=40=C3=A9=2Ex=29?=\r\n " INVALID "\r\n"},
    {"Return-Path: <ren\xc3\xa9@example.org>\r\n", "Return-Path: " INVALID "\r\n"},
    /* Groups, empty places, what is no address at all. */
    {"To: Amis \xc3\xa0 moi: a@b.example, \xc3\xa9@x;, c@d.example\r\n",
     "To: =?UTF-8?Q?Amis_=C3=A0_moi?=: a@b.example, =?UTF-8?Q?=C3=A9=40x?=\r\n " INVALID
     ";, c@d.example\r\n"},
    {"To: ,, \xc3\xa9 ,\r\n", "To: =?UTF-8?Q?=C3=A9?= " INVALID "\r\n"},
    {"To: \"\xc3\xa9\r\n", "To: =?UTF-8?B?IsOp?= " INVALID "\r\n"},
    /* MIME. */
    {"Content-Disposition: attachment; size=3;\r\n filename=\"r\xc3\xa9sum\xc3\xa9 1.txt\"; "
     "a=b\r\n",
     "Content-Disposition: attachment; size=3;\r\n filename*=UTF-8''r%C3%A9sum%C3%A9%201.txt; "
     "a=b\r\n"},
    {"Content-Disposition: inline; filename=\xc3\xa9; filename*=UTF-8''%C3%A9\r\n",
     "Content-Disposition: inline; filename*=UTF-8''%C3%A9\r\n"},
    {"Content-Type: a/b; name=\"\xc3\xa9 07{Z^}~\"\r\n",
     "Content-Type: a/b;\r\n name*=UTF-8''%C3%A9%2007%7BZ%5E%7D%7E\r\n"},
    {"Content-Type: text/\xc3\xa9\r\n", ""},
    {"Content-Type: text/plain; \xc3\xa9=a; b*=\xc3\xa9; \xc3\xa9\r\n",
     "Content-Type: text/plain\r\n"},
    /* What has no form in ASCII. */
    {"Message-ID: <\xc3\xa9@x>\r\nreceived: by \xc3\xa9\r\n y\r\nList-Id: \xc3\xa9 <a>\r\nA: b\r\n",
     "A: b\r\n"},
    {"\xc3\xa9: x\r\nno colon \xc3\xa9\r\nContent-Language: \xc3\xa9\r\n\r\n", "\r\n"},
    {"", ""},
};

static void test_fields(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        char *made = make(pairs[i].header, strlen(pairs[i].header));

        if (strcmp(made, pairs[i].surrogate) != 0)
            fail_msg("of\n%swas made\n%sinstead of\n%s", pairs[i].header, made, pairs[i].surrogate);
        free(made);
    }
}

/* Long text: every line has at most 76 octets, every word whole characters. */
static void test_folding(void **state)
{
    char header[4000] = "Subject: ";
    char *made;

    (void)state;
    for (int i = 0; i < 150; i++)
        strcat(header, "\xe4\xbd\xa0\xe5\xa5\xbd");
    strcat(header, "\r\n");
    made = make(header, strlen(header));
    for (const char *line = made, *end; *line; line = end + 2) {
        end = strstr(line, "\r\n");
        assert_non_null(end);
        assert_true(end - line <= 76);
        assert_memory_equal(end - 2, "?=", 2);
        /* Three octets a character are four of B: no word ends within one, none needs padding. */
        assert_true(end[-3] != '=');
    }
    free(made);
}

static void test_long_parameter(void **state)
{
    char header[1000] = "Content-Type: text/plain; name=\"", *made;

    (void)state;
    for (int i = 0; i < 30; i++)
        strcat(header, "\xc3\xa9");
    strcat(header, "\"\r\n");
    made = make(header, strlen(header));
    assert_non_null(strstr(made, "text/plain;\r\n name*0*=UTF-8''%C3%A9"));
    assert_non_null(strstr(made, ";\r\n name*1*=%C3%A9"));
    assert_null(strstr(made, "name*4"));
    free(made);
}

/* Everything in a header may be cut anywhere: nothing is read or written out of bounds (this is for
 * the sanitized build), and nothing else than ASCII comes out. */
static void test_cut_anywhere(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        for (size_t size = 0; size <= strlen(pairs[i].header); size++) {
            char *part = malloc(size + 1);

            assert_non_null(part);
            memcpy(part, pairs[i].header, size);
            free(make(part, size));
            free(part);
        }
    }
}

/* Any octets of the kinds that steer the parsers. */
static void test_any_octets(void **state)
{
    static const char *const atoms[] = {"\"", "(",     ")", "<",        ">", "\\", ",",
                                        ":",  ";",     "[", "]",        "=", "*",  "@",
                                        " ",  "\r\n ", "a", "\xc3\xa9", "\r"};
    static const char *const names[] = {"To:", "Content-Type: a/b;", "Subject:"};
    unsigned seed = 1;

    (void)state;
    for (int round = 0; round < 30000; round++) {
        char header[200];
        char *exact;

        strcpy(header, names[round % 3]);
        for (int i = 0; i < 24; i++) {
            seed = seed * 1103515245u + 12345u;
            strcat(header, atoms[(seed >> 16) % (sizeof(atoms) / sizeof(atoms[0]))]);
        }
        strcat(header, "\xc3\xa9\r\n");
        exact = malloc(strlen(header));
        assert_non_null(exact);
        memcpy(exact, header, strlen(header));
        free(make(exact, strlen(header)));
        free(exact);
    }
}

static void test_limits(void **state)
{
    const size_t size = SURROGATE_HEADER_MAX + 1;
    char *header = malloc(size), *made = NULL;
    size_t made_size;

    (void)state;
    assert_non_null(header);
    memset(header, 'x', size);
    assert_int_equal(surrogate_make(header, size, &made, &made_size), SURROGATE_TOO_LARGE);
    memcpy(header, "Subject: \xc3\xa9 ", 12);
    free(make(header, size - 1));
    /* Addresses that grow beyond all measure. */
    memcpy(header, "To: ", 4);
    for (size_t i = 4; i + 3 < size; i += 3)
        memcpy(header + i, "\xc3\xa9,", 3);
    assert_int_equal(surrogate_make(header, size - 1, &made, &made_size), SURROGATE_TOO_LARGE);
    assert_null(made);
    free(header);
}

/* In one piece and octet by octet. */
static bool needed(const char *text)
{
    struct surrogate_scan whole = {0}, pieces = {0};

    surrogate_scan(&whole, text, strlen(text));
    for (size_t i = 0; i < strlen(text); i++)
        surrogate_scan(&pieces, text + i, 1);
    assert_int_equal(surrogate_needed(&whole), surrogate_needed(&pieces));
    return surrogate_needed(&whole);
}

static void test_scan(void **state)
{
    static const char *const good[] = {"\xc3\xa9",         "a\xe2\x82\xac\x62",
                                       "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf",
                                       "\xc2\x80",         "\xed\x9f\xbf\xee\x80\x80"};
    static const char *const bad[] = {"",
                                      "ascii",
                                      "\xe9",
                                      "\xc3",
                                      "\xc3\xa9\xa9",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xe0\x9f\xbf",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xed\xa0\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xe2\x82(",
                                      "\xc3\xa9 \xe9"};

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(needed(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(needed(bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),         cmocka_unit_test(test_folding),
        cmocka_unit_test(test_long_parameter), cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_any_octets),     cmocka_unit_test(test_limits),
        cmocka_unit_test(test_scan),
    };
    return cmocka_run_group_tests_name("surrogate", tests, NULL, NULL);
}
