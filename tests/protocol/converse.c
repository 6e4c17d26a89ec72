/*
 * converse.c - walks conversation files (README.md in this folder says what may stand in them)
 * against a real nursery and a real worker in its real sandbox. For tests; plays the master, auth
 * and the client, runs as whoever runs the tests, opens no port.
 *
 *     converse [FILE or FOLDER]...     tests/protocol when there is none
 *
 * One test a file. A conversation that goes another way names file and line, what was expected and
 * what came.
 */
#include "tests/protocol/walk.h"

#include <dirent.h>
#include <sysexits.h>

struct walk w;
struct harness h;

void wrong(const char *format, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_error("%s:%d: %s\n", w.path, w.line, text);
    w.finished = true; /* no need to say again where */
    fail();
    abort();
}

const char *shown(const char *octets, size_t size)
{
    static char text[1024];
    size_t n = 0;
    for (size_t i = 0; i < size && n < sizeof text - 8; i++) {
        unsigned char c = (unsigned char)octets[i];
        if (c >= 0x20 && c != 0x7f)
            text[n++] = (char)c;
        else
            n += (size_t)snprintf(text + n, 5, "\\x%02x", c);
    }
    text[n] = '\0';
    return text;
}

static const struct step {
    const char *word;
    void (*run)(const char *text);
} steps[] = {
    /* clang-format off */
    {"set", run_set},                {"certificate", run_certificate}, {"door", run_door},
    {"peer", run_peer},              {"login", run_login},            {"mail", run_mail},
    {"M:", run_mail_line},           {"M-raw:", run_mail_raw},        {"C:", run_say},
    {"C-raw:", run_say_raw},         {"cut", run_cut},                {"split", run_split},
    {"whole", run_whole},            {"S:", run_hear},                {"S-raw:", run_hear_raw},
    {"S-lines", run_list},           {"S-among:", run_among},         {"S-lacks:", run_lacks},
    {"S-ascii", run_ascii},          {"S-size", run_size},            {"S-close", run_closed},
    {"S-alert", run_alert},          {"TLS", run_tls},                {"clear", run_clear},
    {"close", run_close},            {"again", run_again},            {"master", run_master},
    {"asked", run_asked},            {"messages", run_messages},      {"hold", run_hold},
    {"release", run_release},        {"sql", run_sql},
    /* clang-format on */
};

/* Whether this looks at the multi-line reply that the line before looked at. */
static bool is_about_list(const char *word)
{
    static const char *const words[] = {"S-among:", "S-lacks:", "S-ascii", "S-size"};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcmp(word, words[i]) == 0)
            return true;
    return false;
}

static void walk_line(char *line)
{
    size_t size = strcspn(line, " ");
    const char *text = line + size + (line[size] ? 1 : 0);
    if (line[0] == '\0' || line[0] == '#')
        return;
    line[size] = '\0';
    if (strncmp(line, "M", 1) != 0)
        world_deliver();
    if (!is_about_list(line))
        w.listed = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        if (strcmp(line, steps[i].word) == 0) {
            steps[i].run(text);
            return;
        }
    }
    wrong("'%s' is not known here", line);
}

/* The whole file: the nursery's process must not share its offset. NULL and errno if it cannot be
 * read; freed by the caller. */
static char *read_file(const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = base_alloc(FILE_MAX + 1);
    if (!file || (fread(text, 1, FILE_MAX, file) == 0 && ferror(file))) {
        free(text);
        text = NULL;
    }
    if (file)
        fclose(file);
    return text;
}

static void test_conversation(void **state)
{
    w.path = *state;
    run_door("pop3");
    run_peer("192.0.2.7:4711");
    h.client = h.worker.fd = h.exchange.fd = h.nursery.fd = -1;
    w.text = read_file(w.path);
    if (!w.text)
        wrong("%s", strerror(errno));
    for (char *line = w.text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        w.line++;
        walk_line(line);
    }
    if (h.client >= 0)
        wrong("the conversation ends before the session does");
    if (!w.connected)
        wrong("nothing was said");
    w.finished = true;
}

static int clean_up(void **state)
{
    (void)state;
    if (!w.finished)
        print_error("%s:%d: stopped here\n", w.path, w.line);
    run_release("");
    harness_hang_up(&h);
    channel_close(&h.worker);
    channel_close(&h.exchange);
    if (w.begun)
        harness_stop(&h);
    for (size_t i = 0; i < w.n_settings; i++)
        free((char *)(uintptr_t)w.settings[i]);
    for (size_t i = 0; i < w.n_accounts; i++) {
        free(w.accounts[i].name);
        free(w.accounts[i].secret);
        free(w.accounts[i].answer);
    }
    free(w.text);
    memset(&w, 0, sizeof w);
    return 0;
}

/* The unused entries at the end are no tests to cmocka. */
static struct CMUnitTest tests[FILES_MAX];
static size_t n_tests;

static void add_file(const char *path)
{
    if (n_tests == FILES_MAX)
        fatal(EX_USAGE, "too many conversations");
    char *copy = base_strdup(path);
    const char *slash = strrchr(copy, '/');
    tests[n_tests++] = (struct CMUnitTest){.name = slash ? slash + 1 : copy,
                                           .test_func = test_conversation,
                                           .teardown_func = clean_up,
                                           .initial_state = copy};
}

static int is_conversation(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && strcmp(dot, ".txt") == 0;
}

static void add_path(const char *path)
{
    struct dirent **entries;
    int n = scandir(path, &entries, is_conversation, alphasort);
    if (n < 0)
        add_file(path);
    for (int i = 0; i < n; i++) {
        char *file = base_format("%s/%s", path, entries[i]->d_name);
        add_file(file);
        free(file);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        add_path("tests/protocol");
    for (int i = 1; i < argc; i++)
        add_path(argv[i]);
    int failed = cmocka_run_group_tests_name("conversations", tests, NULL, NULL);
    for (size_t i = 0; i < n_tests; i++)
        free(tests[i].initial_state);
    return failed > 0 || n_tests == 0;
}
