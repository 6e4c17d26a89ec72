/*
 * test_ctl_import.c - poplarctl import, message add and export from end to end, on maildrops of our
 * own: the corpus comes out as it went in, and what fails leaves what it says.
 *
 * Runs as anybody: the store user is whoever runs it. Reads tests/corpus from the repository's
 * root.
 */
#include "ctl_run.h"

#include <glob.h>
#include <sysexits.h>

enum { WORDS_MAX = 512 };

static void expect(int (*command)(struct ctl *), unsigned options, const char **words, int status,
                   const char *wanted)
{
    assert_int_equal(ctl_run(command, (struct ctl){.options = options}, words), status);
    if (strncmp(printed, wanted, strlen(wanted)) != 0 || (!*wanted && *printed))
        fail_msg("printed: %s", printed); /* reasons follow on the numbers */
}

static char *read_whole(const char *path, size_t *size)
{
    struct stat about;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &about) == 0);
    char *octets = base_alloc((size_t)about.st_size + 1);
    assert_int_equal(read(fd, octets, (size_t)about.st_size), about.st_size);
    close(fd);
    *size = (size_t)about.st_size;
    return octets;
}

/* What must come back: an independent, slow reading of the rule for line ends. */
static char *as_stored(const char *in, size_t size, size_t *stored)
{
    char *out = base_alloc(2 * size + 2);
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        if (in[i] == '\n' && (i == 0 || in[i - 1] != '\r'))
            out[n++] = '\r';
        out[n++] = in[i];
    }
    if (n > 0 && out[n - 1] != '\n') {
        out[n++] = '\r';
        out[n++] = '\n';
    }
    *stored = n;
    return out;
}

static void expect_same(const char *source, const char *exported, bool crlf)
{
    size_t size, wanted_size, got_size;
    char *in = read_whole(source, &size), *got = read_whole(exported, &got_size);
    char *wanted = as_stored(in, size, &wanted_size);
    if (!crlf) {
        char *again = as_stored(got, got_size, &got_size);
        free(got);
        got = again;
    }
    if (got_size != wanted_size || memcmp(got, wanted, got_size) != 0)
        fail_msg("%s came back changed as %s", source, exported);
    free(in);
    free(got);
    free(wanted);
}

static void corpus_comes_back(void **state)
{
    (void)state;
    const char *words[WORDS_MAX] = {"corpus"};
    glob_t sources = {0}, exported = {0};
    char wanted[sizeof printed];
    assert_int_equal(glob("tests/corpus/*/*.eml", 0, NULL, &sources), 0);
    assert_true(sources.gl_pathc > 200 && sources.gl_pathc < WORDS_MAX - 1);
    for (size_t i = 0; i < sources.gl_pathc; i++)
        words[i + 1] = sources.gl_pathv[i];
    expect(ctl_import, CTL_DRY_RUN, words, 0, "would import");
    strcpy(wanted, printed);
    expect(ctl_import, 0, words, 0, "imported");
    assert_string_equal(printed + strlen("imported"), wanted + strlen("would import"));
    wanted[strcspn(wanted, ",")] = '\0'; /* "would import N messages", for the exports */

    for (int crlf = 0; crlf < 2; crlf++) {
        const char *target = in_place(crlf ? "out-crlf" : "out");
        const char *all = in_place(crlf ? "out-crlf/new/*" : "out/new/*");
        const char *to[] = {"corpus", target, NULL};
        expect(ctl_export, crlf ? CTL_CRLF : 0, to, 0, "exported");
        assert_memory_equal(printed + strlen("exported"), wanted + strlen("would import"),
                            strlen(wanted + strlen("would import")));
        assert_int_equal(glob(all, 0, NULL, &exported), 0);
        assert_int_equal(exported.gl_pathc, sources.gl_pathc);
        for (size_t i = 0; i < sources.gl_pathc; i++)
            expect_same(sources.gl_pathv[i], exported.gl_pathv[i], crlf);
        globfree(&exported);
    }
    globfree(&sources);
}

static void one_place_twice(void **state)
{
    (void)state;
    const char *box = place_put("twice", "From a\nx\n\nFrom b\ny\n"), *other = in_place("./twice");
    const char *words[] = {"twice", box, in_place("link"), other, box, NULL};
    assert_int_equal(symlink(box, words[2]), 0);
    expect(ctl_import, 0, words, 0, "imported 2 messages");
}

static void wrong_path_leaves_nothing(void **state)
{
    (void)state;
    const char *good = place_put("good.mbox", "From a\nx\n\nFrom b\ny\n");
    const char *words[] = {"mistyped", good, "/nonexistent", NULL}, *user[] = {"mistyped", NULL};
    expect(ctl_import, 0, words, EX_NOINPUT, "");
    expect(ctl_message_list, 0, user, EX_NOUSER, "");
    words[2] = NULL;
    expect(ctl_import, CTL_DRY_RUN, words, 0,
           "would import 2 messages, 6 octets, 0 skipped, 0 there already\n");
    expect(ctl_message_list, 0, user, EX_NOUSER, "");
    expect(ctl_import, 0, words, 0, "imported 2 messages, 6 octets, 0 skipped, 0 there already\n");
}

static void limits_keep_what_fitted(void **state)
{
    (void)state;
    const char *mbox =
        place_put("five.mbox", "From a\n1\n\nFrom b\n2\n\nFrom c\n333333333\n\nFrom d\n4\n\n"
                               "From e\n5\n");
    const char *words[] = {"limited", mbox, NULL}, *user[] = {"limited", NULL};
    must_set(config, "store", "", "max_message", "8");
    must_set(config, "store", "", "quota_messages", "3");
    expect(ctl_import, 0, words, EX_DATAERR,
           "imported 3 messages, 9 octets, 1 skipped, 0 there already\n");
    expect(ctl_import, 0, words, EX_CANTCREAT,
           "imported 0 messages, 0 octets, 0 skipped, 2 there already\n");
    expect(ctl_import, CTL_NO_LIMITS | CTL_JSON, words, 0,
           "{\"messages\":2,\"octets\":14,\"skipped\":0,\"known\":3,\"kept_uidls\":0,");
    must_set(config, "store", "", "max_message", "50M");
    must_set(config, "store", "", "quota_messages", "0");
    assert_int_equal(ctl_run(ctl_message_list, (struct ctl){0}, user), 0);
    expect_printed("\n5 messages, 23 octets\n");
}

static void users_follow_the_rules(void **state)
{
    (void)state;
    const char *mbox = place_put("one.mbox", "From a\n1\n");
    const char *words[] = {"a/b", mbox, NULL};
    expect(ctl_import, 0, words, EX_NOUSER, "");
    words[0] = "root";
    expect(ctl_import, 0, words, EX_NOUSER, "");
    words[0] = "no-such-account";
    must_set(config, "auth", "", "require_nss", "yes");
    expect(ctl_import, 0, words, EX_NOUSER, "");
    must_set(config, "auth", "", "require_nss", "no");
    expect(ctl_import, 0, words, 0, "imported 1 message, 3 octets, 0 skipped, 0 there already\n");
}

/* Messages come from a pipe, which nobody may wait for while the store is locked, or a file. */
static void adds_one_message(void **state)
{
    (void)state;
    const char *user[] = {"added", NULL};
    int kept = dup(STDIN_FILENO), ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "S: 1\n\nx", 7), 7);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    expect(ctl_message_add, CTL_JSON, user, 0, "{\"id\":1}\n");
    expect(ctl_message_add, 0, user, EX_DATAERR, "");
    const char *path = place_put("message", "S: 2\n\ny\n");
    int file = open(path, O_RDONLY);
    dup2(file, STDIN_FILENO);
    close(file);
    expect(ctl_message_add, 0, user, 0, "");
    dup2(kept, STDIN_FILENO);
    close(kept);
    assert_int_equal(ctl_run(ctl_message_list, (struct ctl){0}, user), 0);
    expect_printed("\n2 messages, 22 octets\n");
}

static void export_spoils_nothing(void **state)
{
    (void)state;
    const char *mbox = place_put("x.mbox", "From a\n1\n"), *target = in_place("occupied");
    const char *words[] = {"exported", mbox, NULL}, *to[] = {"exported", target, NULL};
    expect(ctl_import, 0, words, 0, "imported 1 message, 3 octets, 0 skipped, 0 there already\n");
    assert_int_equal(mkdir(target, 0700), 0);
    const char *file = place_put("occupied/file", "precious");
    expect(ctl_export, 0, to, EX_CANTCREAT, "");
    to[1] = file;
    expect(ctl_export, 0, to, EX_CANTCREAT, "");
    /* A folder that leads elsewhere: the directory may be its user's, and we may be root. */
    unlink(file);
    const char *cur = in_place("occupied/cur"), *new = in_place("occupied/new");
    assert_int_equal(mkdir(cur, 0700), 0);
    assert_int_equal(symlink(place, new), 0);
    to[1] = target;
    expect(ctl_export, 0, to, EX_CANTCREAT, "");
}

static size_t count_in(const char *name)
{
    glob_t found;
    size_t n = glob(in_place(name), 0, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    return n;
}

/* What was seen on the old server is exported as seen again. */
static void seen_stays_seen(void **state)
{
    (void)state;
    const char *parts[] = {"seen", "seen/new", "seen/cur"};
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        assert_int_equal(mkdir(in_place(parts[i]), 0700), 0);
    place_put("seen/new/1.a", "a: 1\n\n");
    place_put("seen/cur/2.a:2,", "a: 2\n\n");
    place_put("seen/cur/3.a:2,FS", "a: 3\n\n");
    place_put("seen/cur/4.a:2,", "Status: RO\n\n");
    const char *mbox =
        place_put("seen.mbox", "From a\nStatus: RO\nb: 1\n\nFrom a\nStatus: O\nb: 2\n\n"
                               "From a\nb: 3\nStatus: R\n\n");
    const char *maildir = in_place("seen"), *target = in_place("seen.out");
    const char *words[] = {"seen", maildir, mbox, NULL}, *to[] = {"seen", target, NULL};
    expect(ctl_import, 0, words, 0, "imported 7 messages, 90 octets, 0 skipped, 0 there already\n");
    expect(ctl_export, 0, to, 0, "exported 7 messages, 90 octets, 0 skipped\n");
    assert_int_equal(count_in("seen.out/cur/*"), 3);
    assert_int_equal(count_in("seen.out/new/*"), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(corpus_comes_back),         cmocka_unit_test(one_place_twice),
        cmocka_unit_test(wrong_path_leaves_nothing), cmocka_unit_test(limits_keep_what_fitted),
        cmocka_unit_test(users_follow_the_rules),    cmocka_unit_test(adds_one_message),
        cmocka_unit_test(export_spoils_nothing),     cmocka_unit_test(seen_stays_seen),
    };
    return cmocka_run_group_tests(tests, ctl_run_begin, ctl_run_end);
}
