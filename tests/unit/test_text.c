/*
 * test_text.c - the tables of texts: complete in every language, short enough for a reply, never
 * taken for a response code, and all of them have a form in ASCII.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/base.h"
#include "worker/line.h"
#include "worker/text.h"
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define EACH(language, text)                                                                       \
    for (int language = 0; language < TEXT_LANGUAGES; language++)                                  \
        for (int text = 0; text < TEXTS; text++)

/* A text that is missing in a table ends this program: text_get() calls it a defect. */
static void test_complete(void **state)
{
    (void)state;
    EACH(language, text)
    {
        const char *said = text_get((enum text_language)language, (enum text)text);
        assert_true(strlen(said) > 0);
        assert_true(strlen(said) <= TEXT_MAX);
        assert_true(said[0] != '[' && said[0] != ' ');
        assert_true(line_is_text(said, strlen(said)));
    }
}

static void expect_defect(int language, int text)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        close(STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        text_get((enum text_language)language, (enum text)text);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void test_none(void **state)
{
    (void)state;
    expect_defect(TEXT_LANGUAGES, 0);
    expect_defect(TEXT_ENGLISH, TEXTS);
}

/* "-ERR [LOGIN-DELAY] text" and the line end in 512 octets (RFC 2449 section 4). */
static void test_fits_a_reply(void **state)
{
    (void)state;
    assert_true(strlen("-ERR [LOGIN-DELAY] ") + TEXT_MAX + strlen("\r\n") <= 512);
}

static void test_folds_into_ascii(void **state)
{
    char plain[TEXT_MAX + 1];
    (void)state;
    EACH(language, text)
    {
        const char *said = text_get((enum text_language)language, (enum text)text);
        assert_ptr_equal(text_fold(said, plain), plain);
        for (const char *at = plain; *at; at++)
            assert_true((unsigned char)*at < 0x80);
        if (language == TEXT_ENGLISH)
            assert_string_equal(plain, said);
    }
    assert_string_equal(text_fold("déjà vu : cœur", plain), "deja vu : coeur");
}

static void test_languages(void **state)
{
    static const struct {
        const char *range;
        bool known;
        enum text_language language;
    } ranges[] = {
        {"en", true, TEXT_ENGLISH},
        {"FR", true, TEXT_FRENCH},
        {"fr-CA", true, TEXT_FRENCH},
        {"en-boont", true, TEXT_ENGLISH},
        {"fra", false, 0},
        {"f", false, 0},
        {"", false, 0},
        {"-", false, 0},
        {"de", false, 0},
        {"*", false, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        enum text_language language = TEXT_LANGUAGES;
        assert_int_equal(text_find_language(ranges[i].range, &language), ranges[i].known);
        assert_int_equal(language, ranges[i].known ? ranges[i].language : TEXT_LANGUAGES);
    }
    assert_string_equal(text_tag(TEXT_FRENCH), "fr");
    assert_string_equal(text_name(TEXT_FRENCH), "Fran\xc3\xa7"
                                                "ais");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete),     cmocka_unit_test(test_none),
        cmocka_unit_test(test_fits_a_reply), cmocka_unit_test(test_folds_into_ascii),
        cmocka_unit_test(test_languages),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
