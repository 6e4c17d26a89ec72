/*
 * test_ctl_command.c - poplarctl's command line: what is found, what is refused, what is suggested.
 */
#include "store/ctl_command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include <cmocka.h>

enum { WORDS_MAX = 10 };

/* Parse a line of words that are separated by blanks. */
static int parse(const char *line, struct ctl *ctl, const struct ctl_command **command, char *error)
{
    static char words[200];
    char *argv[WORDS_MAX], *rest = words;
    int argc = 0;
    base_copy(words, sizeof words, line);
    for (char *word; argc < WORDS_MAX && (word = strsep(&rest, " "));)
        if (*word)
            argv[argc++] = word;
    *ctl = (struct ctl){.config_file = "default"};
    return ctl_command_parse(ctl, argc, argv, command, error, 512);
}

static void refuse(const char *line, const char *wanted)
{
    struct ctl ctl;
    const struct ctl_command *command;
    char error[512] = "";
    assert_int_equal(parse(line, &ctl, &command, error), EX_USAGE);
    if (!strstr(error, wanted))
        fail_msg("\"%s\" says \"%s\", not \"%s\"", line, error, wanted);
    assert_null(strchr(error, '\n'));
    free(ctl.words);
}

static void expect(const char *line, const char *words, size_t n, unsigned options)
{
    struct ctl ctl;
    const struct ctl_command *command;
    char error[512] = "";
    if (parse(line, &ctl, &command, error) != 0)
        fail_msg("\"%s\": %s", line, error);
    assert_string_equal(command ? command->words : "", words);
    assert_int_equal(ctl.n_words, n);
    assert_int_equal(ctl.options, options);
    free(ctl.words);
}

static void finds_commands(void **state)
{
    (void)state;
    expect("status", "status", 0, 0);
    expect("import alice a b c", "import", 4, 0);
    expect("message list alice", "message list", 1, 0);
    expect("--json message --config x list alice", "message list", 1, CTL_JSON | CTL_CONFIG);
    expect("import --dry-run alice -- --json", "import", 2, CTL_DRY_RUN);
    expect("import alice -", "import", 2, 0);
    expect("--help", "", 0, CTL_HELP);
    expect("-V", "", 0, CTL_VERSION);
    expect("import -h", "import", 0, CTL_HELP);
    expect("help message list", "help", 2, 0);
    expect("message --help", "", 1, CTL_HELP);
    expect("-h mailbox", "", 1, CTL_HELP);
}

static void explains_a_group(void **state)
{
    char *help = NULL;
    size_t size;
    FILE *memory = open_memstream(&help, &size);
    (void)state;
    ctl_command_help(memory, NULL, "message");
    fclose(memory);
    assert_non_null(strstr(help, "message COMMAND"));
    assert_non_null(strstr(help, "  message list USER "));
    assert_null(strstr(help, "mailbox"));
    assert_null(strstr(help, "status"));
    free(help);
}

static void takes_values(void **state)
{
    (void)state;
    struct ctl ctl;
    const struct ctl_command *command;
    char error[512];
    assert_int_equal(parse("--config=a=b import u p --format mbox", &ctl, &command, error), 0);
    assert_string_equal(ctl.config_file, "a=b");
    assert_string_equal(ctl.format, "mbox");
    assert_string_equal(ctl.words[0], "u");
    free(ctl.words);
}

static void refuse_words(int argc, char **argv, const char *wanted)
{
    struct ctl ctl = {.config_file = "default"};
    const struct ctl_command *command;
    char error[512] = "";
    assert_int_equal(ctl_command_parse(&ctl, argc, argv, &command, error, sizeof error), EX_USAGE);
    assert_string_equal(error, wanted);
    free(ctl.words);
}

/* A variable of a script that was never set. */
static void takes_nothing_empty(void **state)
{
    (void)state;
    refuse_words(2, (char *[]){"kick", ""},
                 "an argument is empty; usage: poplarctl kick USER|SESSION...");
    refuse_words(4, (char *[]){"mailbox", "restore", "alice", ""},
                 "an argument is empty; usage: poplarctl mailbox restore USER FILE, or --all in "
                 "the place of USER");
    refuse_words(3, (char *[]){"expire", "alice", ""},
                 "an argument is empty; usage: poplarctl expire [USER...]");
    refuse_words(2, (char *[]){"--config=", "status"}, "--config needs a value: --config FILE");
    refuse_words(3, (char *[]){"--config", "", "status"}, "--config needs a value: --config FILE");
}

static void suggests_the_nearest(void **state)
{
    (void)state;
    refuse("imprt alice x", "did you mean \"import\"?");
    refuse("improt alice x", "did you mean \"import\"?");
    refuse("statsu", "did you mean \"status\"?");
    refuse("relaod", "did you mean \"reload\"?");
    refuse("message lsit alice", "did you mean \"message list\"?");
    refuse("mesage list alice", "did you mean \"message list\"?");
    refuse("message", "message needs one of: add, list");
    refuse("message frobnicate", "message takes one of: add, list");
    refuse("mailbox nosuch", "mailbox takes one of: list, show");
    refuse("mailbox nosuch --help", "mailbox takes one of: list, show");
    refuse("mesage --help", "did you mean");
    refuse("xyzzy", "poplarctl --help lists them");
    refuse("", "no command");
    refuse("--jsno status", "did you mean \"--json\"?");
    refuse("--dryrun import a b", "did you mean \"--dry-run\"?");
    refuse("-x status", "no option \"-x\"");
    refuse("-hx status", "no option \"-hx\"");
    refuse("--jso status", "did you mean \"--json\"?");
    refuse("-json status", "no option \"-json\": did you mean \"--json\"?");
    refuse("-a status", "no option \"-a\": poplarctl --help lists them");
    refuse("--jsons status", "did you mean \"--json\"?");
    refuse("--xyzzy status", "poplarctl --help lists them");
    refuse("backup alice x", "did you mean \"mailbox backup\"?");
    refuse("mail list", "did you mean");
    refuse("messages list", "did you mean \"message list\"?");
}

static void refuses_misuse(void **state)
{
    (void)state;
    refuse("status now", "usage: poplarctl status");
    refuse("import alice", "usage: poplarctl import USER PATH...");
    refuse("export alice", "usage: poplarctl export USER DIR");
    refuse("message add", "usage: poplarctl message add USER <FILE");
    refuse("status --crlf", "status takes no --crlf");
    refuse("export --dry-run a b", "export takes no --dry-run");
    refuse("status --json=yes", "--json takes no value");
    refuse("status --config", "--config needs a value");
}

static void distances(void **state)
{
    (void)state;
    assert_int_equal(ctl_command_distance("", ""), 0);
    assert_int_equal(ctl_command_distance("abc", "abc"), 0);
    assert_int_equal(ctl_command_distance("", "abc"), 3);
    assert_int_equal(ctl_command_distance("abc", ""), 3);
    assert_int_equal(ctl_command_distance("abc", "acb"), 1);
    assert_int_equal(ctl_command_distance("kitten", "sitting"), 3);
    char lengthy[1000];
    memset(lengthy, 'a', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = '\0';
    assert_int_equal(ctl_command_distance(lengthy, "a"), 39);
}

/* The table itself: each row can be reached by its words and has what help prints. */
static void every_row_is_whole(void **state)
{
    (void)state;
    const struct ctl_command *row;
    for (size_t i = 0; (row = ctl_command_at(i)); i++) {
        char words[64], error[512], *second;
        base_copy(words, sizeof words, row->words);
        const char *list[2] = {words, NULL};
        if ((second = strchr(words, ' '))) {
            *second = '\0';
            list[1] = second + 1;
        }
        size_t used;
        assert_ptr_equal(ctl_command_find(list, second ? 2 : 1, &used, error, sizeof error), row);
        assert_int_equal(used, second ? 2 : 1);
        assert_non_null(row->run);
        assert_non_null(row->summary);
        assert_non_null(row->arguments);
        assert_true(row->min <= row->max);
        assert_true(!row->help || row->help[strlen(row->help) - 1] == '\n');
    }
}

static char *read_whole(const char *path)
{
    char *octets = base_alloc(200000);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_true(fread(octets, 1, 199999, file) > 0);
    fclose(file);
    return octets;
}

static void find(const char *text, const char *where, const char *format, const char *word)
{
    char *wanted = base_format(format, word);
    if (!strstr(text, wanted))
        fail_msg("%s does not know %s", where, wanted);
    free(wanted);
}

/* What the man page and the shell tell of is what there is. */
static void man_page_and_completion_know_all(void **state)
{
    (void)state;
    char *man = read_whole("packaging/man/poplarctl.8"), *help = NULL;
    char *completion = read_whole("packaging/completion/poplarctl");
    const struct ctl_command *row;
    size_t size;
    FILE *memory = open_memstream(&help, &size);
    for (size_t i = 0; (row = ctl_command_at(i)); i++) {
        const char *second = strchr(row->words, ' ');
        find(man, "the man page", "Ic %s", row->words);
        find(completion, "the completion", "%s", second ? second + 1 : row->words);
        ctl_command_help(memory, row, NULL);
    }
    fclose(memory);
    for (char *at = help; (at = strstr(at, "\n  --")); at++) {
        char *word = base_format("%.*s", (int)strcspn(at + 5, " \n"), at + 5);
        find(man, "the man page", "-%s", word);
        find(completion, "the completion", "--%s", word);
        free(word);
    }
    free(help);
    free(man);
    free(completion);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_commands),      cmocka_unit_test(explains_a_group),
        cmocka_unit_test(takes_values),        cmocka_unit_test(suggests_the_nearest),
        cmocka_unit_test(refuses_misuse),      cmocka_unit_test(distances),
        cmocka_unit_test(every_row_is_whole),  cmocka_unit_test(man_page_and_completion_know_all),
        cmocka_unit_test(takes_nothing_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
