/*
 * test_lmtp.c - the pure parts of LMTP: arguments of commands, the end of a message and its dots,
 * cut at every place, and the spool between memory and file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/base.h"
#include "worker/lmtp_data.h"
#include "worker/lmtp_parse.h"
#include "worker/lmtp_reply.h"
#include "worker/spool.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- what follows DATA ---- */

static const struct {
    const char *said, *meant, *rest;
} messages[] = {
    {".\r\n", "", ""},
    {".\r\nQUIT\r\n", "", "QUIT\r\n"},
    {"a\r\n.\r\nNOOP\r\n", "a\r\n", "NOOP\r\n"},
    {"..\r\n.\r\n", ".\r\n", ""},
    {"...x\r\n..\r\n.\r\n", "..x\r\n.\r\n", ""},
    {".x\r\n.\r\n", "x\r\n", ""},            /* a dot that nobody doubled */
    {"a\n.\nb\r\n.\r\n", "a\n.\nb\r\n", ""}, /* bare LF ends no line */
    {"a\n.\r\nb\r\n.\r\n", "a\n.\r\nb\r\n", ""},
    {"a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n", ""},
    {"a\r.\r\n.\r\n", "a\r.\r\n", ""}, /* nor does bare CR */
    {"a\r\n.\rb\r\n.\r\n", "a\r\n\rb\r\n", ""},
    {"a\r\n.\r\r\n.\r\n", "a\r\n\r\r\n", ""},
    {"\r\r\n.\r\n", "\r\r\n", ""},
    {"\r\n\r\n.\r\n", "\r\n\r\n", ""},
    {"\xff\xfe\r\n.\r\n", "\xff\xfe\r\n", ""},
};

static void check_message(size_t i, size_t first, size_t second)
{
    const char *said = messages[i].said;
    char meant[128];
    size_t length = strlen(said), put = 0, at = 0, used;
    const size_t cuts[] = {first, second, length};
    struct lmtp_data data = {0};
    for (size_t c = 0; c < ARRAY_SIZE(cuts) && data.state != LMTP_DATA_END; c++) {
        size_t n = lmtp_data_take(&data, said + at, cuts[c] - at, meant + put, &used);
        assert_true(n <= cuts[c] - at + 1);
        put += n;
        at += used;
        if (data.state != LMTP_DATA_END)
            assert_int_equal(at, cuts[c]);
    }
    if (data.state != LMTP_DATA_END || put != strlen(messages[i].meant) ||
        memcmp(meant, messages[i].meant, put) != 0 || strcmp(said + at, messages[i].rest) != 0)
        fail_msg("message %zu cut at %zu and %zu", i, first, second);
}

static void test_data_at_every_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(messages); i++)
        for (size_t first = 0; first <= strlen(messages[i].said); first++)
            for (size_t second = first; second <= strlen(messages[i].said); second++)
                check_message(i, first, second);
}

static void test_data_keeps_nul(void **state)
{
    static const char said[] = "a\0b\r\n\0\r\n.\r\n";
    struct lmtp_data data = {0};
    char meant[32];
    size_t used;
    (void)state;
    assert_int_equal(lmtp_data_take(&data, said, sizeof said - 1, meant, &used), 8);
    assert_int_equal(data.state, LMTP_DATA_END);
    assert_memory_equal(meant, "a\0b\r\n\0\r\n", 8);
}

/* ---- arguments ---- */

static void test_mail(void **state)
{
    static const struct {
        const char *text, *written, *meant;
        enum lmtp_fault fault;
    } cases[] = {
        {"FROM:<>", "", "", LMTP_PARSED},
        {"from: <a@b.example>", "a@b.example", "a@b.example", LMTP_PARSED},
        {"FROM:<a@b.example> size=17 Body=8bitmime smtputf8", "a@b.example", "a@b.example",
         LMTP_PARSED},
        {"FROM:<@x,@y:a@b.example>", "a@b.example", "a@b.example", LMTP_PARSED},
        {"FROM:<\"a b\"@c.example>", "\"a b\"@c.example", "a b@c.example", LMTP_PARSED},
        {"FROM:<\"a\\\"\\\\>\"@c>", "\"a\\\"\\\\>\"@c", "a\"\\>@c", LMTP_PARSED},
        {"FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]", "a@[192.0.2.1]", LMTP_PARSED},
        {"FROM:<a@b> BODY=7BIT", "a@b", "a@b", LMTP_PARSED},
        {"FROM:<\xc3\xa9@b> SMTPUTF8", "\xc3\xa9@b", "\xc3\xa9@b", LMTP_PARSED},
        {"FROM:<\xc3\xa9@b>", "\xc3\xa9@b", "\xc3\xa9@b", LMTP_PARSED},
        {"FROM:a@b", NULL, NULL, LMTP_BAD_SYNTAX},
        {"", NULL, NULL, LMTP_BAD_SYNTAX},
        {"TO:<a@b>", NULL, NULL, LMTP_BAD_SYNTAX},
        {"FROM:<a@b", NULL, NULL, LMTP_BAD_PATH},
        {"FROM:<a@b>x", NULL, NULL, LMTP_BAD_PATH},
        {"FROM:<\"a\\", NULL, NULL, LMTP_BAD_PATH},
        {"FROM:<a@b> BODY=<> x>x", NULL, NULL, LMTP_BAD_VALUE},
        /* What is no address stands for none. */
        {"FROM:<a@>", "", "", LMTP_PARSED},
        {"FROM:<@b>", "", "", LMTP_PARSED},
        {"FROM:<a b@c>", "", "", LMTP_PARSED},
        {"FROM:<a@b@c>", "", "", LMTP_PARSED},
        {"FROM:<a>b@c> SIZE=5", "", "", LMTP_PARSED},
        {"FROM:<\"a@b>", "", "", LMTP_PARSED},
        {"FROM:<\"\"@b> SIZE=-1", NULL, NULL, LMTP_BAD_VALUE},
        {"FROM:<a@[192.0.2.1> RET=HDRS", NULL, NULL, LMTP_BAD_PARAMETER},
        {"FROM:<a@b> BODY=BINARYMIME", NULL, NULL, LMTP_BAD_VALUE},
        {"FROM:<a@b> SIZE=", NULL, NULL, LMTP_BAD_VALUE},
        {"FROM:<a@b> SIZE=-1", NULL, NULL, LMTP_BAD_VALUE},
        {"FROM:<a@b> SIZE=123456789012345678901", NULL, NULL, LMTP_BAD_VALUE},
        {"FROM:<a@b> SIZE", NULL, NULL, LMTP_BAD_PARAMETER},
        {"FROM:<a@b> RET=HDRS", NULL, NULL, LMTP_BAD_PARAMETER},
    };
    struct lmtp_mail mail;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        enum lmtp_fault fault = lmtp_parse_mail(cases[i].text, &mail);
        if (fault != cases[i].fault)
            fail_msg("'%s': %d", cases[i].text, (int)fault);
        if (fault == LMTP_PARSED) {
            assert_string_equal(mail.from.text, cases[i].written);
            assert_string_equal(mail.from.mailbox, cases[i].meant);
        }
    }
    assert_int_equal(lmtp_parse_mail("FROM:<a@b> size=18446744073709551616", &mail), LMTP_PARSED);
    assert_int_equal(mail.size, UINT64_MAX); /* never a small number */
    assert_int_equal(lmtp_parse_mail("FROM:<a@b> SIZE=17 SMTPUTF8", &mail), LMTP_PARSED);
    assert_int_equal(mail.size, 17);
    assert_true(mail.utf8);
}

static void test_rcpt(void **state)
{
    struct lmtp_path to;
    char text[PROTO_RECIPIENT_MAX + 16];
    (void)state;
    assert_int_equal(lmtp_parse_rcpt("TO:<alice>", &to), LMTP_PARSED);
    assert_string_equal(to.mailbox, "alice");
    assert_int_equal(lmtp_parse_rcpt("TO:<\"al ice\">", &to), LMTP_PARSED);
    assert_string_equal(to.mailbox, "al ice");
    assert_int_equal(lmtp_parse_rcpt("TO:<>", &to), LMTP_BAD_PATH);
    assert_int_equal(lmtp_parse_rcpt("FROM:<a>", &to), LMTP_BAD_SYNTAX);
    assert_int_equal(lmtp_parse_rcpt("", &to), LMTP_BAD_SYNTAX);
    assert_int_equal(lmtp_parse_rcpt("TO:<a> NOTIFY=NEVER", &to), LMTP_BAD_PARAMETER);
    assert_int_equal(lmtp_parse_rcpt("TO:<\xc3\xa9>", &to), LMTP_PARSED);
    assert_true(to.utf8);

    for (size_t n = PROTO_RECIPIENT_MAX - 1; n <= PROTO_RECIPIENT_MAX + 1; n++) {
        memcpy(text, "TO:<", 4);
        memset(text + 4, 'a', n);
        memcpy(text + 4 + n, ">", 2);
        assert_int_equal(lmtp_parse_rcpt(text, &to),
                         n <= PROTO_RECIPIENT_MAX ? LMTP_PARSED : LMTP_BAD_PATH);
    }
}

static void test_bdat(void **state)
{
    static const struct {
        const char *text;
        bool good, last;
        uint64_t size;
    } cases[] = {
        {"0", true, false, 0},
        {"17", true, false, 17},
        {"17 LAST", true, true, 17},
        {"17  last ", true, true, 17},
        {"", false, false, 0},
        {"LAST", false, false, 0},
        {"-1", false, false, 0},
        {"17 FIRST", false, false, 0},
        {"17 LAST x", false, false, 0},
        {"0x17", false, false, 0},
        {"18446744073709551616", false, false, 0},
        {"18446744073709551615", false, false, 0},
        {"000000000000000000000000000000001", false, false, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t size = 0;
        bool last = false;
        bool good = lmtp_parse_bdat(cases[i].text, &size, &last) == LMTP_PARSED;
        if (good != cases[i].good || (good && (size != cases[i].size || last != cases[i].last)))
            fail_msg("'%s'", cases[i].text);
    }
}

static void test_name(void **state)
{
    char long_name[300];
    (void)state;
    assert_true(lmtp_parse_name("mail.example.org"));
    assert_true(lmtp_parse_name("[192.0.2.1]"));
    assert_false(lmtp_parse_name(""));
    assert_false(lmtp_parse_name("two words"));
    assert_false(lmtp_parse_name("x) by y"));
    memset(long_name, 'x', sizeof long_name);
    long_name[256] = '\0';
    assert_false(lmtp_parse_name(long_name));
    long_name[255] = '\0';
    assert_true(lmtp_parse_name(long_name));
}

/* ---- the table of replies ---- */

/* A code, an enhanced code of the same class (but for 354), a text. */
static void test_replies(void **state)
{
    (void)state;
    for (unsigned reply = 0; reply < LMTP_REPLIES; reply++) {
        const char *text = lmtp_reply_text(reply);
        assert_non_null(text);
        assert_true(isdigit((unsigned char)text[0]) && isdigit((unsigned char)text[1]) &&
                    isdigit((unsigned char)text[2]) && text[3] == ' ');
        if (text[0] != '3')
            assert_true(text[4] == text[0] && text[5] == '.');
        assert_true(strlen(text) < 100);
        if (lmtp_reply_is_bad(reply))
            assert_int_equal(text[0], '5');
    }
}

/* ---- the spool ---- */

static unsigned char buffer[SPOOL_BUFFER_SIZE];

static uint64_t file_size(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_size;
}

/* Octets that tell their place. */
static void fill(unsigned char *octets, size_t size, uint64_t from)
{
    for (size_t i = 0; i < size; i++)
        octets[i] = (unsigned char)((from + i) * 31 >> 3);
}

static void check_all(const struct spool *spool, size_t step)
{
    unsigned char *got = malloc(step), *expected = malloc(step);
    uint64_t at = 0;
    ssize_t n;
    while ((n = spool_read(spool, at, got, step)) > 0) {
        fill(expected, (size_t)n, at);
        assert_memory_equal(got, expected, (size_t)n);
        at += (uint64_t)n;
    }
    assert_int_equal(n, 0);
    assert_int_equal(at, spool_size(spool));
    free(got);
    free(expected);
}

static void test_spool(void **state)
{
    static const size_t sizes[] = {0,
                                   1,
                                   SPOOL_BUFFER_SIZE - 1,
                                   SPOOL_BUFFER_SIZE,
                                   SPOOL_BUFFER_SIZE + 1,
                                   3 * SPOOL_BUFFER_SIZE + 17};
    unsigned char piece[4096];
    struct spool spool;
    int fd = memfd_create("spool", MFD_CLOEXEC);
    (void)state;
    spool_open(&spool, fd, buffer);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (size_t at = 0; at < sizes[i];) {
            size_t n = sizes[i] - at < sizeof piece ? sizes[i] - at : sizeof piece;
            fill(piece, n, at);
            spool_add(&spool, piece, n);
            at += n;
        }
        assert_int_equal(spool.error, 0);
        assert_int_equal(spool_size(&spool), sizes[i]);
        /* What is small never touches the disk. */
        assert_int_equal(file_size(fd), sizes[i] / SPOOL_BUFFER_SIZE * SPOOL_BUFFER_SIZE);
        check_all(&spool, 1000);
        check_all(&spool, 1 << 17);
        spool_clear(&spool);
        assert_int_equal(spool_size(&spool), 0);
        assert_int_equal(file_size(fd), 0);
    }
    close(fd);
}

static void test_spool_fails(void **state)
{
    static unsigned char octets[SPOOL_BUFFER_SIZE];
    struct spool spool;
    int full = open("/dev/full", O_RDWR), read_only = open("/dev/null", O_RDONLY);
    (void)state;
    spool_open(&spool, full, buffer);
    spool_add(&spool, octets, sizeof octets);
    assert_int_equal(spool.error, ENOSPC);
    spool_add(&spool, octets, 1);
    assert_int_equal(spool.error, ENOSPC);
    spool_clear(&spool);
    assert_int_equal(spool.error, 0);
    spool_open(&spool, read_only, buffer);
    spool_add(&spool, octets, sizeof octets);
    assert_int_equal(spool.error, EBADF);

    /* A file that lost what was in it: no message ends there. */
    int fd = memfd_create("spool", MFD_CLOEXEC);
    spool_open(&spool, fd, buffer);
    spool_add(&spool, octets, sizeof octets);
    assert_int_equal(ftruncate(fd, 10), 0);
    assert_int_equal(spool_read(&spool, 0, octets, sizeof octets), 10);
    assert_int_equal(spool_read(&spool, 10, octets, sizeof octets), -1);
    close(fd);
    close(full);
    close(read_only);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_at_every_split),
        cmocka_unit_test(test_data_keeps_nul),
        cmocka_unit_test(test_mail),
        cmocka_unit_test(test_rcpt),
        cmocka_unit_test(test_bdat),
        cmocka_unit_test(test_name),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_spool),
        cmocka_unit_test(test_spool_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
