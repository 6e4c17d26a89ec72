/*
 * test_ctl_progress.c - the progress bar's line, and the line ends of an export.
 */
#include "daemon/base.h"
#include "store/ctl_copy.h"
#include "store/ctl_progress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void expect_line(const struct ctl_progress *progress, unsigned width, const char *wanted)
{
    char line[300];
    memset(line, 'X', sizeof line);
    ctl_progress_format(progress, width, line, sizeof line);
    assert_string_equal(line, wanted);
}

static void shows_a_bar(void **state)
{
    (void)state;
    struct ctl_progress p = {.verb = "importing",
                             .done = 5000000,
                             .total = 20000000,
                             .messages = 1234,
                             .elapsed_ms = 2000};
    expect_line(&p, 79,
                "importing [######....................]  25%  1234 messages  2.5 MB/s  0:06 left");
    p.elapsed_ms = 500;
    p.messages = 1;
    expect_line(&p, 79,
                "importing [##########..............................]  25%  1 message           ");
}

static void counts_other_things(void **state)
{
    (void)state;
    struct ctl_progress p = {.verb = "backing up", .done = 5, .total = 20, .elapsed_ms = 2000};
    p.unit = "page";
    expect_line(&p, 60, "backing up [#####.................]  25%  5 pages  0:06 left");
}

static void leaves_out_what_does_not_fit(void **state)
{
    (void)state;
    struct ctl_progress p = {
        .verb = "importing", .done = 10, .total = 20, .messages = 3, .elapsed_ms = 10000000};
    expect_line(&p, 60, "importing  50%  3 messages  0 kB/s  2:46:40 left            ");
    expect_line(&p, 40, "importing  50%  3 messages  0 kB/s      ");
    expect_line(&p, 20, "importing  50%      ");
    expect_line(&p, 9, "importing");
    expect_line(&p, 4, "impo");
    expect_line(&p, 0, "");
}

static void bounds_are_kept(void **state)
{
    (void)state;
    struct ctl_progress p = {.verb = "reading", .messages = 2, .elapsed_ms = 3000};
    expect_line(&p, 30, "reading  2 messages           ");
    p.total = 10;
    p.done = 20; /* a file that grew */
    expect_line(&p, 50, "reading [###############] 100%  2 messages  0 kB/s");
    for (unsigned width = 0; width < 400; width++)
        for (p.done = 0; p.done <= 12; p.done += 4) {
            char line[100];
            ctl_progress_format(&p, width, line, sizeof line);
            assert_int_equal(strlen(line), width < 99 ? width : 99);
        }
}

/* Convert in pieces of every size. */
static void expect_lf(const char *in, size_t size, const char *wanted, bool lossy)
{
    for (size_t step = 1; step <= size + 1; step++) {
        struct ctl_copy_lines lines = {0};
        char out[200], *end = out;
        for (size_t at = 0; at < size; at += step)
            end += ctl_copy_convert(&lines, in + at, size - at < step ? size - at : step, end);
        assert_int_equal(lines.lossy, lossy);
        if (!lossy) {
            assert_int_equal(end - out, strlen(wanted));
            assert_memory_equal(out, wanted, strlen(wanted));
        }
    }
}

#define LF(in, wanted, lossy) expect_lf(in, sizeof(in) - 1, wanted, lossy)

static void exports_line_ends(void **state)
{
    (void)state;
    LF("", "", false);
    LF("a\r\nb\r\n", "a\nb\n", false);
    LF("\r\n\r\n", "\n\n", false);
    LF("a\rb\r\n", "a\rb\n", false);
    LF("a\r\rb\r\n\rc\r\n", "a\r\rb\n\rc\n", false);
    LF("a\r\r\n", NULL, true);
    LF("a\r\r\r\nb\r\n", NULL, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_a_bar),
        cmocka_unit_test(counts_other_things),
        cmocka_unit_test(leaves_out_what_does_not_fit),
        cmocka_unit_test(bounds_are_kept),
        cmocka_unit_test(exports_line_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
