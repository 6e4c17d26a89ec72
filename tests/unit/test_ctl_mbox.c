/*
 * test_ctl_mbox.c - the mbox reader: what belongs to a message, wherever the reads and the buffer
 * are cut.
 */
#include "between.h"
#include "daemon/base.h"
#include "store/ctl_mbox.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A source that hands out `step` octets at a time, and fails at `fail_at`. */
struct feed {
    const char *octets;
    size_t size, at, step, fail_at;
    bool look_fails;
};

static ssize_t feed_read(void *context, void *buffer, size_t size)
{
    struct feed *feed = context;
    size_t left = feed->size - feed->at;
    if (feed->fail_at && feed->at >= feed->fail_at) {
        errno = EIO;
        return -1;
    }
    size_t n = left < feed->step ? left : feed->step;
    n = n < size ? n : size;
    memcpy(buffer, feed->octets + feed->at, n);
    feed->at += n;
    return (ssize_t)n;
}

static ssize_t feed_look(void *context, uint64_t position, void *buffer, size_t size)
{
    const struct feed *feed = context;
    if (feed->look_fails) {
        errno = EIO;
        return -1;
    }
    if (position >= feed->size)
        return 0;
    size_t left = feed->size - (size_t)position, n = left < size ? left : size;
    memcpy(buffer, feed->octets + position, n);
    return (ssize_t)n;
}

static bool keep_quotes;

/* Everything an mbox holds: messages one after the other, each ended by "|". */
static char *split(const char *octets, size_t size, size_t step, size_t ask)
{
    struct feed feed = {.octets = octets, .size = size, .step = step};
    struct ctl_mbox mbox;
    char *all = base_alloc(2 * size + 64), *buffer = base_alloc(ask);
    size_t used = 0;
    int64_t received;
    ctl_mbox_init(&mbox, feed_read, feed_look, &feed);
    mbox.keep_quotes = keep_quotes;
    while (ctl_mbox_next(&mbox, &received) == 1) {
        ssize_t got;
        while ((got = ctl_mbox_read(&mbox, buffer, ask)) > 0) {
            memcpy(all + used, buffer, (size_t)got);
            used += (size_t)got;
        }
        assert_int_equal(got, 0);
        all[used++] = '|';
    }
    assert_int_equal(mbox.position, size);
    ctl_mbox_free(&mbox);
    free(buffer);
    all[used] = '\0';
    return all;
}

static void expect(const char *octets, const char *messages)
{
    static const size_t sizes[] = {1, 2, 3, 5, 6, 7, 8, 13, 4096};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
            char *got = split(octets, strlen(octets), sizes[i], sizes[j]);
            assert_string_equal(got, messages);
            free(got);
        }
}

static void splits_messages(void **state)
{
    (void)state;
    expect("From a\nS: 1\n\nbody\n\nFrom b\nS: 2\n\nmore\n\n", "S: 1\n\nbody\n|S: 2\n\nmore\n|");
    expect("From a\nS: 1\n\nbody\n\nFrom b\nS: 2\n\nmore\n", "S: 1\n\nbody\n|S: 2\n\nmore\n|");
}

static void keeps_missing_final_newline(void **state)
{
    (void)state;
    expect("From a\nS: 1\n\nbody", "S: 1\n\nbody|");
    expect("From a\nS: 1\n\n>", "S: 1\n\n>|");
    expect("From a\nS: 1\n\n>From", "S: 1\n\n>From|");
    expect("From a\nS: 1\n\n>From ", "S: 1\n\nFrom |");
    expect("From a", "|");
    expect("From ", "|");
}

static void takes_crlf(void **state)
{
    (void)state;
    expect("From a\r\nS: 1\r\n\r\nbody\r\n\r\nFrom b\r\nS: 2\r\n\r\n>From x\r\n\r\n",
           "S: 1\r\n\r\nbody\r\n|S: 2\r\n\r\nFrom x\r\n|");
    expect("From a\r\nx\r\n\r", "x\r\n\r|");
}

static void only_last_empty_line_is_the_separators(void **state)
{
    (void)state;
    expect("From a\nx\n\n\n\nFrom b\ny\n\n\n", "x\n\n\n|y\n\n|");
}

static void from_needs_an_empty_line_before(void **state)
{
    (void)state;
    expect("From a\nx\nFrom here on\n\nFrom b\ny\n", "x\nFrom here on\n|y\n|");
    expect("From a\nx\n \nFrom here\n", "x\n \nFrom here\n|");
    expect("From a\nFrom b\n", "From b\n|");
    expect("From a\nx\n\nFromage\n\nfrom \n", "x\n\nFromage\n\nfrom \n|");
}

static void empty_messages(void **state)
{
    (void)state;
    expect("From a\n\nFrom b\n\nFrom c\nz\n", "||z\n|");
}

static void undoes_quoting(void **state)
{
    (void)state;
    expect("From a\n\n>From x\n>>From y\n>>>>From z\n", "\nFrom x\n>From y\n>>>From z\n|");
    expect("From a\n> From x\n>Fromx\n>>\n>\n x>From \n", "> From x\n>Fromx\n>>\n>\n x>From \n|");
    expect("From a\n\n>From x\n\nFrom b\n>From\n", "\nFrom x\n|>From\n|");
}

static void keeps_quoting_where_told(void **state)
{
    (void)state;
    keep_quotes = true;
    expect("From a\n>From : x\n\n>From x\n>>From y\n\nFrom b\n>From z\n",
           ">From : x\n\n>From x\n>>From y\n|>From z\n|");
    keep_quotes = false;
}

#define DATE  " Tue May 10 11:28:07 2005"
#define LINE  "From x@y" DATE "\n"
#define LINES "\n" LINE "body\n" /* 40 octets */

/* Where the first From line has a date, others have one too; the rest is text. */
static void from_lines_have_dates(void **state)
{
    (void)state;
    expect(LINE "S: 1\n\nbody\n\nFrom here on\n\n" LINE "S: 2\n\nmore\n\n",
           "S: 1\n\nbody\n\nFrom here on\n|S: 2\n\nmore\n|");
    expect("From a\nx\n\nFrom b\ny\n\n" LINE "z\n", "x\n|y\n|z\n|");
    expect(LINE "x\n\nFrom - Thu Jan 01 00:00:00 1970\ny\n\nFrom z\n", "x\n|y\n\nFrom z\n|");
}

static void content_length(void **state)
{
    (void)state;
    assert_int_equal(strlen(LINES), 40);
    /* With and without an empty line behind it, at the end and before more. */
    expect(LINE "Content-Length: 40\n\n" LINES LINE "S: 2\n\nmore\n",
           "Content-Length: 40\n\n" LINES "|S: 2\n\nmore\n|");
    expect(LINE "content-length:40\nS: 1\n\n" LINES "\n" LINE "S: 2\n\nmore\n",
           "content-length:40\nS: 1\n\n" LINES "|S: 2\n\nmore\n|");
    expect(LINE "S: 1\nContent-Length: 40\n\n" LINES, "S: 1\nContent-Length: 40\n\n" LINES "|");
    expect(LINE "S: 1\nContent-Length: 40\n\n" LINES "\n",
           "S: 1\nContent-Length: 40\n\n" LINES "|");
    /* The body begins with what would be a separator, and nothing in it loses a '>'. */
    expect(LINE "Content-Length: 50\n\n" LINE ">From x\n\nFrom y\n",
           "Content-Length: 50\n\n" LINE ">From x\n\nFrom y\n|");
}

/* One that does not lead to the end of a message is as good as none. */
static void wrong_content_length(void **state)
{
    (void)state;
    static const char *const wrong[] = {"0",
                                        "1",
                                        "39",
                                        "41",
                                        "4000",
                                        "-40",
                                        "x",
                                        "",
                                        "18446744073709551615",
                                        "99999999999999999999999"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        char *octets =
            base_format(LINE "Content-Length: %s\n\nb\n" LINES "\n" LINE "x\n", wrong[i]);
        char *messages = base_format("Content-Length: %s\n\nb\n|body\n|x\n|", wrong[i]);
        expect(octets, messages);
        free(octets);
        free(messages);
    }
    expect(LINE "S: 1\n\nContent-Length: 40\n\n" LINES, "S: 1\n\nContent-Length: 40\n\n|body\n|");
}

static void keeps_nul_and_other_octets(void **state)
{
    (void)state;
    static const char octets[] = "From a\0b\n\0\xff\r\0\n\nFrom b\n\r\r\n\0";
    static const char messages[] = "\0\xff\r\0\n|\r\r\n\0|";
    for (size_t step = 1; step < 9; step++) {
        char *got = split(octets, sizeof octets - 1, step, 3);
        assert_memory_equal(got, messages, sizeof messages);
        free(got);
    }
}

/* Slide a separator and a quoted line across the end of the internal buffer. */
static void every_buffer_boundary(void **state)
{
    (void)state;
    static const char middle[] = "\r\n\r\nFrom b c\r\n>>From q\r\n\r\nFrom d\r\nend\r\n";
    enum { AROUND = sizeof middle + 8 };
    char *octets = base_alloc(CTL_MBOX_BUFFER + 2 * AROUND);
    for (size_t shift = 0; shift < 2 * AROUND; shift++) {
        size_t lead = CTL_MBOX_BUFFER - AROUND + shift;
        memset(octets, 'x', lead);
        memcpy(octets, "From a\n", 7);
        memcpy(octets + lead, middle, sizeof middle);
        char *got = split(octets, lead + sizeof middle - 1, SIZE_MAX, 70000);
        assert_int_equal(strspn(got, "x"), lead - 7);
        assert_string_equal(got + lead - 7, "\r\n|>From q\r\n|end\r\n|");
        free(got);
    }
    free(octets);
}

static void long_lines_and_long_quotes(void **state)
{
    (void)state;
    enum { LONG = 200000 };
    char *octets = base_alloc(LONG + 100);
    memset(octets, '>', LONG);
    memcpy(octets, "From a\n", 7);
    memcpy(octets + LONG, "From x\n", 8);
    char *got = split(octets, LONG + 7, 4096, 1000);
    assert_int_equal(strspn(got, ">"), LONG - 7 - 1);
    assert_string_equal(got + LONG - 8, "From x\n|");
    free(got);
    memset(octets + 5, 'y', LONG); /* the From line itself has no end */
    got = split(octets, LONG, 4096, 1000);
    assert_string_equal(got, "|");
    free(got);
    free(octets);
}

static void next_passes_over_the_unread(void **state)
{
    (void)state;
    static const char octets[] = "From a\none\ntwo\n\nFrom b\nthree\n";
    struct feed feed = {.octets = octets, .size = sizeof octets - 1, .step = 4};
    struct ctl_mbox mbox;
    int64_t received;
    char buffer[2];
    ctl_mbox_init(&mbox, feed_read, NULL, &feed);
    assert_int_equal(ctl_mbox_next(&mbox, &received), 1);
    assert_int_equal(ctl_mbox_read(&mbox, buffer, 2), 2);
    assert_int_equal(ctl_mbox_next(&mbox, &received), 1);
    assert_int_equal(ctl_mbox_read(&mbox, buffer, 2), 2);
    assert_memory_equal(buffer, "th", 2);
    assert_int_equal(ctl_mbox_next(&mbox, &received), 0);
    assert_int_equal(ctl_mbox_next(&mbox, &received), 0);
    ctl_mbox_free(&mbox);
}

static void reports_failures(void **state)
{
    (void)state;
    static const char octets[] = "From a\none\ntwo\n\nFrom b\nthree\n";
    struct feed feed = {.octets = octets, .size = sizeof octets - 1, .step = 4, .fail_at = 12};
    struct feed other = {.octets = "Subject: x\n", .size = 11, .step = 4};
    struct ctl_mbox mbox;
    int64_t received;
    char buffer[100];
    ctl_mbox_init(&mbox, feed_read, NULL, &feed);
    assert_int_equal(ctl_mbox_next(&mbox, &received), 1);
    assert_int_equal(ctl_mbox_read(&mbox, buffer, sizeof buffer), -1);
    assert_int_equal(ctl_mbox_next(&mbox, &received), -1);
    assert_int_equal(errno, EIO);
    ctl_mbox_free(&mbox);

    ctl_mbox_init(&mbox, feed_read, NULL, &other);
    assert_int_equal(ctl_mbox_next(&mbox, &received), -1);
    assert_int_equal(errno, EBADMSG);
    ctl_mbox_free(&mbox);
}

/* Up to where the source fails the messages are what they are; then that is told, and no message
 * ends as if it were whole. */
static void fails_anywhere(void **state)
{
    (void)state;
    static const char octets[] =
        "From a@b Tue May 10 11:28:07 2005\nS: 1\nContent-Length: 13\n\n"
        "body\n\nFrom x\n\n"
        "From a@b Tue May 10 11:28:07 2005\nS: 2\n\n"
        ">From me\n>>From you\n> quoted\n\nFrom here\n\n\n"
        "From a@b Tue May 10 11:28:07 2005\nContent-Length: 6\n\n\r\nend\n";
    char *whole = split(octets, sizeof octets - 1, 7, 100);
    assert_string_equal(whole,
                        "S: 1\nContent-Length: 13\n\nbody\n\nFrom x\n|S: 2\n\nFrom me\n>From "
                        "you\n> quoted\n\nFrom here\n\n|Content-Length: 6\n\n\r\nend\n|");
    for (size_t at = 1; at < sizeof octets; at++) {
        struct feed feed = {.octets = octets, .size = sizeof octets - 1, .step = 1, .fail_at = at};
        struct ctl_mbox mbox;
        char all[sizeof octets + 10], *to = all;
        int64_t received;
        ssize_t got = 0;
        int more = 0;
        ctl_mbox_init(&mbox, feed_read, feed_look, &feed);
        while (got == 0 && (more = ctl_mbox_next(&mbox, &received)) == 1) {
            while ((got = ctl_mbox_read(&mbox, to, 1)) > 0)
                to += got;
            if (got == 0)
                *to++ = '|';
        }
        assert_true(got < 0 || more < 0);
        assert_int_equal(errno, EIO);
        assert_memory_equal(all, whole, (size_t)(to - all));
        ctl_mbox_free(&mbox);
    }
    free(whole);

    /* Nor is a Content-Length given up that only could not be followed. */
    struct feed feed = {
        .octets = octets, .size = sizeof octets - 1, .step = 100, .look_fails = true};
    struct ctl_mbox mbox;
    char all[sizeof octets];
    int64_t received;
    ctl_mbox_init(&mbox, feed_read, feed_look, &feed);
    assert_int_equal(ctl_mbox_next(&mbox, &received), 1);
    assert_int_equal(ctl_mbox_read(&mbox, all, sizeof all), -1);
    ctl_mbox_free(&mbox);
}

/* A file may be cut short under our hands, and a line that begins a message may be of any length.
 */
static void ends_early(void **state)
{
    (void)state;
    static const char octets[] = "From a@b Tue May 10 11:28:07 2005\nContent-Length: 9\n\n"
                                 "12345678\n";
    for (size_t size = sizeof octets - 10; size < sizeof octets; size++) {
        struct feed feed = {.octets = octets, .size = sizeof octets - 1, .step = 1};
        struct ctl_mbox mbox;
        char all[100];
        int64_t received;
        ctl_mbox_init(&mbox, feed_read, feed_look, &feed);
        assert_int_equal(ctl_mbox_next(&mbox, &received), 1);
        assert_int_equal(ctl_mbox_read(&mbox, all, 19), 19);
        feed.size = size;
        size_t n = 0;
        ssize_t got;
        while ((got = ctl_mbox_read(&mbox, all + n, 1)) > 0)
            n += (size_t)got;
        assert_int_equal(got, 0);
        assert_true(is_between(n, size - (sizeof octets - 10), 9));
        ctl_mbox_free(&mbox);
    }
    char *text = base_alloc(1000);
    memcpy(text, octets, 34);
    memcpy(text + 34, "\nFrom ", 6);
    memset(text + 40, 'x', 900);
    char *got = split(text, 940, 100, 100);
    assert_int_equal(strspn(got, "\n"), 1); /* without a date it is text */
    free(got);
    memcpy(text + 34, "\nFrom a@b Tue May 10 11:28:07 2005 ", 35);
    got = split(text, 940, 100, 100);
    assert_string_equal(got, "||");
    free(got);
    free(text);
}

static void empty_file_has_none(void **state)
{
    (void)state;
    expect("", "");
}

/* -1: none. */
static int64_t date(const char *line)
{
    int64_t seconds;
    return ctl_mbox_date(line, &seconds) ? seconds : -1;
}

static void reads_dates(void **state)
{
    (void)state;
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 2005 +0200"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 +0200 2005"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 09:28:07 UTC 2005"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 04:58:07 2005 -0430"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 2005"), 1115717287);
    assert_int_equal(date("From a@b  Tue May 10 11:28:07 2005\r"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 11:28 2005"), 1115717280);
    assert_int_equal(date("From \"Tue May 1\" Sun May  8 19:07:09 2005"), 1115572029);
    assert_int_equal(date("From a@b Tue May 10 09:28:07 GMT 2005"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 2005 EST 2006"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 2005 +200"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 2005 +02000"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 2005 +0200x"), 1115717287);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 2005x"), -1);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 20055"), -1);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 205"), -1);
    assert_int_equal(date("From a@b Tue May 10 11:28:07"), -1);
    assert_int_equal(date("From a@b Tue May 10 11:28:07 1901"), 0);
    assert_int_equal(date("From - Thu Jan  1 00:00:00 1970"), 0);
    assert_int_equal(date("From - Thu Jan  1 00:00:00 1970 -0500"), 0);
    assert_int_equal(date("From email_test@me.nowhere"), -1);
    assert_int_equal(date("From "), -1);
    assert_int_equal(date(""), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_messages),
        cmocka_unit_test(fails_anywhere),
        cmocka_unit_test(ends_early),
        cmocka_unit_test(keeps_missing_final_newline),
        cmocka_unit_test(takes_crlf),
        cmocka_unit_test(only_last_empty_line_is_the_separators),
        cmocka_unit_test(from_needs_an_empty_line_before),
        cmocka_unit_test(empty_messages),
        cmocka_unit_test(undoes_quoting),
        cmocka_unit_test(keeps_quoting_where_told),
        cmocka_unit_test(from_lines_have_dates),
        cmocka_unit_test(content_length),
        cmocka_unit_test(wrong_content_length),
        cmocka_unit_test(keeps_nul_and_other_octets),
        cmocka_unit_test(every_buffer_boundary),
        cmocka_unit_test(long_lines_and_long_quotes),
        cmocka_unit_test(next_passes_over_the_unread),
        cmocka_unit_test(reports_failures),
        cmocka_unit_test(empty_file_has_none),
        cmocka_unit_test(reads_dates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
